package health

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// A probing simulates the probes of a Schedule. It has no clock: the time goes on to the next
// event.
type probing struct {
	*Schedule[int]
	now    time.Duration
	jitter float64                        // of each Start
	takes  func(key, n int) time.Duration // how long the nth probe of key takes; nil: no time
	ends   map[int]time.Duration          // of running probes
	starts map[int][]time.Duration        // by key
	most   int                            // probes at once
}

func newProbing(interval, maxRun time.Duration, n int) *probing {
	p := &probing{
		Schedule: NewSchedule[int](interval, maxRun), jitter: 0.5,
		ends: make(map[int]time.Duration), starts: make(map[int][]time.Duration),
	}
	p.set(n)
	return p
}

// set makes the keys below n the set.
func (p *probing) set(n int) {
	keys := make([]int, n)
	for i := range keys {
		keys[i] = i
	}
	p.Replace(p.now, keys, 0)
}

// run simulates until the time end.
func (p *probing) run(end time.Duration) {
	for {
		for {
			key, ok := p.Due(p.now)
			if !ok {
				break
			}
			p.starts[key] = append(p.starts[key], p.now)
			p.Start(p.now, key, p.jitter)
			p.ends[key] = p.now
			if p.takes != nil {
				p.ends[key] += p.takes(key, len(p.starts[key]))
			}
			p.most = max(p.most, len(p.ends))
		}
		next := end
		if wait, ok := p.Wait(p.now); ok {
			next = min(next, p.now+max(wait, 1))
		}
		for _, at := range p.ends {
			next = min(next, max(at, p.now))
		}
		if p.now = next; p.now >= end {
			return
		}
		for key, at := range p.ends {
			if at <= p.now {
				p.Finish(key)
				delete(p.ends, key)
			}
		}
	}
}

func TestScheduleOfOneBackend(t *testing.T) {
	for _, tt := range []struct {
		name     string
		interval time.Duration
		jitter   float64
		takes    []time.Duration // the nth probe; the last one is repeated
		end      time.Duration
		want     []time.Duration
	}{
		{"each interval", 10 * s, 0.5, nil, 35 * s, []time.Duration{0, 10 * s, 20 * s, 30 * s}},
		{"least jitter", 10 * s, 0, nil, 30 * s, []time.Duration{0, 9 * s, 18 * s, 27 * s}},
		{"most jitter", 10 * s, 1, nil, 35 * s, []time.Duration{0, 11 * s, 22 * s, 33 * s}},
		{"slow, but within the interval", 10 * s, 0.5, []time.Duration{9 * s}, 25 * s, []time.Duration{0, 10 * s, 20 * s}},
		{"slower than the interval", 10 * s, 0.5, []time.Duration{12 * s}, 40 * s, []time.Duration{0, 12 * s, 24 * s, 36 * s}},
		{"slow once", 10 * s, 0.5, []time.Duration{25 * s, 0}, 50 * s, []time.Duration{0, 25 * s, 35 * s, 45 * s}},
		{"never returns", 10 * s, 0.5, []time.Duration{1000 * s}, 100 * s, []time.Duration{0}},
		{"short interval", 100 * ms, 0.5, nil, 350 * ms, []time.Duration{0, 100 * ms, 200 * ms, 300 * ms}},
		{"endless interval", 1<<63 - 1, 1, nil, 1 << 60, []time.Duration{0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProbing(tt.interval, 100*time.Hour, 1)
			p.jitter = tt.jitter
			if tt.takes != nil {
				p.takes = func(_, n int) time.Duration { return tt.takes[min(n, len(tt.takes))-1] }
			}
			p.run(tt.end)
			if got := p.starts[0]; !slices.Equal(rounded(got), tt.want) {
				t.Errorf("probes begin at %v; want %v", got, tt.want)
			}
		})
	}
}

