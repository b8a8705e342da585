package main

import (
	"strings"
	"testing"
)

// threeRounds has a figure of two peers. The second peer failed in the second round.
var threeRounds = results{
	{"echo", "a", 1, figures{"cpu": 10, "failures": 0}},
	{"echo", "b", 1, figures{"cpu": 20, "failures": 0}},
	{"echo", "a", 2, figures{"cpu": 90}},
	{"echo", "a", 3, figures{"cpu": 30}},
	{"echo", "b", 3, figures{"cpu": 40}},
	{"idle", "a", 1, figures{"cpu": 5000}},
}

func TestTableHasMediansAndRatiosWithinRounds(t *testing.T) {
	var out strings.Builder
	writeTable(&out, threeRounds, []*workload{
		{name: "echo", figures: []string{"cpu", "failures", "colour"}},
		{name: "idle", figures: []string{"cpu"}},
	}, []*peer{{name: "a"}, {name: "b"}}, 3)
	// 10/20 and 30/40; not 30/30, which are the medians.
	const want = `Medians of 3 rounds. In brackets: a divided by the peer of that column, in each round; the median of these quotients, which is not the quotient of the medians.

| workload | figure | a | b |
|---|---|---:|---:|
| echo | cpu | 30 | 30 (0.62) |
| echo | failures | 0 | 0 |
| echo | colour | – | – |
| idle | cpu | 5,000 | – |
`
	if out.String() != want {
		t.Errorf("writeTable() =\n%s\nwant\n%s", out.String(), want)
	}
}

func TestBoundsCheckMediansOfRounds(t *testing.T) {
	for _, tt := range []struct {
		bound, verdict string
		holds          bool
	}{
		{"a:echo.cpu<=30", "30, holds", true},
		{"a:echo.cpu<=29.9", "30, BROKEN", false},
		{"a/b:echo.cpu<=0.625", "0.625, holds", true},
		{"a/b:echo.cpu<=0.6", "0.625, BROKEN", false},
		{"a/b:idle.cpu<=1", "UNKNOWN", false},
		{"a/b:echo.failures<=1", "UNKNOWN", false},
		{"c:echo.cpu<=1", "UNKNOWN", false},
		{"a:echo.cpu<=NaN", "30, BROKEN", false},
	} {
		b, err := parseBound(tt.bound)
		if err != nil {
			t.Errorf("parseBound(%s) = %v", tt.bound, err)
			continue
		}
		if verdict, holds := b.check(threeRounds); verdict != tt.verdict || holds != tt.holds {
			t.Errorf("%s: check() = %q, %v; want %q, %v", tt.bound, verdict, holds, tt.verdict, tt.holds)
		}
	}
}

func TestComparisonFailsOnBrokenBound(t *testing.T) {
	for texts, want := range map[string]error{
		"":                                  nil,
		"a:echo.cpu<=30":                    nil,
		"a:echo.cpu<=30 a:echo.cpu<=29":     errBroken,
		"c:echo.cpu<=30 a:echo.cpu<=30":     errBroken,
		"a:echo.cpu<=30 a/b:echo.cpu<=0.63": nil,
	} {
		var bounds []bound
		for text := range strings.FieldsSeq(texts) {
			b, err := parseBound(text)
			if err != nil {
				t.Fatal(err)
			}
			bounds = append(bounds, b)
		}
		var out strings.Builder
		if err := checkBounds(&out, bounds, threeRounds); err != want {
			t.Errorf("checkBounds(%s) = %v; want %v; it wrote:\n%s", texts, err, want, out.String())
		}
		if got := strings.Count(out.String(), "- `"); got != len(bounds) {
			t.Errorf("checkBounds(%s) wrote %d lines; want %d", texts, got, len(bounds))
		}
	}
}

func TestMedianIsTheMiddle(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1}, 5},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 9, 1, 2}, 3},
	} {
		byRound := make(map[int]float64)
		for i, v := range tt.values {
			byRound[i+1] = v
		}
		if got, ok := median(byRound); got != tt.want || !ok {
			t.Errorf("median(%v) = %v, %v; want %v", tt.values, got, ok, tt.want)
		}
	}
	if got, ok := median(nil); ok {
		t.Errorf("median of no values = %v; want none", got)
	}
}

func TestNumbersHaveThreeSignificantDigits(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 2: "2", 0.98765: "0.988", 0.0012345: "0.00123", 9.999: "10", 31.26: "31.3", 469.1: "469",
		1000: "1,000", 22801: "22,800", 1234567: "1,230,000", -0.5: "-0.5", -123456: "-123,000", -100: "-100",
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %s; want %s", v, got, want)
		}
	}
}
