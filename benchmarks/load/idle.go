package main

import (
	"errors"
	"time"
)

const (
	idleBytes  = 64 // of the one message that a tunnel carries
	idleBuffer = 16 // of ours: 3,000 connections are many
)

// idle opens connections, uses each once, lets them rest, and tells what each has
// added to the process. The first of them, a twentieth, are not counted: they pay
// for what a process needs once.
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
