// Package pace spreads the ends of many tunnels over a time, so that their clients do not all
// come back at once.
package pace

import "time"

const (
	perSecond = 1000 // closes a second, if no time is given
	maxShare  = 0.6  // of the time left: the last tunnels need the rest to end
)

// NoDeadline stands for the time left of a context without a deadline.
const NoDeadline = 15 * time.Second

// Window returns the time over which n closes are spread. If over is positive, it is that
// time. If over is 0, there are 1,000 closes a second, but all of them within 60 % of left. If
// over is negative, the window is 0: all closes are due at once.
func Window(n int, over, left time.Duration) time.Duration {
	if over != 0 {
		return max(over, 0)
	}
	share := time.Duration(float64(max(left, 0)) * maxShare)
	seconds := float64(n) / perSecond
	if seconds >= share.Seconds() {
		return share
	}
	return time.Duration(seconds * float64(time.Second))
}

// Due returns when close i of n, counted from 0, is due after the beginning of the window:
// each at a random point of its own slot, the nth part of the window. Random is a number from
// 0 up to 1.
func Due(i, n int, window time.Duration, random float64) time.Duration {
	due := (float64(i) + random) / float64(n) * float64(window)
	if due >= float64(window) { // because of rounding
		return window
	}
	return time.Duration(due)
}
