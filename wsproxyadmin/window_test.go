package wsproxyadmin

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wsproxy/wsproxy"
)

// all takes so long from the request to the 101.
func all(d time.Duration) wsproxy.UpgradeTimes { return wsproxy.UpgradeTimes{Answer: d} }

func TestWindowCountsTheLastSecondAndMinute(t *testing.T) {
	w := new(window)
	w.recordOpened(at(0), all(0)) // more than a minute ago
	for i := range 30 {
		w.recordOpened(at(50), all(0))
		w.recordEnded(at(51), wsproxy.SideClient, wsproxy.CauseLost)
		w.recordRefused(at(52+float64(i)/30), wsproxy.ReasonRate)
	}
	w.recordEnded(at(69.9), wsproxy.SideClient, wsproxy.CauseLost)
	w.recordEnded(at(69), wsproxy.SideProxy, wsproxy.CauseDrain)
	w.recordRefused(at(69.5), wsproxy.ReasonOrigin)
	w.recordRefused(at(70), wsproxy.ReasonOrigin) // the current second is not whole
	r := w.recent(at(70.9))
	if got, want := r.opens(100), (rate{100, 0, 30}); got != want {
		t.Errorf("opens() = %+v; want %+v", got, want)
	}
	gotEnds := r.ends([]wsproxy.EndCount{{Side: wsproxy.SideProxy, Cause: wsproxy.CauseDrain, Count: 5}, {Side: wsproxy.SideClient, Cause: wsproxy.CauseLost, Count: 60}, {Side: wsproxy.SideBackend, Cause: wsproxy.CauseLost, Count: 1}})
	wantEnds := ends{rate{66, 2, 32}, []endRate{
		{wsproxy.SideProxy, wsproxy.CauseDrain, rate{5, 1, 1}}, {wsproxy.SideClient, wsproxy.CauseLost, rate{60, 1, 31}}, {wsproxy.SideBackend, wsproxy.CauseLost, rate{1, 0, 0}},
	}}
	if diff := cmp.Diff(wantEnds, gotEnds, cmp.AllowUnexported(ends{}, endRate{})); diff != "" {
		t.Errorf("ends() (-want +got):\n%s", diff)
	}
	gotRefusals := r.refusals(33, []wsproxy.RefusalCount{{Reason: wsproxy.ReasonOrigin, Count: 2}, {Reason: wsproxy.ReasonRate, Count: 31}})
	wantRefusals := refusals{rate{33, 1, 31}, []refusalRate{{wsproxy.ReasonOrigin, rate{2, 1, 1}}, {wsproxy.ReasonRate, rate{31, 0, 30}}}}
	if diff := cmp.Diff(wantRefusals, gotRefusals, cmp.AllowUnexported(refusals{}, refusalRate{})); diff != "" {
		t.Errorf("refusals() (-want +got):\n%s", diff)
	}
}

func TestWindowHistoryHasAValueForEachWholeSecond(t *testing.T) {
	w := new(window)
	w.recordOpened(at(0), all(20*time.Millisecond))
	w.recordOpened(at(0), all(20*time.Millisecond))
	w.recordEnded(at(2), wsproxy.SideClient, wsproxy.CauseClosed)
	w.recordRefused(at(2), wsproxy.ReasonRate)
	w.recordOpened(at(3), all(0)) // not whole
	now := at(3.5)
	tunnels := w.recent(now).tunnelsBefore(7)
	h := w.history(0, now, tunnels)
	if h.To != at(2).Unix() || !slices.Equal(h.Tunnels, []int{7, 7, 6}) || !slices.Equal(h.Opened, []uint32{2, 0, 0}) ||
		!slices.Equal(h.Ended, []uint32{0, 0, 1}) || !slices.Equal(h.Refused, []uint32{0, 0, 1}) {
		t.Errorf("history() = %+v; want the three seconds, at the end of which 7, 7 and 6 tunnels were open", h)
	}
	if h.UpgradeP99MS[0] == nil || h.UpgradeP99MS[1] != nil {
		t.Errorf("history() has the times %v; want one for the first second alone", h.UpgradeP99MS)
	}
	if h := w.history(at(1).Unix(), now, tunnels); !slices.Equal(h.Tunnels, []int{6}) {
		t.Errorf("history() after the second second has %v; want that of the third", h.Tunnels)
	}
	if h := w.history(at(2).Unix(), now, tunnels); h.Tunnels == nil || len(h.Tunnels) != 0 {
		t.Errorf("history() after the last second has %v; want an empty list", h.Tunnels)
	}
}

