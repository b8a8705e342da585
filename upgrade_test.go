package wsproxy_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestABackendThatNeverAnswersCostsNoUpgrade(t *testing.T) {
	t.Parallel() // half of the handshake timeout passes in real time
	for _, tt := range []struct {
		name string
		turn func(*sync.WaitGroup, func())
	}{
		{"one after another", func(_ *sync.WaitGroup, f func()) { f() }},
		{"at once", func(wg *sync.WaitGroup, f func()) { wg.Go(f) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			silent, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer silent.Close()
			_, s := proxytest.Start(t, wsproxy.WithBackends("http://"+silent.Addr().String(), wstest.StartEcho(t)))
			begin := time.Now()
			var running sync.WaitGroup
			var mu sync.Mutex
			switched := 0
			for range 20 {
				client := wstest.Dial(t, s.URL)
				tt.turn(&running, func() {
					client.Write([]byte(proxytest.UpgradeTo("/chat")))
					answer := make([]byte, len("HTTP/1.1 101"))
					if _, err := client.Read(answer); err == nil && string(answer) == "HTTP/1.1 101" {
						mu.Lock()
						defer mu.Unlock()
						switched++
					}
				})
			}
			running.Wait()
			if took := time.Since(begin); switched != 20 || took > 10*time.Second {
				t.Errorf("%d of 20 upgrades got their 101 in %v; want all in 10 s", switched, took)
			}
		})
	}
}

func TestKeyIsTheClientsHoweverAMiddlewareSpellsIt(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header["Sec-WebSocket-Key"] = r.Header["Sec-Websocket-Key"]
		delete(r.Header, "Sec-Websocket-Key")
		p.ServeHTTP(w, r)
	}))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	proxytest.WantField(t, proxytest.WantSwitch(t, client).Header, "Sec-WebSocket-Accept", proxytest.SampleAccept)
}

func TestUpgradeMovesOnToTheNextBackend(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first proxytest.FakeBackend
	}{
		{"dial refused", proxytest.FakeBackend{DialErr: errors.New("refused")}},
		{"502", proxytest.FakeBackend{Answer: proxytest.Refusing(502, "")}},
		{"503", proxytest.FakeBackend{Answer: proxytest.Refusing(503, "busy")}},
		{"504", proxytest.FakeBackend{Answer: proxytest.Refusing(504, "")}},
		{"no HTTP", proxytest.FakeBackend{Answer: "nonsense\r\n\r\n"}},
		{"wrong Accept", proxytest.FakeBackend{Answer: strings.Replace(proxytest.Switching, "{accept}", proxytest.SampleAccept, 1)}},
		{"Accept missing", proxytest.FakeBackend{Answer: strings.Replace(proxytest.Switching, "Sec-WebSocket-Accept", "X", 1)}},
		{"six interim answers", proxytest.FakeBackend{Answer: strings.Repeat(proxytest.Head("HTTP/1.1 103 Early Hints"), 6) + proxytest.Switching}},
		{"header too long", proxytest.FakeBackend{Answer: proxytest.SwitchingWith("X-Long: " + strings.Repeat("x", 64<<10))}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			network := proxytest.NewNetwork()
			network.Set("a", tt.first)
			network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
			var dialed []string
			p, s := proxytest.Start(t, wsproxy.WithBackends("http://a", "http://b"), proxytest.FirstCandidate, wsproxy.WithDialer(network.Dial),
				wsproxy.WithTrace(&wsproxy.Trace{Attempted: func(i wsproxy.AttemptInfo) {
					dialed = append(dialed, fmt.Sprintf("%d %s %t", i.Attempt, i.Backend.ID(), i.Err == nil))
				}}))
			client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantEcho(t, client)
			if want := []string{"1 http://a false", "2 http://b true"}; !slices.Equal(dialed, want) {
				t.Errorf("attempts are %q; want %q", dialed, want)
			}
			if i := proxytest.OnlyTunnel(t, p).Info(); i.Attempts != 2 || i.URL.String() != "/chat" {
				t.Errorf("tunnel to %s after %d attempts; want /chat after 2", i.URL, i.Attempts)
			}
			states := []wsproxy.BackendState{p.Backends()[0].State(), p.Backends()[1].State()}
			if want := []wsproxy.BackendState{wsproxy.BackendFailing, wsproxy.BackendUp}; !slices.Equal(states, want) {
				t.Errorf("states are %v; want %v", states, want)
			}
			proxytest.HangUp(t, client)
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
	}
}

