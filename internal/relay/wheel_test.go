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

func TestRelayThatIsNeverDueIsInNoSlot(t *testing.T) {
	w := newWheel(0)
	r := new(Relay)
	w.add(r, never)
	if w.len != 0 {
		t.Errorf("the wheel has %d relays; want none", w.len)
	}
	w.remove(r)
}
