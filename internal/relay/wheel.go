package relay

import (
	"math"
	"time"
)

// ticks is a time since the engine began, or a length of time, in units of tickInterval.
// Tick n is the time from n to n+1 of them.
type ticks int32

// never is later than all ticks that come.
const never ticks = math.MaxInt32

// tickOf returns the tick in which d is.
func tickOf(d time.Duration) ticks { return ticks(min(d/tickInterval, time.Duration(never))) }

// roundUp returns d in ticks, or a little more. A limit of d that began in tick n has passed
// at the end of tick n + roundUp(d).
func roundUp(d time.Duration) ticks {
	if d <= 0 {
		return 0
	}
	return ticks(min((d-1)/tickInterval+1, time.Duration(never/4)))
}

// numSlots is how many ticks a turn of a wheel takes: about a minute. A relay that is due later is
// passed over in each turn before.
const numSlots = 256

// A wheel is a timing wheel: it has the relays of a loop, or all portable ones, that have limits
// of time while they are open, by the tick at which the next check of each is due. So none needs
// a timer, and a tick costs nothing for most of those that are not due.
type wheel struct {
	slots [numSlots][]*Relay
	last  ticks // the last tick whose relays were taken out
	len   int   // the number of relays in all slots

	checked   ticks // when beginCheck was called last, or the wheel was empty
	isDelayed bool  // it returned false
}

// A place is where a relay is in a wheel. What guards the wheel guards it too.
type place struct {
	at    ticks // when the relay is due; never after remove, or if no check follows
	index int32 // in its slot, plus 1; 0 if it is in none
}

// newWheel returns a wheel that begins after tick now.
func newWheel(now ticks) *wheel { return &wheel{last: now, checked: now} }

// maxGap is how many ticks are between two checks, unless the program was held up.
const maxGap = 2

// beginCheck is called at each tick. It reports whether those that are due are to be checked:
// not if the program was held up, as it is while its machine is suspended. What has come
// meanwhile is read until the next tick.
func (w *wheel) beginCheck(now ticks) bool {
	w.isDelayed = !w.isDelayed && now > w.checked+maxGap
	w.checked = now
	return !w.isDelayed
}

// add makes r due at a tick, or at the next one if that has passed. It does nothing if r was
// removed, or if at is never.
func (w *wheel) add(r *Relay, at ticks) {
	if r.place.at == never {
		return
	}
	r.place.at = at
	if at == never {
		return
	}
	r.place.at = max(at, w.last+1)
	if w.len == 0 {
		w.checked = r.place.at // there were no checks
	}
	slot := &w.slots[r.place.at%numSlots]
	if len(*slot) == cap(*slot) { // grow by less than append does
		*slot = append(make([]*Relay, 0, len(*slot)+len(*slot)/8+4), *slot...)
	}
	*slot = append(*slot, r)
	r.place.index = int32(len(*slot))
	w.len++
}

// remove takes r out. It is not added again.
func (w *wheel) remove(r *Relay) {
	if r.place.index > 0 {
		w.unlink(r)
	}
	r.place.at = never
}

// unlink takes r out of its slot.
func (w *wheel) unlink(r *Relay) {
	slot := &w.slots[r.place.at%numSlots]
	last := len(*slot) - 1
	moved := (*slot)[last]
	(*slot)[r.place.index-1] = moved
	moved.place.index = r.place.index
	(*slot)[last] = nil
	if *slot = (*slot)[:last]; last == 0 {
		*slot = nil
	}
	r.place.index = 0
	w.len--
}

// due takes out the relays that are due up to tick now, and returns them.
func (w *wheel) due(now ticks) (due []*Relay) {
	for first := max(w.last+1, now-numSlots+1); first <= now; first++ {
		slot := w.slots[first%numSlots]
		for i := len(slot) - 1; i >= 0; i-- {
			if r := slot[i]; r.place.at <= now {
				due = append(due, r)
				w.unlink(r)
			}
		}
	}
	w.last = max(w.last, now)
	return due
}
