package health

import "testing"

func TestCheckCountsProbesInARow(t *testing.T) {
	for _, tt := range []struct {
		name       string
		fall, rise int
		probes     string // + passed, - failed
		want       string // after each: + not failed, - failed
	}{
		{"passes", 3, 2, "+++", "+++"},
		{"first failure alone counts", 3, 2, "-", "-"},
		{"first failure, then one pass too few", 3, 2, "-+-+-+", "------"},
		{"first failure, then back", 3, 2, "-++", "--+"},
		{"fall after a pass", 3, 2, "+---", "+++-"},
		{"a pass ends a row of failures", 3, 2, "+--+--+---", "+++++++++-"},
		{"a failure ends a row of passes", 3, 2, "+---+-+-++", "+++------+"},
		{"down and up again", 3, 2, "+---++---++", "+++--+++--+"},
		{"failures while failed", 3, 2, "-----++", "------+"},
		{"each probe decides", 1, 1, "+-+--++", "+-+--++"},
		{"asymmetric", 2, 4, "+--+++-++++", "++--------+"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c Check
			if c.IsFailed() {
				t.Error("a Check without a probe is failed; want not failed")
			}
			got := ""
			for _, probe := range tt.probes {
				if c = c.Record(probe == '+', tt.fall, tt.rise); c.IsFailed() {
					got += "-"
				} else {
					got += "+"
				}
			}
			if got != tt.want {
				t.Errorf("probes %s: got %s; want %s", tt.probes, got, tt.want)
			}
		})
	}
}
