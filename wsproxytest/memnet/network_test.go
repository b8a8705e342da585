package memnet

import (
	"context"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"

	"golang.org/x/net/nettest"
)

func TestNetworkConnBehavesLikeNetConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		n := NewNetwork()
		ln, err := n.Listen("a:80")
		if err != nil {
			return nil, nil, nil, err
		}
		front, err := n.DialContext(context.Background(), "tcp", "a:80")
		if err != nil {
			return nil, nil, nil, err
		}
		back, err := ln.Accept()
		return front, back, func() { front.Close(); back.Close(); ln.Close() }, err
	})
}

func TestNetworkDialsByAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork()
		for _, address := range []string{"a.example:80", "b.example:80", "b.example:8080", "[2001:db8::1]:80"} {
			ln, err := n.Listen(address)
			if err != nil {
				t.Fatal(err)
			}
			if got := ln.Addr().String(); got != address {
				t.Errorf("Addr() = %s; want %s", got, address)
			}
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, address) })}
			go srv.Serve(ln) // until Close
			defer srv.Close()
		}
		transport := &http.Transport{DialContext: n.DialContext}
		defer transport.CloseIdleConnections()
		for url, want := range map[string]string{
			"http://a.example": "a.example:80", "http://b.example": "b.example:80",
			"http://b.example:8080": "b.example:8080", "http://[2001:db8::1]": "[2001:db8::1]:80",
		} {
			resp, err := (&http.Client{Transport: transport}).Get(url)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(got) != want {
				t.Errorf("%s was answered by %s; want %s", url, got, want)
			}
		}
	})
}

func TestNetworkDialFails(t *testing.T) {
	n := NewNetwork()
	ln, err := n.Listen("a:80")
	if err != nil {
		t.Fatal(err)
	}
	done, cancel := context.WithCancel(context.Background())
	cancel()
	dial := func(ctx context.Context, n *Network, address string) error {
		_, err := n.DialContext(ctx, "tcp", address)
		return err
	}
	wantErr(t, "dial without a listener", dial(t.Context(), n, "b:80"), syscall.ECONNREFUSED)
	wantErr(t, "dial in another network", dial(t.Context(), NewNetwork(), "a:80"), syscall.ECONNREFUSED)
	wantErr(t, "dial after the context has ended", dial(done, n, "a:80"), context.Canceled)
	ln.Close()
	wantErr(t, "dial of a closed listener", dial(t.Context(), n, "a:80"), syscall.ECONNREFUSED)
}

func TestCloseFreesTheAddress(t *testing.T) {
	n := NewNetwork()
	first, err := n.Listen("a:80")
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Listen("a:80")
	wantErr(t, "Listen at an address that is taken", err, syscall.EADDRINUSE)
	first.Close()
	second, err := n.Listen("a:80")
	if err != nil {
		t.Fatalf("Listen at an address that was freed: %v", err)
	}
	wantErr(t, "second Close", first.Close(), net.ErrClosed)
	if _, err := n.DialContext(t.Context(), "tcp", "a:80"); err != nil {
		t.Errorf("after a second Close of the first listener the second one cannot be dialed: %v", err)
	}
	second.Close()
}

func TestListenNeedsHostAndPort(t *testing.T) {
	for _, address := range []string{"", "a", ":80", "a:", "2001:db8::1"} {
		if _, err := NewNetwork().Listen(address); err == nil {
			t.Errorf("Listen(%q) returned no error", address)
		}
	}
}

func TestZeroIsTheDefaultBuffer(t *testing.T) {
	a, b := Pipe(0)
	if n, err := a.Write(make([]byte, 64<<10)); err != nil {
		t.Errorf("Write = %d, %v; want no error, and no wait", n, err)
	}
	b.Close()
	defer func() {
		if recover() == nil {
			t.Error("Pipe(-1) did not panic")
		}
	}()
	Pipe(-1)
}

func TestPortsOfConnsAreValid(t *testing.T) {
	ln := Listen(1)
	ln.numDialed = numPorts - 1
	for _, want := range []string{"192.0.2.1:1024", "192.0.2.1:1025"} {
		c, err := ln.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := c.LocalAddr().String(); got != want {
			t.Errorf("LocalAddr() = %s; want %s", got, want)
		}
	}
	ln.Close()
}
