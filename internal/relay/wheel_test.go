package relay

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestTicksRoundUpLimitsAndRoundDownTimes(t *testing.T) {
	for _, tt := range []struct {
		d          time.Duration
		tick, upTo ticks
	}{
		{-1, 0, 0},
		{0, 0, 0},
		{1, 0, 1},
		{tickInterval - 1, 0, 1},
		{tickInterval, 1, 1},
		{tickInterval + 1, 1, 2},
		{25 * time.Second, 100, 100},
		{1<<63 - 1, never, never / 4},
	} {
		if got := tickOf(tt.d); got != tt.tick {
			t.Errorf("%v is in tick %d; want %d", tt.d, got, tt.tick)
		}
		if got := roundUp(tt.d); got != tt.upTo {
			t.Errorf("%v takes %d ticks; want %d", tt.d, got, tt.upTo)
		}
	}
}

// The wheel against a map, with times that pass in steps of 0 to some turns.
func TestWheelGivesEachRelayWhenItIsDue(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 0))
		now := ticks(random.IntN(1000))
		w, model := newWheel(now), make(map[*Relay]ticks)
		add := func(r *Relay) {
			at := now + ticks(random.IntN(3*numSlots)) - 5
			w.add(r, at)
			model[r] = max(at, now+1)
		}
		for range 300 {
			for range random.IntN(20) {
				add(new(Relay))
			}
			for r := range model {
				if random.IntN(10) == 0 {
					w.remove(r)
					w.remove(r) // does nothing
					w.add(r, now+1)
					delete(model, r)
				}
			}
			if random.IntN(20) == 0 {
				now += ticks(random.IntN(5 * numSlots))
			} else {
				now += ticks(random.IntN(4))
			}
			for _, r := range w.due(now) {
				if at, ok := model[r]; !ok || at > now {
					t.Fatalf("seed %d: at %d the wheel gives a relay that is due at %d, %t", seed, now, at, ok)
				}
				delete(model, r)
				if random.IntN(3) > 0 {
					add(r)
				}
			}
			for r, at := range model {
				if at <= now {
					t.Fatalf("seed %d: at %d the wheel has kept a relay that is due at %d (%+v)", seed, now, at, r.place)
				}
			}
			if w.len != len(model) {
				t.Fatalf("seed %d: the wheel has %d relays; want %d", seed, w.len, len(model))
			}
		}
	}
}

// After a pause the answers of the peers may be here, and not be read yet.
func TestWheelIsLookedAtATickLaterAfterAPause(t *testing.T) {
	w := newWheel(5)
	w.add(new(Relay), 7)
	w.add(new(Relay), 8)
	for _, tt := range []struct {
		now   ticks
		looks bool
		due   int
	}{{7, true, 1}, {9, true, 1}, {11, true, 0}, {100, false, 0}, {101, true, 0}} {
		if looks := w.beginCheck(tt.now); looks != tt.looks {
			t.Errorf("at tick %d it is looked at: %t", tt.now, looks)
		}
		if tt.looks {
			if due := w.due(tt.now); len(due) != tt.due {
				t.Errorf("at tick %d %d are due; want %d", tt.now, len(due), tt.due)
			}
		}
	}
	w.add(new(Relay), 10_000) // it was empty
	if !w.beginCheck(10_001) {
		t.Error("it was empty, and is not looked at")
	}
	for now := ticks(10_010); now < 10_100; now += 10 { // the program is slow
		first, second := w.beginCheck(now), w.beginCheck(now+5)
		if first || !second {
			t.Fatalf("looks 5 ticks apart: %t, %t; want every other one", first, second)
		}
	}
}

func TestRelayThatIsNeverDueIsInNoSlot(t *testing.T) {
	w := newWheel(0)
	r := new(Relay)
	w.add(r, never)
	if w.len != 0 {
		t.Errorf("the wheel has %d relays; want none", w.len)
	}
	w.remove(r)
}
