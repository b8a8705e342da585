package main

import (
	"errors"
	"time"
)

const (
	idleBytes  = 64 // size of the one message of each tunnel
	idleBuffer = 16 // size of each read buffer, small for the 3,000 connections
)

// idle opens connections, echoes one message through each, lets them rest, and
// returns the memory and descriptors of the process per connection. It opens a
// twentieth of them before the first measurement, so that what a process allocates
// once is not counted.
func (t *task) idle() (figures, error) {
	if t.pid == 0 {
		return nil, errors.New("idle measures a process: -pid is missing")
	}
	first, err := t.openIdle(max(t.conns/20, 1))
	if err != nil {
		return nil, err
	}
	defer first.close()
	time.Sleep(t.warmUp)
	before, err := t.usage()
	if err != nil {
		return nil, err
	}
	rest, err := t.openIdle(t.conns)
	if err != nil {
		return nil, err
	}
	defer rest.close()
	t.printRunning()
	time.Sleep(t.length)
	after, err := t.usage()
	if err != nil {
		return nil, err
	}
	n := float64(t.conns)
	return figures{
		"bytes_per_tunnel": float64(after.Bytes-before.Bytes) / n,
		"fds_per_tunnel":   float64(after.Descriptors-before.Descriptors) / n,
	}, nil
}

// openIdle opens n connections that carry one message each.
func (t *task) openIdle(n int) (conns, error) {
	d, err := t.dialer(idleBuffer)
	if err != nil {
		return nil, err
	}
	all, err := open(d, n)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if err := c.RoundTrip(c.Frame(make([]byte, idleBytes)), idleBytes); err != nil {
			all.close()
			return nil, err
		}
	}
	return all, nil
}
