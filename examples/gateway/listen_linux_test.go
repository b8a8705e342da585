//go:build linux

package main

import (
	"net"
	"syscall"
	"testing"
)

func TestListenSetsKeepAliveLikePackageNet(t *testing.T) {
	ours, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	theirs, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	got, want := acceptedOptions(t, ours), acceptedOptions(t, theirs)
	if got != want || got[0] != 1 {
		t.Errorf("SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT are %v; want %v", got, want)
	}
}

// acceptedOptions returns the options in keepAlive of a connection from ln.
func acceptedOptions(t *testing.T, ln net.Listener) (values [len(keepAlive)]int) {
	t.Helper()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for i, o := range keepAlive {
			if values[i], err = syscall.GetsockoptInt(int(fd), o.level, o.option); err != nil {
				t.Error(err)
			}
		}
	})
	return values
}
