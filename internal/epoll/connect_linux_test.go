//go:build linux

package epoll

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

// loopbacks are where tests listen, in both families.
var loopbacks = []string{"127.0.0.1:0", "[::1]:0"}

// listen listens at one of loopbacks. There may be no IPv6.
func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	switch {
	case err == nil:
		return ln
	case addr == loopbacks[0]:
		t.Fatal(err)
	}
	t.Skip(err)
	return nil
}

func TestDialConnects(t *testing.T) {
	for _, addr := range loopbacks {
		t.Run(addr, func(t *testing.T) {
			ln := listen(t, addr)
			defer ln.Close()
			var s Socket
			to := ln.Addr().(*net.TCPAddr).AddrPort()
			isPending, err := s.Dial(to)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			for isPending {
				if isPending, err = s.Connect(to); err != nil {
					t.Fatal(err)
				}
			}
			far, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			if _, err := s.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 5)
			if _, err := io.ReadFull(far, b); string(b) != "hello" || err != nil {
				t.Errorf("the peer read %q, %v; want hello", b, err)
			}
		})
	}
}

func TestDialFailsAsThatOfPackageNet(t *testing.T) {
	ln := listen(t, loopbacks[0])
	nobody := ln.Addr().(*net.TCPAddr).AddrPort()
	ln.Close()
	for name, to := range map[string]netip.AddrPort{
		"refused":     nobody,
		"unreachable": netip.MustParseAddrPort("255.255.255.255:80"),
	} {
		t.Run(name, func(t *testing.T) {
			_, want := net.Dial("tcp", to.String())
			var wantErr *os.SyscallError
			if !errors.As(want, &wantErr) {
				t.Fatalf("package net: %v; want an error of a system call", want)
			}
			var s Socket
			isPending, got := s.Dial(to)
			for deadline := time.Now().Add(patience); isPending && time.Now().Before(deadline); {
				isPending, got = s.Connect(to)
			}
			var gotErr *os.SyscallError
			if !errors.As(got, &gotErr) || *gotErr != *wantErr {
				t.Errorf("error %v; want %v", got, wantErr)
			}
			if s.fd >= 0 && got != nil && !isPending {
				s.Close()
			}
		})
	}
}

// The system gives a socket that connects to a port where nobody listens that very
// port once in 28,000 times. Package net lets it be asked for.
func TestConnectionToItselfIsRefused(t *testing.T) {
	for _, addr := range loopbacks {
		t.Run(addr, func(t *testing.T) {
			ln := listen(t, addr)
			itself := ln.Addr().(*net.TCPAddr)
			ln.Close()
			var s Socket
			if _, err := s.Dial(itself.AddrPort()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatalf("dial to a port where nobody listens: %v", err)
			}
			c, err := net.DialTCP("tcp", itself, itself)
			if err != nil {
				t.Fatal(err)
			}
			takeOver(t, &s, c)
			defer s.Close()
			if isPending, err := s.Connect(itself.AddrPort()); isPending || !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("Connect() = %v, %v; want it refused", isPending, err)
			}
		})
	}
}

func TestDialSetsTheOptionsOfPackageNet(t *testing.T) {
	ln := listen(t, loopbacks[0])
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var theirs, ours Socket
	takeOver(t, &theirs, c)
	defer theirs.Close()
	if _, err := ours.Dial(ln.Addr().(*net.TCPAddr).AddrPort()); err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	for name, o := range map[string][2]int{
		"TCP_NODELAY":      {syscall.IPPROTO_TCP, syscall.TCP_NODELAY},
		"SO_KEEPALIVE":     {syscall.SOL_SOCKET, syscall.SO_KEEPALIVE},
		"TCP_KEEPIDLE":     {syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE},
		"TCP_KEEPINTVL":    {syscall.IPPROTO_TCP, 5},
		"TCP_KEEPCNT":      {syscall.IPPROTO_TCP, 6},
		"TCP_USER_TIMEOUT": {syscall.IPPROTO_TCP, 18},
	} {
		want, err := syscall.GetsockoptInt(int(theirs.fd), o[0], o[1])
		if err != nil {
			t.Fatal(err)
		}
		if got, err := syscall.GetsockoptInt(int(ours.fd), o[0], o[1]); got != want || err != nil {
			t.Errorf("%s = %d, %v; want %d, as package net sets it", name, got, err, want)
		}
	}
}

func TestResetForgetsWhatIsStillToBeSent(t *testing.T) {
	s, far := newSocket(t, tcpPair)
	sent := fillUp(t, s)
	if err := s.Reset(); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, far)
	if !errors.Is(err, syscall.ECONNRESET) || n >= int64(sent) {
		t.Errorf("the peer read %d of %d bytes, %v; want a reset before all", n, sent, err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close() after it: %v", err)
	}
}
