package health

import (
	"math"
	"testing"
	"time"
)

func TestSlowShareRisesLinearlyFromATenth(t *testing.T) {
	for _, tt := range []struct {
		elapsed time.Duration
		want    float64
	}{{-s, 0.1}, {0, 0.1}, {3 * s, 0.19}, {15 * s, 0.55}, {30*s - 1, 1}, {30 * s, 1}, {time.Hour, 1}} {
		if got := SlowShare(tt.elapsed, 30*s); math.Abs(got-tt.want) > 1e-6 {
			t.Errorf("SlowShare(%v) = %v; want %v", tt.elapsed, got, tt.want)
		}
	}
	if got := SlowShare(0, 0); got != 1 {
		t.Errorf("without a slow start the share is %v", got)
	}
}
