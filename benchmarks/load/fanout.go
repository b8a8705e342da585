package main

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/benchmarks/internal/wire"
)

// fanout receives messages that the backend sends at a rate.
func (t *task) fanout() (figures, error) {
	push := *t
	push.url = strings.TrimSuffix(t.url, "/") + wire.PushPath(t.size, t.rate)
	d, err := push.dialer(4096)
	if err != nil {
		return nil, err
	}
	all, err := open(d, t.conns)
	if err != nil {
		return nil, err
	}
	m := &meter{task: t}
	var (
		received atomic.Int64
		isOver   atomic.Bool
		failure  firstError
		running  sync.WaitGroup
	)
	for _, c := range all {
		running.Go(func() { // until c is closed
			for {
				if err := c.ReadMessage(t.size); err != nil {
					if !isOver.Load() {
						failure.set(err)
					}
					return
				}
				if m.isOn.Load() {
					received.Add(1)
				}
			}
		})
	}
	err = m.run()
	isOver.Store(true)
	all.close()
	running.Wait()
	if err == nil {
		err = failure.get()
	}
	if err == nil && received.Load() == 0 {
		err = errNothing
	}
	if err != nil {
		return nil, err
	}
	n := float64(received.Load())
	f := figures{"msgs_per_s": m.perSecond(n)}
	m.addCPU(f, "cpu_us_per_msg", time.Microsecond, n)
	return f, nil
}
