package wstest

import (
	"testing"
	"time"
)

func TestTookLeavesLatenessOut(t *testing.T) {
	start := time.Now() // nothing else measures in the tests of this package
	after := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	addLateness(after(100), 60*time.Millisecond/numWaits)
	addLateness(after(200), 30*time.Millisecond/numWaits)
	for _, tt := range []struct{ from, to, want int }{
		{0, 50, 50},
		{0, 100, 40},
		{0, 150, 90},
		{100, 200, 70},
		{0, 300, 210},
		{150, 160, 10},
		{190, 200, 0}, // more of it than there was time: it began before
	} {
		if got := Took(after(tt.from), after(tt.to)); got != time.Duration(tt.want)*time.Millisecond {
			t.Errorf("from %d to %d ms took %v; want %d ms", tt.from, tt.to, got, tt.want)
		}
	}
}
