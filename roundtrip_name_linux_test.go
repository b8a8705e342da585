package wsproxy_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// These tests listen on several addresses with one port, which Linux has without set-up.

// A service is a name with the addresses 127.0.0.1, 127.0.0.2 and so on.
type service struct {
	port     int
	mu       sync.Mutex
	accepted map[string]int // by IP address
}

const serviceName = "service.wsproxy.example."

// startService makes the default resolver answer for serviceName with numAddrs addresses,
// and serves h on those in listening, of which 1 is 127.0.0.1. A nil config means without
// TLS.
func startService(t *testing.T, numAddrs int, listening []int, h http.Handler, config *tls.Config) *service {
	t.Helper()
	s := &service{accepted: make(map[string]int)}
	for _, i := range listening {
		ln := s.listen(t, i)
		srv := httptest.NewUnstartedServer(h)
		srv.Listener.Close()
		srv.Listener = &countingListener{ln, s}
		srv.Config.ErrorLog = proxytest.DiscardLog
		if config != nil {
			srv.TLS = config.Clone()
			srv.StartTLS()
		} else {
			srv.Start()
		}
		t.Cleanup(srv.Close)
	}
	var addrs [][4]byte
	for i := range numAddrs {
		addrs = append(addrs, [4]byte{127, 0, 0, byte(i + 1)})
	}
	resolveBy(t, &nameServer{addrs: addrs})
	return s
}

// listen listens on address i, with the port of the service.
func (s *service) listen(t *testing.T, i int) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.%d:%d", i, s.port))
	if err != nil {
		t.Fatal(err)
	}
	s.port = ln.Addr().(*net.TCPAddr).Port
	return ln.(*net.TCPListener)
}

// listenDead listens on address i and accepts nothing, with a full backlog: the system
// drops what asks for a connection.
func (s *service) listenDead(t *testing.T, i int) {
	t.Helper()
	ln := s.listen(t, i)
	t.Cleanup(func() { ln.Close() })
	raw, err := ln.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// A second call of listen changes the backlog.
	if ctlErr := raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) }); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
	for range 10 {
		c, err := net.DialTimeout("tcp", ln.Addr().String(), 200*time.Millisecond)
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Skip("a listener without a backlog accepts connections")
}

func (s *service) url(scheme string) string {
	return fmt.Sprintf("%s://%s:%d", scheme, serviceName, s.port)
}

// numAccepted returns the number of connections that address i has accepted.
func (s *service) numAccepted(i int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted[fmt.Sprintf("127.0.0.%d", i)]
}

type countingListener struct {
	*net.TCPListener
	s *service
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.TCPListener.Accept()
	if err == nil {
		l.s.mu.Lock()
		l.s.accepted[netip.MustParseAddrPort(c.LocalAddr().String()).Addr().String()]++
		l.s.mu.Unlock()
	}
	return c, err
}

// refuse answers an upgrade with 403, so that no tunnel is left to end.
var refuse = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })

// numUpgrades is how many upgrades these tests make on three addresses: 100 on each.
const numUpgrades = 300

// wantBalanced wants each address to have got its share. The order is random: the standard
// deviation of a share is 8.
func (s *service) wantBalanced(t *testing.T, addrs ...int) {
	t.Helper()
	for _, i := range addrs {
		if n := s.numAccepted(i); n < 60 || n > 140 {
			t.Errorf("of %d upgrades 127.0.0.%d got %d; want 60 to 140", numUpgrades, i, n)
		}
	}
}

func TestNameWithSeveralAddressesIsBalanced(t *testing.T) {
	svc := startService(t, 3, []int{1, 2, 3}, refuse, nil)
	_, s := proxytest.Start(t, wsproxy.WithBackends(svc.url("http")))
	for range numUpgrades {
		resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
		proxytest.WantStatus(t, resp, http.StatusForbidden)
	}
	svc.wantBalanced(t, 1, 2, 3)
}

