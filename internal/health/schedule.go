package health

import (
	"slices"
	"time"
)

// firstSpread is the time over which the first probes of new backends are spread: they must
// come soon, and not all at once.
const firstSpread = time.Second

// A Schedule decides when the next probe of each backend begins. A key stands for a backend.
//
// The first probe of a new backend begins within the interval, at most firstSpread. The time
// from there to its second one is chosen such that the second ones of all backends that came
// together are spread over the interval. From one probe to the next it is the interval,
// with a jitter of 10 %, or the time that the probe takes, if that is longer.
type Schedule[K comparable] struct {
	interval time.Duration
	maxRun   time.Duration
	entries  []entry[K] // in the order of the set
}

// An entry is one backend of a Schedule.
type entry[K comparable] struct {
	key       K
	due       time.Duration // when the next probe may begin
	gap       time.Duration // from the next probe to the one after it, without jitter
	start     time.Duration // of the last probe
	isRunning bool
}

// NewSchedule returns a Schedule without backends. A probe that runs for longer than maxRun
// does not count any longer for the bound of the probes that run at once.
func NewSchedule[K comparable](interval, maxRun time.Duration) *Schedule[K] {
	const maxInterval = 1 << 61 // the end of the next interval is a Duration
	return &Schedule[K]{interval: min(interval, maxInterval), maxRun: min(maxRun, maxInterval)}
}

// Replace makes keys the set at now. Random is a number from 0 up to 1. It returns the keys
// that were in the set before and are not in it any longer.
func (s *Schedule[K]) Replace(now time.Duration, keys []K, random float64) (removed []K) {
	old := make(map[K]entry[K], len(s.entries))
	for _, e := range s.entries {
		old[e.key] = e
	}
	entries := make([]entry[K], len(keys))
	var added []*entry[K]
	for i, k := range keys {
		e, isKnown := old[k]
		if !isKnown {
			added = append(added, &entries[i])
		}
		e.key = k
		entries[i] = e
		delete(old, k)
	}
	for i, e := range added {
		first := min(s.interval, firstSpread)
		e.due = now + scale(first, (float64(i)+random)/float64(len(added)))
		e.gap = first + scale(s.interval-first, float64(i+1)/float64(len(added)))
	}
	for _, e := range s.entries {
		if _, isOld := old[e.key]; isOld {
			removed = append(removed, e.key)
		}
	}
	s.entries = entries
	return removed
}

// Due returns the backend whose probe is to begin next, if one may begin at now. Start
// follows.
func (s *Schedule[K]) Due(now time.Duration) (k K, ok bool) {
	e := s.earliest()
	if e == nil || e.due > now || s.numRunning(now) >= s.maxRunning() {
		return k, false
	}
	return e.key, true
}

// Start records that the probe of k begins. Random is a number from 0 up to 1. One Finish
// follows.
func (s *Schedule[K]) Start(now time.Duration, k K, random float64) {
	e := s.find(k)
	e.start, e.isRunning = now, true
	e.due = now + scale(e.gap, 0.9+0.2*random)
	e.gap = s.interval
}

// Finish records that the probe of k has ended. It does nothing if k is not in the set.
func (s *Schedule[K]) Finish(k K) {
	if e := s.find(k); e != nil {
		e.isRunning = false
	}
}

// Wait returns how long after now Due may next return a backend, if nothing else happens. It
// returns false if that is never.
func (s *Schedule[K]) Wait(now time.Duration) (time.Duration, bool) {
	e := s.earliest()
	if e == nil {
		return 0, false
	}
	at := e.due
	if s.numRunning(now) >= s.maxRunning() {
		at = max(at, s.firstOverdue(now))
	}
	return max(at-now, 0), true
}

// maxRunning returns how many probes may run at once.
func (s *Schedule[K]) maxRunning() int { return max(16, len(s.entries)/4) }

// numRunning returns how many probes run at now. Overdue ones do not count.
func (s *Schedule[K]) numRunning(now time.Duration) int {
	n := 0
	for i := range s.entries {
		if e := &s.entries[i]; e.isRunning && now < e.start+s.maxRun {
			n++
		}
	}
	return n
}

// firstOverdue returns when the first one of the probes that run at now is overdue.
func (s *Schedule[K]) firstOverdue(now time.Duration) time.Duration {
	var first time.Duration
	for i := range s.entries {
		e := &s.entries[i]
		if at := e.start + s.maxRun; e.isRunning && now < at && (first == 0 || at < first) {
			first = at
		}
	}
	return first
}

// earliest returns the entry without a running probe that is due first, or nil.
func (s *Schedule[K]) earliest() *entry[K] {
	var first *entry[K]
	for i := range s.entries {
		if e := &s.entries[i]; !e.isRunning && (first == nil || e.due < first.due) {
			first = e
		}
	}
	return first
}

func (s *Schedule[K]) find(k K) *entry[K] {
	i := slices.IndexFunc(s.entries, func(e entry[K]) bool { return e.key == k })
	if i < 0 {
		return nil
	}
	return &s.entries[i]
}

func scale(d time.Duration, factor float64) time.Duration {
	return time.Duration(float64(d) * factor)
}
