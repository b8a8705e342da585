//go:build linux

package epoll

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"
)

func TestUserTimeoutIsSetInMilliseconds(t *testing.T) {
	near, _ := tcpPair(t)
	s, _ := newSocket(t, tcpPair)
	ways := map[string]struct {
		set func(time.Duration) error
		fd  func(f func(fd int))
	}{
		"Socket": {s.SetUserTimeout, func(f func(int)) { f(int(s.fd)) }},
		"a connection of package net": {
			func(d time.Duration) error { return SetUserTimeout(near.(syscall.Conn), d) },
			func(f func(int)) { control(near.(syscall.Conn), f) },
		},
	}
	for name, way := range ways {
		for d, want := range map[time.Duration]int{
			2 * time.Minute:         120_000,
			time.Nanosecond:         1, // 0 would be the default of the system
			1500 * time.Microsecond: 2,
			1 << 62:                 1<<31 - 1,
		} {
			if err := way.set(d); err != nil {
				t.Errorf("%s: %v: %v", name, d, err)
			}
			way.fd(func(fd int) {
				if got, err := syscall.GetsockoptInt(fd, syscall.IPPROTO_TCP, tcpUserTimeout); got != want || err != nil {
					t.Errorf("%s: %v is %d ms, %v; want %d", name, d, got, err, want)
				}
			})
		}
	}
	u, _ := newSocket(t, unixPair)
	if err := u.SetUserTimeout(time.Second); err != nil {
		t.Errorf("unix socket: %v; want none: nothing is set", err)
	}
	near.Close()
	if err := SetUserTimeout(near.(syscall.Conn), time.Second); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a connection that is closed: %v; want net.ErrClosed", err)
	}
}