func TestNameWithDeadAddressDelaysOneUpgrade(t *testing.T) {
	svc := startService(t, 4, []int{1, 2, 3}, refuse, nil)
	svc.listenDead(t, 4)
	dead := fmt.Sprintf("127.0.0.4:%d", svc.port)
	var mu sync.Mutex
	var deadDials, lateUpgrades int // of the dead address; upgrades that took 250 ms
	var longest time.Duration
	p := proxytest.NewProxy(t, wsproxy.WithBackends(svc.url("http")), wsproxy.WithTrace(&wsproxy.Trace{
		Attempted: func(i wsproxy.AttemptInfo) {
			mu.Lock()
			defer mu.Unlock()
			longest = max(longest, i.Duration)
			if i.Duration >= 250*time.Millisecond {
				lateUpgrades++
			}
		}}))
	trace := &httptrace.ClientTrace{ConnectStart: func(_, addr string) {
		mu.Lock()
		defer mu.Unlock()
		if addr == dead {
			deadDials++
		}
	}}
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.ServeHTTP(w, r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	}))
	start := time.Now()
	for range numUpgrades {
		resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
		proxytest.WantStatus(t, resp, http.StatusForbidden)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Skipf("the upgrades took %v: the failure was forgotten meanwhile", took)
	}
	mu.Lock()
	defer mu.Unlock()
	if deadDials != 1 || lateUpgrades < 1 || longest >= 5*time.Second {
		t.Errorf("the dead address was dialed %d times, %d upgrades took 250 ms, the longest one %v; want one dial, at least one such upgrade, less than 5s",
			deadDials, lateUpgrades, longest)
	}
	svc.wantBalanced(t, 1, 2, 3)
}

// An address that refuses costs no time.
func TestNameWithRefusingAddressGetsAllUpgrades(t *testing.T) {
	svc := startService(t, 4, []int{1, 2, 3}, refuse, nil)
	_, s := proxytest.Start(t, wsproxy.WithBackends(svc.url("http")))
	for range numUpgrades {
		resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
		proxytest.WantStatus(t, resp, http.StatusForbidden)
	}
	svc.wantBalanced(t, 1, 2, 3)
}

// attemptErr makes one upgrade, which must get status, and returns the error of its only
// attempt.
func attemptErr(t *testing.T, status int, opts ...wsproxy.Option) error {
	t.Helper()
	errs := make(chan error, 1)
	_, s := proxytest.Start(t, append(opts, wsproxy.WithTrace(&wsproxy.Trace{
		Attempted: func(i wsproxy.AttemptInfo) { errs <- i.Err }}))...)
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, status)
	return <-errs
}

func TestNameErrorNamesAddressesThatFailed(t *testing.T) {
	for numAddrs := 1; numAddrs <= 3; numAddrs++ {
		svc := startService(t, numAddrs, nil, nil, nil)
		svc.listen(t, 1).Close() // nothing listens on this port
		err := attemptErr(t, http.StatusServiceUnavailable, wsproxy.WithBackends(svc.url("http")))
		if be, ok := err.(*wsproxy.BackendError); !ok || be.Op != "dial" || be.Timeout() || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("with %d addresses that refuse the attempt failed with %v; want a refused dial", numAddrs, err)
			continue
		}
		for i := 1; i <= numAddrs; i++ {
			if addr := fmt.Sprintf("127.0.0.%d:%d", i, svc.port); !strings.Contains(err.Error(), addr) {
				t.Errorf("with %d addresses that refuse the attempt failed with %q; want %s in it", numAddrs, err, addr)
			}
		}
	}
}

func TestNameWithDeadAddressesFailsByHandshakeTimeout(t *testing.T) {
	svc := startService(t, 2, nil, nil, nil)
	svc.listenDead(t, 1)
	svc.listenDead(t, 2)
	err := attemptErr(t, http.StatusServiceUnavailable, wsproxy.WithBackends(svc.url("http")),
		wsproxy.WithTimeouts(wsproxy.Timeouts{Handshake: 400 * time.Millisecond}))
	if be, ok := err.(*wsproxy.BackendError); !ok || be.Op != "dial" || !be.Timeout() {
		t.Fatalf("the attempt failed with %v; want a dial that ran out of time", err)
	}
	for i := 1; i <= 2; i++ {
		if addr := fmt.Sprintf("127.0.0.%d:%d", i, svc.port); !strings.Contains(err.Error(), addr) {
			t.Errorf("the attempt failed with %q; want %s in it", err, addr)
		}
	}
}

