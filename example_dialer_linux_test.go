//go:build linux

package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
)

// One source address has about 28,000 ports towards one backend address. Several
// source addresses have as many each.
func ExampleWithDialer() {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Println("from", host)
		if conn, err := websocket.Accept(w, r, nil); err == nil {
			conn.CloseNow()
		}
	}))
	defer backend.Close()

	var turn atomic.Uint64
	sources := []net.IP{net.IPv4(127, 0, 0, 2), net.IPv4(127, 0, 0, 3)}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := net.Dialer{
			LocalAddr: &net.TCPAddr{IP: sources[turn.Add(1)%uint64(len(sources))]},
			Control:   choosePortAtConnect,
		}
		return d.DialContext(ctx, network, addr)
	}
	proxy, err := wsproxy.New(wsproxy.WithBackends(backend.URL), wsproxy.WithDialer(dial))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	service := httptest.NewServer(proxy)
	defer service.Close()

	for range 2 {
		connect(service.URL).CloseNow()
	}

	// Unordered output:
	// from 127.0.0.2
	// from 127.0.0.3
}

// choosePortAtConnect has the kernel choose the local port when it knows the
// backend's address, so that one port serves several backends at a time. Without
// it a dialer with a LocalAddr has about 28,000 ports for all backends together.
// See IP_BIND_ADDRESS_NO_PORT in ip(7).
func choosePortAtConnect(_, _ string, c syscall.RawConn) error {
	const ipBindAddressNoPort = 24
	var err error
	controlErr := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipBindAddressNoPort, 1)
	})
	return errors.Join(controlErr, err)
}
