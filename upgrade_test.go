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
			_, s := start(t, wsproxy.WithBackends("http://"+silent.Addr().String(), wstest.StartEcho(t)))
			begin := time.Now()
			var running sync.WaitGroup
			var mu sync.Mutex
			switched := 0
			for range 20 {
				client := wstest.Dial(t, s.URL)
				tt.turn(&running, func() {
					client.Write([]byte(upgradeTo("/chat")))
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
	p := newProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header["Sec-WebSocket-Key"] = r.Header["Sec-Websocket-Key"]
		delete(r.Header, "Sec-Websocket-Key")
		p.ServeHTTP(w, r)
	}))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(upgradeTo("/chat"))
	wantField(t, wantSwitch(t, client).Header, "Sec-WebSocket-Accept", sampleAccept)
}

func TestUpgradeMovesOnToTheNextBackend(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first fakeBackend
	}{
		{"dial refused", fakeBackend{dialErr: errors.New("refused")}},
		{"502", fakeBackend{answer: refusing(502, "")}},
		{"503", fakeBackend{answer: refusing(503, "busy")}},
		{"504", fakeBackend{answer: refusing(504, "")}},
		{"no HTTP", fakeBackend{answer: "nonsense\r\n\r\n"}},
		{"wrong Accept", fakeBackend{answer: strings.Replace(switching, "{accept}", sampleAccept, 1)}},
		{"Accept missing", fakeBackend{answer: strings.Replace(switching, "Sec-WebSocket-Accept", "X", 1)}},
		{"six interim answers", fakeBackend{answer: strings.Repeat(raw("HTTP/1.1 103 Early Hints"), 6) + switching}},
		{"header too long", fakeBackend{answer: switchingWith("X-Long: " + strings.Repeat("x", 64<<10))}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			network := newFakeNet()
			network.set("a", tt.first)
			network.set("b", fakeBackend{answer: switching})
			var dialed []string
			p, s := start(t, wsproxy.WithBackends("http://a", "http://b"), firstOf, wsproxy.WithDialer(network.dial),
				wsproxy.WithTrace(&wsproxy.Trace{Attempted: func(i wsproxy.AttemptInfo) {
					dialed = append(dialed, fmt.Sprintf("%d %s %t", i.Attempt, i.Backend.ID(), i.Err == nil))
				}}))
			client, _ := open(t, s.URL, upgradeTo("/chat"))
			wantEcho(t, client)
			if want := []string{"1 http://a false", "2 http://b true"}; !slices.Equal(dialed, want) {
				t.Errorf("attempts are %q; want %q", dialed, want)
			}
			if i := onlyTunnel(t, p).Info(); i.Attempts != 2 || i.URL.String() != "/chat" {
				t.Errorf("tunnel to %s after %d attempts; want /chat after 2", i.URL, i.Attempts)
			}
			states := []wsproxy.BackendState{p.Backends()[0].State(), p.Backends()[1].State()}
			if want := []wsproxy.BackendState{wsproxy.BackendFailing, wsproxy.BackendUp}; !slices.Equal(states, want) {
				t.Errorf("states are %v; want %v", states, want)
			}
			hangUp(t, client)
			s.wait()
			wantNoTunnels(t, p)
		})
	}
}

func TestRefusalOfABackendIsFinal(t *testing.T) {
	for _, status := range []int{200, 302, 400, 401, 403, 404, 426, 429, 500, 501, 505} {
		network := newFakeNet()
		network.set("a", fakeBackend{answer: refusing(status, "")})
		network.set("b", fakeBackend{answer: switching})
		p, s := start(t, wsproxy.WithBackends("http://a", "http://b"), firstOf, wsproxy.WithDialer(network.dial))
		resp, _ := exchange(t, s.URL, upgradeTo("/chat"))
		wantStatus(t, resp, status)
		if n := len(network.takeDials()); n != 1 {
			t.Errorf("%d: %d dials; want 1", status, n)
		}
		if state := p.Backends()[0].State(); state != wsproxy.BackendUp {
			t.Errorf("%d: backend is %v; want up: it has answered", status, state)
		}
	}
}

func TestLastBackendsAnswerGoesToTheClient(t *testing.T) {
	network := newFakeNet()
	network.set("a", fakeBackend{dialErr: errors.New("refused")})
	network.set("b", fakeBackend{answer: refusing(502, "b", "X-From: b")})
	network.set("c", fakeBackend{answer: refusing(503, "c", "X-From: c", "Retry-After: 7")})
	p, s := start(t, wsproxy.WithBackends("http://a", "http://b", "http://c"), firstOf, wsproxy.WithDialer(network.dial))
	resp, body := exchange(t, s.URL, upgradeTo("/chat"))
	wantStatus(t, resp, http.StatusServiceUnavailable)
	wantField(t, resp.Header, "X-From", "c")
	wantField(t, resp.Header, "Retry-After", "7")
	if body != "c" {
		t.Errorf("client got body %q; want c", body)
	}
	s.wait()
	wantNoTunnels(t, p)
}

