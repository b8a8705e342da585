package main

import (
	"maps"
	"slices"
)

// A record contains the figures of one workload on one peer in one round.
type record struct {
	Workload string             `json:"workload"`
	Peer     string             `json:"peer"`
	Round    int                `json:"round"`
	Figures  map[string]float64 `json:"figures"`
}

type results []record

// values returns a figure by round. It skips rounds without the figure.
func (r results) values(workload, peer, figure string) map[int]float64 {
	values := make(map[int]float64)
	for _, rec := range r {
		if v, ok := rec.Figures[figure]; ok && rec.Workload == workload && rec.Peer == peer {
			values[rec.Round] = v
		}
	}
	return values
}

// ratios returns a/b for each round with both values.
func ratios(a, b map[int]float64) map[int]float64 {
	quotients := make(map[int]float64)
	for round, v := range a {
		if w := b[round]; w != 0 {
			quotients[round] = v / w
		}
	}
	return quotients
}

// median returns the median of values, or false if there are no values.
func median(values map[int]float64) (float64, bool) {
	s := slices.Sorted(maps.Values(values))
	if len(s) == 0 {
		return 0, false
	}
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2, true
}