func TestShutdownEndsDialsOfName(t *testing.T) {
	svc := startService(t, 2, nil, nil, nil)
	svc.listenDead(t, 1)
	svc.listenDead(t, 2)
	dialing := make(chan struct{}, 2)
	trace := &httptrace.ClientTrace{ConnectStart: func(string, string) { dialing <- struct{}{} }}
	p := proxytest.NewProxy(t, wsproxy.WithBackends(svc.url("http")))
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.ServeHTTP(w, r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	}))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	<-dialing
	<-dialing
	if err := p.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown() = %v; want nil", err)
	}
	resp := client.ReadResponse()
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	io.Copy(io.Discard, resp.Body)
	client.WantEOF()
}

// The certificate is that of the name, whatever address was dialed.
func TestNameWithSeveralAddressesIsVerifiedOverTLS(t *testing.T) {
	ca := newAuthority(t)
	names := make(chan string, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		names <- r.TLS.ServerName
		w.WriteHeader(http.StatusForbidden)
	})
	cert := ca.issue(t, strings.TrimSuffix(serviceName, "."))
	svc := startService(t, 3, []int{1, 2}, h, &tls.Config{Certificates: []tls.Certificate{cert}})
	_, s := proxytest.Start(t, wsproxy.WithBackends(svc.url("https")), wsproxy.WithTLSConfig(&tls.Config{RootCAs: ca.pool}))
	for range 6 {
		resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
		proxytest.WantStatus(t, resp, http.StatusForbidden)
		if got, want := <-names, strings.TrimSuffix(serviceName, "."); got != want {
			t.Errorf("SNI asked for %q; want %q", got, want)
		}
	}
	for i := 1; i <= 2; i++ {
		if svc.numAccepted(i) == 0 {
			t.Errorf("127.0.0.%d got none of 6 upgrades", i)
		}
	}
}

// The connection of a name is relayed as that of an address is.
func TestNameHasTunnelOnTheSameEngineAsAddress(t *testing.T) {
	for _, numAddrs := range []int{1, 2} {
		svc := startService(t, numAddrs, nil, nil, nil)
		backend := wstest.StartEcho(t) // on 127.0.0.1; the other addresses refuse
		fmt.Sscanf(backend, "http://127.0.0.1:%d", &svc.port)
		engines := make(map[wsproxy.Engine]bool)
		for _, url := range []string{backend, svc.url("http")} {
			p, s := proxytest.Start(t, wsproxy.WithBackends(url))
			client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantEcho(t, client)
			engines[proxytest.OnlyTunnel(t, p).Info().Engine] = true
			proxytest.HangUp(t, client)
		}
		if len(engines) != 1 {
			t.Errorf("with %d addresses the engines are %v; want the same one for the name and for the address", numAddrs, engines)
		}
	}
}

func TestWithDialerGetsNameOfBackend(t *testing.T) {
	svc := startService(t, 3, nil, nil, nil)
	svc.port = 8080
	network := proxytest.NewNetwork()
	network.Set(serviceName, proxytest.FakeBackend{Answer: proxytest.Switching})
	addrs := make(chan string, 1)
	_, s := proxytest.Start(t, wsproxy.WithBackends(svc.url("http")), wsproxy.WithDialer(
		func(ctx context.Context, kind, addr string) (net.Conn, error) {
			addrs <- addr
			return network.Dial(ctx, kind, addr)
		}))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	if got, want := <-addrs, serviceName+":8080"; got != want {
		t.Errorf("the dialer was called with %q; want %q", got, want)
	}
	proxytest.WantEcho(t, client)
}
