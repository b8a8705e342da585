package main

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/benchmarks/internal/wire"
)

// echo sends messages, and reads the echo of each before the next.
func (t *task) echo() (figures, error) {
	d, err := t.dialer(4096)
	if err != nil {
		return nil, err
	}
	all, err := open(d, t.conns)
	if err != nil {
		return nil, err
	}
	defer all.close()
	e := &echoes{meter: meter{task: t}, latencies: make([][]time.Duration, len(all))}
	var running sync.WaitGroup
	for i, c := range all {
		running.Go(func() { e.failure.set(e.runConn(i, c)) }) // until isOver
	}
	err = e.meter.run()
	e.isOver.Store(true)
	running.Wait()
	if err == nil {
		err = e.failure.get()
	}
	if err != nil {
		return nil, err
	}
	return e.figures()
}

// echoes are the round trips of all connections.
type echoes struct {
	meter     meter
	isOver    atomic.Bool
	latencies [][]time.Duration // by connection
	failure   firstError
}

func (e *echoes) runConn(i int, c *wire.Conn) error {
	t := e.meter.task
	message := c.Frame(make([]byte, t.size))
	pace := t.pace(i)
	for !e.isOver.Load() {
		pace.wait()
		begin := time.Now()
		if err := c.RoundTrip(message, t.size); err != nil {
			return err
		}
		if e.meter.isOn.Load() {
			e.latencies[i] = append(e.latencies[i], time.Since(begin))
		}
	}
	return nil
}

func (e *echoes) figures() (figures, error) {
	all := slices.Concat(e.latencies...)
	if len(all) == 0 {
		return nil, errNothing
	}
	slices.Sort(all)
	n := float64(len(all))
	f := figures{
		"msgs_per_s": e.meter.perSecond(n),
		"p50_us":     microseconds(quantile(all, 0.5)),
		"p99_us":     microseconds(quantile(all, 0.99)),
		"p999_us":    microseconds(quantile(all, 0.999)),
	}
	e.meter.addCPU(f, "cpu_us_per_msg", time.Microsecond, n)
	return f, nil
}

// quantile returns the q-quantile of sorted.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(q*float64(len(sorted)-1))]
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// A pace is the schedule of a connection's messages.
type pace struct {
	next time.Time
	gap  time.Duration
}

// pace returns the pace of connection i. The rate is that of all connections
// together, and their messages are spread evenly.
func (t *task) pace(i int) *pace {
	if t.rate <= 0 {
		return new(pace)
	}
	gap := time.Duration(float64(time.Second) * float64(t.conns) / t.rate)
	first := time.Now().Add(gap * time.Duration(i) / time.Duration(t.conns))
	return &pace{first, gap}
}

func (p *pace) wait() {
	if p.gap == 0 {
		return
	}
	time.Sleep(time.Until(p.next))
	p.next = p.next.Add(p.gap)
}
