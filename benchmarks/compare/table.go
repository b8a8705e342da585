package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// writeTable writes a table of the medians in Markdown.
func writeTable(w io.Writer, r results, workloads []*workload, peers []*peer, rounds int) {
	fmt.Fprintf(w, "Medians of %s. In brackets: %s divided by the peer of that column, in each round; "+
		"the median of these quotients, which is not the quotient of the medians.\n\n", plural(rounds, "round"), peers[0])
	fmt.Fprint(w, "| workload | figure |")
	for _, p := range peers {
		fmt.Fprintf(w, " %s |", p)
	}
	fmt.Fprintf(w, "\n|---|---|%s\n", strings.Repeat("---:|", len(peers)))
	for _, work := range workloads {
		for _, figure := range work.figures {
			fmt.Fprintf(w, "| %s | %s |", work, figure)
			first := r.values(work.name, peers[0].name, figure)
			for i, p := range peers {
				fmt.Fprintf(w, " %s |", cell(first, r.values(work.name, p.name, figure), i == 0))
			}
			fmt.Fprintln(w)
		}
	}
}

// cell returns the text of a cell: the median, and the ratio to the first peer.
func cell(first, values map[int]float64, isFirst bool) string {
	v, ok := median(values)
	if !ok {
		return "–"
	}
	text := number(v)
	if q, ok := median(ratios(first, values)); ok && !isFirst {
		text += fmt.Sprintf(" (%.2f)", q)
	}
	return text
}

// number returns v with three significant digits, and commas between thousands.
func number(v float64) string {
	if v == 0 {
		return "0"
	}
	scale := math.Pow(10, 2-math.Floor(math.Log10(math.Abs(v))))
	v = math.Round(v*scale) / scale
	text := strconv.FormatFloat(v, 'f', -1, 64)
	whole, fraction, _ := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		whole += "." + fraction
	}
	return whole
}

func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