func TestScheduleSpreadsProbes(t *testing.T) {
	for _, tt := range []struct {
		interval      time.Duration
		first, second []time.Duration // of five backends
	}{
		{10 * s, []time.Duration{0, 200 * ms, 400 * ms, 600 * ms, 800 * ms}, []time.Duration{2800 * ms, 4800 * ms, 6800 * ms, 8800 * ms, 10800 * ms}},
		{1 * s, []time.Duration{0, 200 * ms, 400 * ms, 600 * ms, 800 * ms}, []time.Duration{1000 * ms, 1200 * ms, 1400 * ms, 1600 * ms, 1800 * ms}},
		{500 * ms, []time.Duration{0, 100 * ms, 200 * ms, 300 * ms, 400 * ms}, []time.Duration{500 * ms, 600 * ms, 700 * ms, 800 * ms, 900 * ms}},
	} {
		p := newProbing(tt.interval, 4*s, 5)
		p.run(3 * tt.interval)
		for i := range 5 {
			got := rounded(p.starts[i])
			got = got[:min(len(got), 3)]
			want := []time.Duration{tt.first[i], tt.second[i], tt.second[i] + tt.interval}
			if !slices.Equal(got, want) {
				t.Errorf("interval %v: probes of backend %d begin at %v; want %v", tt.interval, i, got, want)
			}
		}
	}
}

func TestScheduleUsesRandomNumberForFirstProbe(t *testing.T) {
	for random, want := range map[float64]time.Duration{0: 0, 0.25: 250 * ms, 0.999: 999 * ms} {
		sch := NewSchedule[int](10*s, 4*s)
		sch.Replace(5*s, []int{1}, random)
		if wait, ok := sch.Wait(5 * s); !ok || rounded([]time.Duration{wait})[0] != want {
			t.Errorf("random %v: Wait() = %v, %v; want %v", random, wait, ok, want)
		}
	}
}

func TestScheduleBoundsProbesAtOnce(t *testing.T) {
	for _, tt := range []struct{ backends, want int }{{1, 1}, {16, 16}, {17, 16}, {64, 16}, {68, 17}, {100, 25}, {1000, 250}} {
		p := newProbing(10*s, 4*s, tt.backends)
		p.takes = func(_, _ int) time.Duration { return 3 * s }
		p.run(100 * s)
		if p.most != tt.want {
			t.Errorf("%d backends: %d probes at once; want %d", tt.backends, p.most, tt.want)
		}
		for i := range tt.backends {
			if n := len(p.starts[i]); n < 6 { // the bound makes each of them wait, and none for ever
				t.Errorf("%d backends: backend %d has %d probes in 100 s; want 6 or more", tt.backends, i, n)
			}
		}
	}
}

func TestScheduleGoesOnBesideProbesThatDoNotReturn(t *testing.T) {
	p := newProbing(10*s, 4*s, 64)
	p.takes = func(key, _ int) time.Duration {
		if key < 40 {
			return 1000 * s
		}
		return 0
	}
	p.run(100 * s)
	for i := range 64 {
		switch n := len(p.starts[i]); {
		case i < 40 && n != 1:
			t.Errorf("backend %d does not return, and has %d probes; want 1", i, n)
		case i >= 40 && n < 9:
			t.Errorf("backend %d has %d probes in 100 s; want 9 or more", i, n)
		}
	}
}

func TestScheduleFollowsSet(t *testing.T) {
	p := newProbing(10*s, 4*s, 2)
	p.run(15 * s)
	if got := p.Replace(p.now, []int{7, 1}, 0); !slices.Equal(got, []int{0}) {
		t.Errorf("Replace() = %v; want the removed backend 0", got)
	}
	p.run(40 * s)
	for key, want := range map[int][]time.Duration{
		0: {0, 5500 * ms},                                 // and not any longer
		1: {500 * ms, 10500 * ms, 20500 * ms, 30500 * ms}, // as if nothing had happened
		7: {15 * s, 25 * s, 35 * s},                       // soon
	} {
		if got := rounded(p.starts[key]); !slices.Equal(got, want) {
			t.Errorf("probes of backend %d begin at %v; want %v", key, got, want)
		}
	}
	p.Finish(0) // a probe that was running when its backend was removed
	if got := p.Replace(p.now, nil, 0); !slices.Equal(got, []int{7, 1}) {
		t.Errorf("Replace() = %v; want 7 and 1", got)
	}
	if wait, ok := p.Wait(p.now); ok {
		t.Errorf("Wait() of an empty set = %v; want none", wait)
	}
}

// rounded removes what floating point adds.
func rounded(times []time.Duration) []time.Duration {
	r := make([]time.Duration, len(times))
	for i, at := range times {
		r[i] = at.Round(ms)
	}
	return r
}

func BenchmarkScheduleDue(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := newProbing(10*s, 4*s, n)
			for b.Loop() {
				p.Due(0)
			}
		})
	}
}
