package health

import "testing"

func TestCheckCountsProbesInARow(t *testing.T) {
	for _, tt := range []struct {
		name       string
		fall, rise int
		probes     string // + passed, - failed
		want       string // after each: + not failed, - failed; in capitals, P and F, if that has changed
	}{
		{"first pass is reported", 3, 2, "+++", "P++"},
		{"first failure alone counts", 3, 2, "-", "F"},
		{"first failure, then one pass too few", 3, 2, "-+-+-+", "F-----"},
		{"first failure, then back", 3, 2, "-++", "F-P"},
		{"fall after a pass", 3, 2, "+---", "P++F"},
		{"a pass ends a row of failures", 3, 2, "+--+--+---", "P++++++++F"},
		{"a failure ends a row of passes", 3, 2, "+---+-+-++", "P++F-----P"},
		{"down and up again", 3, 2, "+---++---++", "P++F-P++F-P"},
		{"failures while failed", 3, 2, "-----++", "F-----P"},
		{"each probe decides", 1, 1, "+-+--++", "PFPF-P+"},
		{"asymmetric", 2, 4, "+--+++-++++", "P+F-------P"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c Check
			if c.IsFailed() {
				t.Error("a Check without a probe is failed; want not failed")
			}
			got := ""
			for _, probe := range tt.probes {
				var hasChanged bool
				c, hasChanged = c.Record(probe == '+', tt.fall, tt.rise)
				switch {
				case hasChanged && c.IsFailed():
					got += "F"
				case hasChanged:
					got += "P"
				case c.IsFailed():
					got += "-"
				default:
					got += "+"
				}
			}
			if got != tt.want {
				t.Errorf("probes %s: got %s; want %s", tt.probes, got, tt.want)
			}
		})
	}
}