func TestWindowFollowsAClockThatIsSetBack(t *testing.T) {
	w := &window{began: at(1000).Unix(), newest: at(1000).Unix()}
	w.recent(at(1000.5))
	w.recordOpened(at(1000.9), all(0))
	w.recordOpened(at(997), all(0)) // it is only late
	w.recent(at(500))               // set back to before the program began
	w.recordOpened(at(501), all(0))
	h := w.history(0, at(503), 4)
	if !slices.Equal(h.Tunnels, []int{3, 4, 4}) || !slices.Equal(h.Opened, []uint32{0, 1, 0}) {
		t.Errorf("history() = %+v; want three seconds, at the end of which 3, 4 and 4 tunnels were open", h)
	}
	for range 2 {
		for i := range 30 {
			w.recordOpened(at(600+float64(i)), all(0))
		}
	}
	if got, want := w.recent(at(630)).opens(0), (rate{0, 1, 30}); got != want {
		t.Errorf("after seconds that came twice opens() = %+v; want %+v", got, want)
	}
}

func TestWindowForgetsWhatIsOlderThanTwoMinutes(t *testing.T) {
	w := new(window)
	for i := range 1000 {
		w.recordOpened(at(float64(i)), all(0))
	}
	if h := w.history(0, at(1000), 500); len(h.Opened) != historySeconds || slices.Contains(h.Opened, 0) || h.Tunnels[0] != 500-historySeconds+1 {
		t.Errorf("history() has %d values, %v tunnels at first; want %d, without a 0", len(h.Opened), h.Tunnels[0], historySeconds)
	}
	if h := w.history(0, at(5000), 500); len(h.Opened) != historySeconds || slices.Max(h.Opened) != 0 || slices.Min(h.Tunnels) != 500 {
		t.Errorf("history() after a long time has %v; want nothing but zeros", h.Opened)
	}
	if r := w.recent(at(5000)); r.minute.opened != 0 {
		t.Errorf("recent() after a long time has %d opened; want none", r.minute.opened)
	}
}

func TestWindowEstimatesQuantiles(t *testing.T) {
	for _, tt := range []struct {
		name      string
		times     []time.Duration
		p50, p99  float64 // in milliseconds
		tolerance float64
	}{
		{"one", []time.Duration{40 * time.Millisecond}, 40, 50, 0.01},
		{"a slow one", append(slices.Repeat([]time.Duration{4 * time.Millisecond}, 98), 2*time.Second, 2*time.Second), 4, 1750, 0.2},
		{"zero", []time.Duration{0}, 0.125, 0.2475, 0.01},
		{"longer than all bounds", []time.Duration{time.Hour}, 10_000, 10_000, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := new(window)
			for _, d := range tt.times {
				w.recordOpened(at(0), all(d))
			}
			q := w.recent(at(1)).upgrade().quantiles
			isNear := func(got, want float64) bool { return math.Abs(got-want) <= want*tt.tolerance }
			if q.Count != uint64(len(tt.times)) || !isNear(*q.P50MS, tt.p50) || !isNear(*q.P99MS, tt.p99) {
				t.Errorf("times %v: count %d, p50 %v, p99 %v; want %v and %v", tt.times, q.Count, *q.P50MS, *q.P99MS, tt.p50, tt.p99)
			}
		})
	}
}

func TestWindowHasThePhasesOfUpgrades(t *testing.T) {
	w := new(window)
	w.recordOpened(at(0), wsproxy.UpgradeTimes{Admit: time.Millisecond, Dial: 10 * time.Millisecond, Answer: 100 * time.Millisecond})
	w.recordOpened(at(0), wsproxy.UpgradeTimes{Admit: time.Millisecond, Queue: time.Second, Dial: 10 * time.Millisecond, Answer: 100 * time.Millisecond})
	u := w.recent(at(1)).upgrade()
	want := map[string]struct {
		count uint64
		p99   float64
	}{"admit": {2, 1}, "queue": {1, 1000}, "dial": {2, 10}, "answer": {2, 100}}
	for _, p := range u.Phases {
		if w := want[p.Phase]; p.Count != w.count || *p.P99MS > w.p99 || *p.P99MS < w.p99*0.7 {
			t.Errorf("%s has count %d, p99 %v; want %d, about %v", p.Phase, p.Count, *p.P99MS, w.count, w.p99)
		}
	}
	if len(u.Phases) != 4 {
		t.Errorf("there are %d phases; want 4", len(u.Phases))
	}
	if p := new(window).recent(at(1)).upgrade(); p.P50MS != nil || p.Phases[0].P99MS != nil {
		t.Errorf("quantiles of nothing are %+v; want null", p)
	}
}
