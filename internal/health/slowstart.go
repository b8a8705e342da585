package health

import "time"

// minShare is the part of its weight with which a backend begins its slow start. With none
// it would get no client, and could not show that it works.
const minShare = 0.1

// SlowShare returns the part of its weight that a backend has for so long after the beginning
// of a slow start that takes duration.
func SlowShare(elapsed, duration time.Duration) float64 {
	if elapsed >= duration {
		return 1
	}
	return minShare + (1-minShare)*max(float64(elapsed), 0)/float64(duration)
}
