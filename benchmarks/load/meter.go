package main

import (
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/benchmarks/internal/usage"
)

// A meter measures a stretch of time.
type meter struct {
	task   *task
	isOn   atomic.Bool // counts only while it is: what happens before is warming up
	wall   time.Duration
	before usage.Usage
	after  usage.Usage
}

// run warms up and measures. Then the meter is off again.
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

// perSecond returns how many of n there were in a second.
func (m *meter) perSecond(n float64) float64 { return n / m.wall.Seconds() }

// cpu returns what the process used.
func (m *meter) cpu() time.Duration { return m.after.CPU - m.before.CPU }

// addCPU adds, if there is a process, its CPU for each of n things in a unit.
func (m *meter) addCPU(f figures, name string, unit time.Duration, n float64) {
	if m.task.pid != 0 {
		f[name] = float64(m.cpu()) / float64(unit) / n
	}
}

// usage returns that of the process, and nothing if there is none.
func (t *task) usage() (usage.Usage, error) {
	if t.pid == 0 {
		return usage.Usage{}, nil
	}
	return usage.Of(t.pid)
}
