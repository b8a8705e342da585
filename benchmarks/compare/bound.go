package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A bound is what a figure, or a ratio of figures of two peers, must not exceed.
type bound struct {
	text     string
	peer     string
	other    string // what the peer is divided by; "" for the figure itself
	workload string
	figure   string
	max      float64
}

// parseBound parses PEER/OTHER:WORKLOAD.FIGURE<=MAX, where /OTHER may be missing.
func parseBound(text string) (bound, error) {
	b := bound{text: text}
	left, limit, hasLimit := strings.Cut(text, "<=")
	who, what, hasWhat := strings.Cut(left, ":")
	workload, figure, hasFigure := strings.Cut(what, ".")
	peer, other, isRatio := strings.Cut(who, "/")
	b.peer, b.other, b.workload, b.figure = peer, other, workload, figure
	if !hasLimit || !hasWhat || !hasFigure || peer == "" || isRatio && other == "" {
		return b, fmt.Errorf("want PEER/OTHER:WORKLOAD.FIGURE<=MAX or PEER:WORKLOAD.FIGURE<=MAX")
	}
	var err error
	if b.max, err = strconv.ParseFloat(limit, 64); err != nil {
		return b, fmt.Errorf("%q is no number", limit)
	}
	return b, nil
}

// checkNames reports names that are not measured: better now than after an hour.
func (b bound) checkNames(peers []*peer, workloads []*workload) error {
	if _, err := find(peers, b.peer); err != nil {
		return err
	}
	if b.other != "" {
		if _, err := find(peers, b.other); err != nil {
			return err
		}
	}
	w, err := find(workloads, b.workload)
	if err != nil {
		return err
	}
	if !slices.Contains(w.figures, b.figure) {
		return fmt.Errorf("%q is none of %s", b.figure, strings.Join(w.figures, ","))
	}
	return nil
}

// check reports whether the bound holds, and says what was measured. Rounds that
// failed do not count, but one at least must have worked.
func (b bound) check(r results) (verdict string, holds bool) {
	values := r.values(b.workload, b.peer, b.figure)
	if b.other != "" {
		values = ratios(values, r.values(b.workload, b.other, b.figure))
	}
	got, ok := median(values)
	switch {
	case !ok:
		return "CANNOT BE TOLD", false
	case !(got <= b.max):
		return fmt.Sprintf("%.3g, BROKEN", got), false
	}
	return fmt.Sprintf("%.3g, holds", got), true
}
