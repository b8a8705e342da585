package main

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/benchmarks/internal/wire"
)

// churn opens tunnels, echoes a message through each, and closes each with a closing
// handshake.
func (t *task) churn() (figures, error) {
	d, err := t.dialer(512)
	if err != nil {
		return nil, err
	}
	m := &meter{task: t}
	var (
		done, failed atomic.Int64
		isOver       atomic.Bool
		failure      firstError
		running      sync.WaitGroup
	)
	for range t.conns {
		running.Go(func() { // until isOver
			for !isOver.Load() {
				err := t.openAndClose(d)
				failure.set(err)
				switch {
				case !m.isOn.Load():
				case err != nil:
					failed.Add(1)
				default:
					done.Add(1)
				}
			}
		})
	}
	err = m.run()
	isOver.Store(true)
	running.Wait()
	if err != nil {
		return nil, err
	}
	n := float64(done.Load())
	if n == 0 {
		if err := failure.get(); err != nil {
			return nil, err
		}
		return nil, errNothing
	}
	f := figures{"tunnels_per_s": m.perSecond(n), "failures": float64(failed.Load())}
	m.addCPU(f, "cpu_us_per_tunnel", time.Microsecond, n)
	return f, nil
}

func (t *task) openAndClose(d *wire.Dialer) error {
	c, err := d.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.RoundTrip(c.Frame(make([]byte, t.size)), t.size); err != nil {
		return err
	}
	return c.CloseHandshake()
}
