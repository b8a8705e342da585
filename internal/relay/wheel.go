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

// numSlots is how many ticks a turn of a wheel takes: a minute. A relay that is due later
// is passed over in each turn.
const numSlots = 256

// A wheel has the relays of an engine or a loop that have limits of time while they are
// open, by the tick at which each is looked at next. So none needs a timer, and a look at a
// tick costs nothing for those that are not due.
type wheel struct {
	slots [numSlots][]*Relay
	last  ticks // the last tick that was taken
	len   int

	looked    ticks // when beginLook was called last, or the wheel was empty
	isDelayed bool  // it returned false
}

// A place is where a relay is in a wheel. Its owner is the wheel's.
type place struct {
	at    ticks // when the relay is due; never if it is not looked at any more
	index int32 // in its slot, plus 1; 0 if it is in none
}

// newWheel returns a wheel that begins after tick now.
func newWheel(now ticks) *wheel { return &wheel{last: now, looked: now} }

// maxGap is how many ticks are between two looks, unless the program was held up.
const maxGap = 2

// beginLook is called at each tick. It reports whether the relays that are due are looked at:
// not if the program was held up, as it is while its machine is suspended. Bytes that came
// meanwhile are read until the next tick.
func (w *wheel) beginLook(now ticks) bool {
	w.isDelayed = !w.isDelayed && now > w.looked+maxGap
	w.looked = now
	return !w.isDelayed
}

// add makes r due at a tick, or at the next one if that has passed. It does nothing if r was
// removed, or if it is never due again.
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
		w.looked = r.place.at // there were no looks
	}
	slot := &w.slots[r.place.at%numSlots]
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

func (w *wheel) unlink(r *Relay) {
	slot := &w.slots[r.place.at%numSlots]
	last := len(*slot) - 1
	moved := (*slot)[last]
	(*slot)[r.place.index-1] = moved
	moved.place.index = r.place.index
	(*slot)[last] = nil
	*slot = (*slot)[:last]
	r.place.index = 0
	w.len--
}

// due takes out those that are due up to tick now.
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