func TestRefusalOfABackendIsFinal(t *testing.T) {
	for _, status := range []int{200, 302, 400, 401, 403, 404, 426, 429, 500, 501, 505} {
		network := proxytest.NewNetwork()
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Refusing(status, "")})
		network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
		p, s := proxytest.Start(t, wsproxy.WithBackends("http://a", "http://b"), proxytest.FirstCandidate, wsproxy.WithDialer(network.Dial))
		resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
		proxytest.WantStatus(t, resp, status)
		if n := len(network.TakeDials()); n != 1 {
			t.Errorf("%d: %d dials; want 1", status, n)
		}
		if state := p.Backends()[0].State(); state != wsproxy.BackendUp {
			t.Errorf("%d: backend is %v; want up: it has answered", status, state)
		}
	}
}

func TestLastBackendsAnswerGoesToTheClient(t *testing.T) {
	network := proxytest.NewNetwork()
	network.Set("a", proxytest.FakeBackend{DialErr: errors.New("refused")})
	network.Set("b", proxytest.FakeBackend{Answer: proxytest.Refusing(502, "b", "X-From: b")})
	network.Set("c", proxytest.FakeBackend{Answer: proxytest.Refusing(503, "c", "X-From: c", "Retry-After: 7")})
	p, s := proxytest.Start(t, wsproxy.WithBackends("http://a", "http://b", "http://c"), proxytest.FirstCandidate, wsproxy.WithDialer(network.Dial))
	resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	proxytest.WantField(t, resp.Header, "X-From", "c")
	proxytest.WantField(t, resp.Header, "Retry-After", "7")
	if body != "c" {
		t.Errorf("client got body %q; want c", body)
	}
	s.Wait()
	proxytest.WantNoTunnels(t, p)
}

func TestUpgradeTriesThreeBackendsAtMost(t *testing.T) {
	network := proxytest.NewNetwork() // where nobody is
	var errs []error
	p, s := proxytest.Start(t, wsproxy.WithBackends("http://a", "http://b", "http://c", "http://d"), wsproxy.WithDialer(network.Dial),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
			errs = append(errs, err)
			w.WriteHeader(http.StatusTeapot)
		}))
	proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	dials := network.TakeDials()
	if len(dials) != 3 {
		t.Errorf("dials are %q; want 3", dials)
	}
	joined, ok := errs[0].(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 3 {
		t.Fatalf("error is %v; want a join of three", errs[0])
	}
	for i, err := range joined.Unwrap() {
		failed, ok := err.(*wsproxy.BackendError)
		if !ok || failed.Op != "dial" || !strings.HasPrefix(dials[i], strings.TrimPrefix(failed.ID, "http://")) {
			t.Errorf("error %d is %#v; want a *BackendError about dial %s", i, err, dials[i])
		}
	}
	s.Wait()
	proxytest.WantNoTunnels(t, p)
	if st := p.Stats(); st.Failed != 1 || st.Refused != 0 {
		t.Errorf("Stats() has %d failed, %d refused; want 1 and 0", st.Failed, st.Refused)
	}
}

func TestBalancerIsOfferedWhatWasNotTried(t *testing.T) {
	network := proxytest.NewNetwork()
	network.Set("c", proxytest.FakeBackend{Answer: proxytest.Switching})
	var offers []string
	balancer := wsproxy.BalancerFunc(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
		var ids []string
		for _, b := range candidates {
			ids = append(ids, b.ID())
		}
		offers = append(offers, strings.Join(ids, " "))
		return candidates[0], nil
	})
	_, s := proxytest.Start(t, wsproxy.WithBackendConfigs(
		wsproxy.BackendConfig{ID: "a", URL: "http://a"},
		wsproxy.BackendConfig{ID: "b", URL: "http://b"},
		wsproxy.BackendConfig{ID: "c", URL: "http://c", MaxTunnels: 1},
		wsproxy.BackendConfig{ID: "d", URL: "http://d"},
	), wsproxy.WithBalancer(balancer), wsproxy.WithDialer(network.Dial))
	proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	want := []string{
		"a b c d", "b c d", "c d", // a and b fail
		"d", "a b", "b", // c is full; a and b wait until d has been tried
	}
	if !slices.Equal(offers, want) {
		t.Errorf("offers are %q; want %q", offers, want)
	}
}

func TestInvalidPickIsTheProgramsFault(t *testing.T) {
	other := proxytest.NewProxy(t, wsproxy.WithBackends("http://elsewhere")).Backends()[0]
	for name, picked := range map[string]*wsproxy.Backend{"nil": nil, "foreign": other} {
		t.Run(name, func(t *testing.T) {
			network := proxytest.NewNetwork()
			p, s := proxytest.Start(t, wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.Dial),
				wsproxy.WithBalancer(wsproxy.BalancerFunc(func(*http.Request, []*wsproxy.Backend) (*wsproxy.Backend, error) {
					return picked, nil
				})))
			resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, http.StatusInternalServerError)
			if dials := network.TakeDials(); len(dials) != 0 {
				t.Errorf("dials are %q; want none", dials)
			}
			s.Wait()
			proxytest.WantNoTunnels(t, p)
			if n := other.NumTunnels(); n != 0 {
				t.Errorf("foreign backend has %d tunnels; want 0", n)
			}
		})
	}
}

