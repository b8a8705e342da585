package wsproxy

import (
	"time"

	"github.com/wsproxy/wsproxy/internal/histogram"
)

// This file measures the phases of upgrades: see [UpgradeTimes].

// upgradeTimes has the phases of one upgrade so far.
type upgradeTimes struct {
	UpgradeTimes
	arrived time.Time

	// The phases that it has reached; each upgrade has reached Admit.
	isLetIn     bool
	hasQueued   bool // it was in the queue
	hasDialed   bool
	isConnected bool // a connection was made
}

// letIn ends Admit.
func (t *upgradeTimes) letIn() {
	t.isLetIn = true
	t.Admit = time.Since(t.arrived)
}

// addWait adds a wait in the queue that began at start.
func (t *upgradeTimes) addWait(start time.Time) {
	t.hasQueued = true
	t.Queue += time.Since(start)
}

// addAttempt adds an attempt that began at start and took so long. Connected is when its
// connection was made; zero if it was not.
func (t *upgradeTimes) addAttempt(start, connected time.Time, took time.Duration) {
	t.hasDialed = true
	if connected.IsZero() {
		t.Dial += took
		return
	}
	t.isConnected = true
	dial := connected.Sub(start)
	t.Dial += dial
	t.Answer += took - dial
}

// phases are the histograms of [Stats] for the phases of upgrades.
type phases struct{ admit, queue, dial, answer, queueWaits *histogram.Histogram }

func newPhases() phases {
	return phases{
		histogram.NewLatency(), histogram.NewLatency(), histogram.NewLatency(), histogram.NewLatency(), histogram.NewLatency(),
	}
}

// observe counts the phases of an upgrade that has ended, and ends Admit if it was not let in.
func (h *phases) observe(t *upgradeTimes) {
	if !t.isLetIn {
		t.Admit = time.Since(t.arrived)
	}
	h.admit.Observe(t.Admit)
	if t.isLetIn {
		h.queue.Observe(t.Queue)
	}
	if t.hasQueued {
		h.queueWaits.Observe(t.Queue)
	}
	if t.hasDialed {
		h.dial.Observe(t.Dial)
	}
	if t.isConnected {
		h.answer.Observe(t.Answer)
	}
}

// addTo sets the histograms of s.
func (h *phases) addTo(s *Stats) {
	s.Phases = PhaseHistograms{
		Admit: newHistogram(h.admit), Queue: newHistogram(h.queue), Dial: newHistogram(h.dial), Answer: newHistogram(h.answer),
	}
	s.QueueWaits = newHistogram(h.queueWaits)
}
