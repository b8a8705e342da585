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

func TestDialConnects(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(addr, func(t *testing.T) {
			ln, err := net.Listen("tcp", addr)
			if err != nil {
				t.Skip(err) // no IPv6 here
			}
			defer ln.Close()
			var s Socket
			to := ln.Addr().(*net.TCPAddr).AddrPort()
			isPending, err := s.Dial(to)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			for isPending {
				if isPending, err = s.HasConnected(to); err != nil {
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
	nobody := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), unusedPort(t, "127.0.0.1"))
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
				isPending, got = s.HasConnected(to)
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
// port once in 28,000 times: here it is made to.
func TestConnectionToItselfIsRefused(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run(ip, func(t *testing.T) {
			addr := netip.AddrPortFrom(netip.MustParseAddr(ip), unusedPort(t, ip))
			var s Socket
			if _, err := s.Dial(addr); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatalf("dial to a port that is not used: %v", err)
			}
			fd, errno := socket(family(addr.Addr()), syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
			if errno != 0 {
				t.Fatal(errno)
			}
			s = Socket{fd: int32(fd)}
			defer s.Close()
			if err := syscall.Bind(fd, sockaddr(addr)); err != nil {
				t.Fatal(err)
			}
			if isPending, err := s.HasConnected(addr); isPending || !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("HasConnected() = %v, %v; want it refused", isPending, err)
			}
		})
	}
}

// unusedPort returns a port where nobody listens.
func unusedPort(t *testing.T, ip string) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Skip(err) // no IPv6 here
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort().Port()
}

func sockaddr(addr netip.AddrPort) syscall.Sockaddr {
	if a := addr.Addr(); a.Is4() {
		return &syscall.SockaddrInet4{Port: int(addr.Port()), Addr: a.As4()}
	}
	return &syscall.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
}

func TestDialSetsTheOptionsOfPackageNet(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
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
		t.Errorf("Close() behind it: %v", err)
	}
}
