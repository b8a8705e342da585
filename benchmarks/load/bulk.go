package main

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/benchmarks/internal/wire"
)

// bulk sends large messages, with a window of messages in flight.
func (t *task) bulk() (figures, error) {
	d, err := t.dialer(256 << 10)
	if err != nil {
		return nil, err
	}
	all, err := open(d, t.conns)
	if err != nil {
		return nil, err
	}
	b := &bulk{meter: meter{task: t}}
	var running sync.WaitGroup
	for _, c := range all {
		credit, gone := make(chan struct{}, t.window), make(chan struct{})
		running.Go(func() { b.send(c, credit, gone) }) // until gone
		running.Go(func() {                            // until c is closed
			defer close(gone)
			b.receive(c, credit)
		})
	}
	err = b.meter.run()
	b.isOver.Store(true)
	all.close()
	running.Wait()
	if err == nil {
		err = b.failure.get()
	}
	if err != nil {
		return nil, err
	}
	return b.figures()
}

type bulk struct {
	meter   meter
	bytes   atomic.Int64 // received
	isOver  atomic.Bool
	failure firstError
}

// send sends messages until gone is closed. It sends a value to credit for each
// message, and receive receives one for each echo.
func (b *bulk) send(c *wire.Conn, credit chan<- struct{}, gone <-chan struct{}) {
	message := c.Frame(make([]byte, b.meter.task.size))
	for {
		select {
		case credit <- struct{}{}:
		case <-gone:
			return
		}
		if _, err := c.Write(message); err != nil {
			b.fail(err)
			return
		}
	}
}

func (b *bulk) receive(c *wire.Conn, credit <-chan struct{}) {
	for {
		if err := c.ReadMessage(b.meter.task.size); err != nil {
			b.fail(err)
			return
		}
		if b.meter.isOn.Load() {
			b.bytes.Add(int64(b.meter.task.size))
		}
		<-credit
	}
}

// fail records an error, unless the end of the measurement caused it.
func (b *bulk) fail(err error) {
	if !b.isOver.Load() {
		b.failure.set(err)
	}
}

func (b *bulk) figures() (figures, error) {
	gigabytes := float64(b.bytes.Load()) * 2 / 1e9 // the proxy relays each byte twice
	if gigabytes == 0 {
		return nil, errNothing
	}
	f := figures{"gb_per_s": b.meter.perSecond(gigabytes)}
	b.meter.addCPU(f, "cpu_s_per_gb", time.Second, gigabytes)
	return f, nil
}
