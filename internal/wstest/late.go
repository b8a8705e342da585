package wstest

import (
	"runtime"
	"slices"
	"sync"
	"time"
)

// The program's lateness: how long a goroutine has waited for a processor, in all, after
// short sleeps and behind others that could run. On a machine with too much to do that is
// most of the time.
var late struct {
	mu   sync.Mutex
	at   []time.Time     // when a sleep ended late, in order
	sums []time.Duration // lateness up to then
}

// MeasureLateness begins to measure how late goroutines are, for [Took]. It starts a
// goroutine that never ends; a TestMain calls it once, before it checks for leaks.
func MeasureLateness() { go measureLateness() }

func measureLateness() {
	const nap = 5 * time.Millisecond
	for {
		start := time.Now()
		time.Sleep(nap)
		runtime.Gosched()
		end := time.Now()
		if d := end.Sub(start) - nap; d > time.Millisecond {
			addLateness(end, d)
		}
	}
}

func addLateness(at time.Time, d time.Duration) {
	late.mu.Lock()
	defer late.mu.Unlock()
	if n := len(late.sums); n > 0 {
		d += late.sums[n-1]
	}
	late.at, late.sums = append(late.at, at), append(late.sums, d)
}

// Took returns how long something took from start to end on a machine that would have
// had nothing else to do: the time between them without that in which goroutines were
// kept waiting. It is for upper bounds, which would otherwise depend on what else runs.
func Took(start, end time.Time) time.Duration {
	return max(end.Sub(start)-(latenessUntil(end)-latenessUntil(start)), 0)
}

func latenessUntil(t time.Time) time.Duration {
	late.mu.Lock()
	defer late.mu.Unlock()
	n, isThere := slices.BinarySearchFunc(late.at, t, time.Time.Compare)
	if isThere {
		n++
	}
	if n == 0 {
		return 0
	}
	return late.sums[n-1]
}