func TestUpgradeTriesThreeBackendsAtMost(t *testing.T) {
	network := newFakeNet() // where nobody is
	var errs []error
	p, s := start(t, wsproxy.WithBackends("http://a", "http://b", "http://c", "http://d"), wsproxy.WithDialer(network.dial),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
			errs = append(errs, err)
			w.WriteHeader(http.StatusTeapot)
		}))
	exchange(t, s.URL, upgradeTo("/chat"))
	dials := network.takeDials()
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
	s.wait()
	wantNoTunnels(t, p)
	if st := p.Stats(); st.Failed != 1 || st.Refused != 0 {
		t.Errorf("Stats() has %d failed, %d refused; want 1 and 0", st.Failed, st.Refused)
	}
}

func TestBalancerIsOfferedWhatWasNotTried(t *testing.T) {
	network := newFakeNet()
	network.set("c", fakeBackend{answer: switching})
	var offers []string
	balancer := wsproxy.BalancerFunc(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
		var ids []string
		for _, b := range candidates {
			ids = append(ids, b.ID())
		}
		offers = append(offers, strings.Join(ids, " "))
		return candidates[0], nil
	})
	_, s := start(t, wsproxy.WithBackendConfigs(
		wsproxy.BackendConfig{ID: "a", URL: "http://a"},
		wsproxy.BackendConfig{ID: "b", URL: "http://b"},
		wsproxy.BackendConfig{ID: "c", URL: "http://c", MaxTunnels: 1},
		wsproxy.BackendConfig{ID: "d", URL: "http://d"},
	), wsproxy.WithBalancer(balancer), wsproxy.WithDialer(network.dial))
	open(t, s.URL, upgradeTo("/chat"))
	exchange(t, s.URL, upgradeTo("/chat"))
	want := []string{
		"a b c d", "b c d", "c d", // a and b fail
		"d", "a b", "b", // c is full; a and b wait until d has been tried
	}
	if !slices.Equal(offers, want) {
		t.Errorf("offers are %q; want %q", offers, want)
	}
}

func TestInvalidPickIsTheProgramsFault(t *testing.T) {
	other := newProxy(t, wsproxy.WithBackends("http://elsewhere")).Backends()[0]
	for name, picked := range map[string]*wsproxy.Backend{"nil": nil, "foreign": other} {
		t.Run(name, func(t *testing.T) {
			network := newFakeNet()
			p, s := start(t, wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.dial),
				wsproxy.WithBalancer(wsproxy.BalancerFunc(func(*http.Request, []*wsproxy.Backend) (*wsproxy.Backend, error) {
					return picked, nil
				})))
			resp, _ := exchange(t, s.URL, upgradeTo("/chat"))
			wantStatus(t, resp, http.StatusInternalServerError)
			if dials := network.takeDials(); len(dials) != 0 {
				t.Errorf("dials are %q; want none", dials)
			}
			s.wait()
			wantNoTunnels(t, p)
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
	network := newFakeNet() // where nobody is
	backends := wsproxy.WithBackends("http://a", "http://b", "http://c")
	p, s := start(t, backends, wsproxy.WithDialer(network.dial), retrying(func() error {
		return &wsproxy.StatusError{Status: 409, Header: http.Header{"X-Session": {"lost"}}, Err: errors.New("your session's backend is down")}
	}))
	resp, body := exchange(t, s.URL, upgradeTo("/chat"))
	wantStatus(t, resp, http.StatusConflict)
	wantField(t, resp.Header, "X-Session", "lost")
	if want := "your session's backend is down\n"; body != want {
		t.Errorf("client got body %q; want %q", body, want)
	}
	if dials := network.takeDials(); len(dials) != 1 {
		t.Errorf("dials are %q; want one: the balancer's error is final", dials)
	}
	s.wait()
	wantNoTunnels(t, p)
}

func TestBalancerMayAbortTheSecondAttempt(t *testing.T) {
	var book logBook
	p, s := start(t, book.option(), wsproxy.WithBackends("http://a", "http://b"), wsproxy.WithDialer(newFakeNet().dial),
		retrying(func() error { panic(http.ErrAbortHandler) }))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(upgradeTo("/chat"))
	client.WantEOF()
	if lines := book.lines("level=ERROR"); len(lines) > 0 {
		t.Errorf("log has %q at Error; want nothing: it is no fault", lines)
	}
	s.wait()
	wantNoTunnels(t, p)
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
	_, s := start(t, wsproxy.WithBackends(fmt.Sprintf("http://backend.wsproxy.example.:%d", port)))

	for _, tt := range []struct {
		addr [4]byte
		ln   net.Listener
	}{{[4]byte{127, 0, 0, 1}, first}, {[4]byte{127, 0, 0, 2}, second}, {[4]byte{127, 0, 0, 1}, first}} {
		server.set(tt.addr)
		client := wstest.Dial(t, s.URL)
		client.WriteRequest(upgradeTo("/chat"))
		tt.ln.(*net.TCPListener).SetDeadline(time.Now().Add(5 * time.Second))
		c, err := tt.ln.Accept()
		if err != nil {
			t.Fatalf("nobody was dialed at %v: %v", tt.addr, err)
		}
		wstest.NewBackend(t, c).AcceptUpgrade(nil)
		wantSwitch(t, client)
	}
}
