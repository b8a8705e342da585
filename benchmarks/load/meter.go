package main

import (
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/benchmarks/internal/usage"
)

// A meter measures the time and the CPU of one run.
type meter struct {
	task   *task
	isOn   atomic.Bool // counters count only while it is set, after the warm-up
	wall   time.Duration
	before usage.Usage
	after  usage.Usage
}

// run waits for the warm-up, and then measures. The meter is off afterwards.
func (m *meter) run() error {
	time.Sleep(m.task.warmUp)
	m.task.printRunning()
	var err error
	if m.before, err = m.task.usage(); err != nil {
		return err
	}
	begin := time.Now()
	m.isOn.Store(true)
	time.Sleep(m.task.length)
	m.isOn.Store(false)
	m.wall = time.Since(begin)
	m.after, err = m.task.usage()
	return err
}

// perSecond returns the rate of n events.
func (m *meter) perSecond(n float64) float64 { return n / m.wall.Seconds() }

// cpu returns the CPU time of the process.
func (m *meter) cpu() time.Duration { return m.after.CPU - m.before.CPU }

// addCPU adds a figure for the CPU time of the process per event, for n events. It
// does nothing without a process.
func (m *meter) addCPU(f figures, name string, unit time.Duration, n float64) {
	if m.task.pid != 0 {
		f[name] = float64(m.cpu()) / float64(unit) / n
	}
}

// usage returns the usage of the process, or zero if there is none.
func (t *task) usage() (usage.Usage, error) {
	if t.pid == 0 {
		return usage.Usage{}, nil
	}
	return usage.Of(t.pid)
}