// retrying returns a balancer whose second pick ends so.
func retrying(second func() error) wsproxy.Option {
	calls := 0
	return wsproxy.WithBalancer(wsproxy.BalancerFunc(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
		if calls++; calls == 2 {
			return nil, second()
		}
		return candidates[0], nil
	}))
}

func TestBalancerMayRefuseTheSecondAttempt(t *testing.T) {
	network := proxytest.NewNetwork() // where nobody is
	backends := wsproxy.WithBackends("http://a", "http://b", "http://c")
	p, s := proxytest.Start(t, backends, wsproxy.WithDialer(network.Dial), retrying(func() error {
		return &wsproxy.StatusError{Status: 409, Header: http.Header{"X-Session": {"lost"}}, Err: errors.New("your session's backend is down")}
	}))
	resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusConflict)
	proxytest.WantField(t, resp.Header, "X-Session", "lost")
	if want := "your session's backend is down\n"; body != want {
		t.Errorf("client got body %q; want %q", body, want)
	}
	if dials := network.TakeDials(); len(dials) != 1 {
		t.Errorf("dials are %q; want one: the balancer's error is final", dials)
	}
	s.Wait()
	proxytest.WantNoTunnels(t, p)
}

func TestBalancerMayAbortTheSecondAttempt(t *testing.T) {
	var book proxytest.LogBook
	p, s := proxytest.Start(t, book.Option(), wsproxy.WithBackends("http://a", "http://b"), wsproxy.WithDialer(proxytest.NewNetwork().Dial),
		retrying(func() error { panic(http.ErrAbortHandler) }))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	client.WantEOF()
	if lines := book.Lines("level=ERROR"); len(lines) > 0 {
		t.Errorf("log has %q at Error; want nothing: it is no fault", lines)
	}
	s.Wait()
	proxytest.WantNoTunnels(t, p)
}

// A nameServer answers every question for an address with the one that it has
// now.
type nameServer struct {
	mu      sync.Mutex
	addr    [4]byte
	queries int
}

func (s *nameServer) set(addr [4]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addr = addr
}

// dial gives a [net.Resolver] a connection with the server: messages with their
// length before them, as DNS has it on streams.
func (s *nameServer) dial(context.Context, string, string) (net.Conn, error) {
	front, back := net.Pipe()
	go func() { // until the resolver closes front
		defer back.Close()
		for {
			var length [2]byte
			if _, err := back.Read(length[:]); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(length[:]))
			if _, err := back.Read(query); err != nil {
				return
			}
			answer := s.answer(query)
			back.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
		}
	}()
	return front, nil
}

func (s *nameServer) answer(query []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queries++
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil
	}
	m.Response, m.Authoritative = true, true
	m.Additionals = nil
	if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 3600},
			Body:   &dnsmessage.AResource{A: s.addr},
		}}
	}
	answer, _ := m.Pack()
	return answer
}

// A name's address may change while its time to live has not passed. The default
// dialer uses net.DefaultResolver, which asks each time.
func TestNameIsResolvedAtEachDial(t *testing.T) {
	server := new(nameServer)
	old := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: server.dial}
	defer func() { net.DefaultResolver = old }()

	// Two backends with one port, at different addresses of this machine.
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	port := first.Addr().(*net.TCPAddr).Port
	second, err := net.Listen("tcp", fmt.Sprintf("127.0.0.2:%d", port))
	if err != nil {
		t.Skipf("only Linux has all of 127.0.0.0/8: %v", err)
	}
	defer second.Close()
	_, s := proxytest.Start(t, wsproxy.WithBackends(fmt.Sprintf("http://backend.wsproxy.example.:%d", port)))

	for _, tt := range []struct {
		addr [4]byte
		ln   net.Listener
	}{{[4]byte{127, 0, 0, 1}, first}, {[4]byte{127, 0, 0, 2}, second}, {[4]byte{127, 0, 0, 1}, first}} {
		server.set(tt.addr)
		client := wstest.Dial(t, s.URL)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		tt.ln.(*net.TCPListener).SetDeadline(time.Now().Add(5 * time.Second))
		c, err := tt.ln.Accept()
		if err != nil {
			t.Fatalf("nobody was dialed at %v: %v", tt.addr, err)
		}
		wstest.NewBackend(t, c).AcceptUpgrade(nil)
		proxytest.WantSwitch(t, client)
	}
}
