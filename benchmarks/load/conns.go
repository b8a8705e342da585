package main

import (
	"errors"
	"sync"

	"github.com/wsproxy/wsproxy/benchmarks/internal/wire"
)

// maxDials is the number of concurrent dials. More would overflow the proxy's accept
// queue.
const maxDials = 32

// conns are connections of one kind.
type conns []*wire.Conn

// open opens n connections.
func open(d *wire.Dialer, n int) (conns, error) {
	var (
		all     = make(conns, n)
		slots   = make(chan struct{}, maxDials)
		running sync.WaitGroup
		failure firstError
	)
	for i := range all {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			c, err := d.Dial()
			failure.set(err)
			all[i] = c
		})
	}
	running.Wait()
	if err := failure.get(); err != nil {
		all.close()
		return nil, err
	}
	return all, nil
}

func (all conns) close() {
	for _, c := range all {
		if c != nil {
			c.Close()
		}
	}
}

// A firstError records the first error of several goroutines.
type firstError struct {
	mu  sync.Mutex
	err error
}

func (f *firstError) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *firstError) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

var errNothing = errors.New("nothing came back in the time measured")
