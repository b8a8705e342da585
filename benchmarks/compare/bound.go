package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A bound is an upper limit for a figure, or for a ratio of the figures of two
// peers.
type bound struct {
	text     string
	peer     string
	other    string // the peer to divide by; "" for the figure itself
	workload string
	figure   string
	max      float64
}

// parseBound parses PEER/OTHER:WORKLOAD.FIGURE<=MAX. /OTHER may be missing.
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
		return b, fmt.Errorf("%q is not a number", limit)
	}
	return b, nil
}

// checkNames returns an error if the bound names a peer, a workload or a figure that
// is not measured.
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
		return fmt.Errorf("%q is not one of %s", b.figure, strings.Join(w.figures, ","))
	}
	return nil
}

// check reports whether the bound holds, and returns the measured value as a text.
// It ignores failed rounds, but at least one must have succeeded.
func (b bound) check(r results) (verdict string, holds bool) {
	values := r.values(b.workload, b.peer, b.figure)
	if b.other != "" {
		values = ratios(values, r.values(b.workload, b.other, b.figure))
	}
	got, ok := median(values)
	switch {
	case !ok:
		return "UNKNOWN", false
	case !(got <= b.max):
		return fmt.Sprintf("%.3g, BROKEN", got), false
	}
	return fmt.Sprintf("%.3g, holds", got), true
}
