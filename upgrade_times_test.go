package wsproxy_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

// A timeBook has the times of the last upgrade, as hooks saw them.
type timeBook struct {
	began, ended time.Time
	times        wsproxy.UpgradeTimes
	isOpen       bool
}

func (b *timeBook) trace() wsproxy.Option {
	return wsproxy.WithTrace(&wsproxy.Trace{
		Opened:  func(i wsproxy.OpenedInfo) { b.times, b.isOpen, b.ended = i.Times, true, time.Now() },
		Refused: func(i wsproxy.RefusedInfo) { b.times, b.isOpen, b.ended = i.Times, false, time.Now() },
	})
}

// check compares the times, and checks that they add up to no more than the whole.
func (b *timeBook) check(t *testing.T, want wsproxy.UpgradeTimes, isOpen bool) {
	t.Helper()
	if b.times != want || b.isOpen != isOpen {
		t.Errorf("hooks saw %+v, opened %t; want %+v, %t", b.times, b.isOpen, want, isOpen)
	}
	b.checkSum(t)
}

func (b *timeBook) checkSum(t *testing.T) {
	t.Helper()
	sum := b.times.Admit + b.times.Queue + b.times.Dial + b.times.Answer
	if whole := b.ended.Sub(b.began); sum > whole {
		t.Errorf("%+v are %v together; the upgrade took %v", b.times, sum, whole)
	}
}

// wantPhases checks how many upgrades are in each histogram, and the sums of their times.
func wantPhases(t *testing.T, p *wsproxy.Proxy, sums wsproxy.UpgradeTimes, admit, queue, dial, answer, waits uint64) {
	t.Helper()
	s := p.Stats()
	for _, x := range []struct {
		name  string
		got   wsproxy.Histogram
		count uint64
		sum   time.Duration
	}{
		{"Phases.Admit", s.Phases.Admit, admit, sums.Admit}, {"Phases.Queue", s.Phases.Queue, queue, sums.Queue},
		{"Phases.Dial", s.Phases.Dial, dial, sums.Dial}, {"Phases.Answer", s.Phases.Answer, answer, sums.Answer},
		{"QueueWaits", s.QueueWaits, waits, sums.Queue},
	} {
		if x.got.Count != x.count || x.got.Sum != x.sum || len(x.got.Buckets) != 13 {
			t.Errorf("%s has %d times of %v in all, and %d buckets; want %d of %v, and 13", x.name, x.got.Count, x.got.Sum, len(x.got.Buckets), x.count, x.sum)
		}
	}
}

func TestUpgradeTimesOfEachEnd(t *testing.T) {
	const admit, dial, answer = 100 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond
	type times = wsproxy.UpgradeTimes
	accepts := proxytest.FakeBackend{Delay: answer, Answer: proxytest.Switching}
	refusing := func(status int) proxytest.FakeBackend {
		return proxytest.FakeBackend{Delay: answer, Answer: proxytest.Refusing(status, "")}
	}
	for _, tt := range []struct {
		name     string
		a, b     proxytest.FakeBackend
		path     string
		leaves   time.Duration // the client, after that time
		want     times
		isOpen   bool
		numIn    uint64 // whether it was let in
		numDials uint64 // whether it has dialed
		numConns uint64 // whether it has connected
	}{
		{name: "one attempt", a: accepts, want: times{Admit: admit, Dial: dial, Answer: answer}, isOpen: true, numIn: 1, numDials: 1, numConns: 1},
		{name: "second attempt after a dial", a: proxytest.FakeBackend{DialErr: errors.New("refused")}, b: accepts,
			want: times{Admit: admit, Dial: 2 * dial, Answer: answer}, isOpen: true, numIn: 1, numDials: 1, numConns: 1},
		{name: "second attempt after a response", a: refusing(503), b: accepts,
			want: times{Admit: admit, Dial: 2 * dial, Answer: 2 * answer}, isOpen: true, numIn: 1, numDials: 1, numConns: 1},
		{name: "response of the backend's own", a: refusing(404), want: times{Admit: admit, Dial: dial, Answer: answer}, numIn: 1, numDials: 1, numConns: 1},
		{name: "no backend reached", a: proxytest.FakeBackend{DialErr: errors.New("refused")}, b: proxytest.FakeBackend{DialErr: errors.New("refused")},
			want: times{Admit: admit, Dial: 2 * dial}, numIn: 1, numDials: 1},
		{name: "no response", want: times{Admit: admit, Dial: 2 * dial, Answer: 10*time.Second - 2*dial}, numIn: 1, numDials: 1, numConns: 1},
		{name: "client that leaves", leaves: time.Second, want: times{Admit: admit, Dial: dial, Answer: time.Second - admit - dial}, numIn: 1, numDials: 1, numConns: 1},
		{name: "client that leaves in the hook", leaves: admit / 2, want: times{Admit: admit}, numIn: 1},
		{name: "Admit hook", path: "/refused", want: times{Admit: admit}},
		{name: "Admit hook that panics", path: "/panic", want: times{Admit: admit}},
		{name: "Rewrite hook", path: "/rewrite", want: times{Admit: admit}, numIn: 1},
		{name: "Response hook", a: accepts, path: "/response", want: times{Admit: admit, Dial: dial, Answer: answer}, numIn: 1, numDials: 1, numConns: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var book timeBook
				network := proxytest.NewNetwork()
				network.Set("a", tt.a)
				network.Set("b", tt.b)
				p, s, _ := startInMemory(t, book.trace(), wsproxy.WithBackends("http://a", "http://b"),
					wsproxy.WithDialer(func(ctx context.Context, kind, addr string) (net.Conn, error) {
						time.Sleep(dial)
						return network.Dial(ctx, kind, addr)
					}),
					wsproxy.WithAdmit(func(r *http.Request) (any, error) {
						time.Sleep(admit)
						switch r.URL.Path {
						case "/refused":
							return nil, errors.New("no")
						case "/panic":
							panic("boom")
						}
						return nil, nil
					}),
					wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
						if r.In.URL.Path == "/rewrite" {
							time.Sleep(time.Second)
							return errors.New("no")
						}
						return nil
					}),
					wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
						if r.Request.URL.Path == "/response" {
							time.Sleep(time.Second)
							return errors.New("no")
						}
						return nil
					}))
				book.began = time.Now()
				client := s.Dial(t)
				client.WriteRequest(proxytest.UpgradeTo(cmp.Or(tt.path, "/")))
				time.Sleep(cmp.Or(tt.leaves, 11*time.Second))
				client.Close()
				s.Wait()
				book.check(t, tt.want, tt.isOpen)
				wantPhases(t, p, tt.want, 1, tt.numIn, tt.numDials, tt.numConns, 0)
			})
		})
	}
}

// Neither a request that is no upgrade nor an upgrade after Shutdown has times.
func TestUpgradeTimesAreThoseOfUpgrades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var book timeBook
		p, s, network := startInMemory(t, book.trace(), wsproxy.WithBackends("http://a"))
		network.Set("a", proxytest.FakeBackend{})
		proxytest.Finish(t, s.Dial(t), proxytest.Head("GET / HTTP/1.1", "Host: a", "Connection: close"))
		book.check(t, wsproxy.UpgradeTimes{}, false)
		p.Close()
		proxytest.Finish(t, s.Dial(t), proxytest.UpgradeTo("/"))
		book.check(t, wsproxy.UpgradeTimes{}, false)
		wantPhases(t, p, wsproxy.UpgradeTimes{}, 0, 0, 0, 0, 0)
	})
}

func TestUpgradeTimesHaveTheWaitInTheQueue(t *testing.T) {
	for _, tt := range []struct {
		name   string
		frees  time.Duration // when the backend has a place; 0: never
		want   time.Duration
		isOpen bool
	}{{"turn", 3 * time.Second, 3 * time.Second, true}, {"deadline", 0, 10 * time.Second, false}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var book timeBook
				p, s, network := startInMemory(t, book.trace(), queueOf(1), wsproxy.WithBackendConfigs(wsproxy.BackendConfig{URL: "http://a", MaxTunnels: 1}))
				network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
				first := s.Dial(t)
				first.WriteRequest(proxytest.UpgradeTo("/first"))
				proxytest.WantSwitch(t, first)
				synctest.Wait()
				book.began = time.Now()
				client := s.Dial(t)
				client.WriteRequest(proxytest.UpgradeTo("/"))
				synctest.Wait()
				if tt.frees > 0 {
					time.Sleep(tt.frees)
					first.Send(wstest.Close(1000, ""))
				}
				time.Sleep(10 * time.Second)
				client.ReadResponse()
				synctest.Wait()
				book.check(t, wsproxy.UpgradeTimes{Queue: tt.want}, tt.isOpen)
				numDials := uint64(1)
				if tt.isOpen {
					numDials++
				}
				wantPhases(t, p, wsproxy.UpgradeTimes{Queue: tt.want}, 2, 2, numDials, numDials, 1)
			})
		})
	}
}

// An upgrade that tries its backend again and again does nothing else than dial and wait.
func TestUpgradeTimesAddUpWhereAnUpgradeBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var book timeBook
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			time.Sleep(70 * time.Millisecond)
			return nil, errors.New("refused")
		}
		p, s, _ := startInMemory(t, book.trace(), queueOf(1), wsproxy.WithBackends("http://a"), wsproxy.WithDialer(dial))
		client := s.Dial(t)
		book.began = time.Now()
		client.WriteRequest(proxytest.UpgradeTo("/"))
		time.Sleep(11 * time.Second)
		proxytest.WantStatus(t, client.ReadResponse(), http.StatusServiceUnavailable)
		s.Wait()
		whole := book.ended.Sub(book.began)
		if x := book.times; x.Queue == 0 || x.Dial < 140*time.Millisecond || x.Queue+x.Dial != whole || x.Admit+x.Answer != 0 {
			t.Errorf("hooks saw %+v; want two or more dials of 70 ms, waits, and %v in all", x, whole)
		}
		wantPhases(t, p, book.times, 1, 1, 1, 0, 1)
	})
}

func TestUpgradeTimesCountTLSAsDial(t *testing.T) {
	for _, accepts := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var book timeBook
			dial := func(context.Context, string, string) (net.Conn, error) {
				front, back := memnet.Pipe(64 << 10)
				go func() { // ends with the connection
					time.Sleep(time.Second)
					if !accepts {
						back.Close()
						return
					}
					c := tls.Server(back, &tls.Config{Certificates: []tls.Certificate{wstest.Certificate()}})
					proxytest.FakeBackend{Delay: 2 * time.Second, Answer: proxytest.Switching}.Serve(c)
				}()
				return front, nil
			}
			p, s, _ := startInMemory(t, book.trace(), wsproxy.WithBackends("https://a"), wsproxy.WithDialer(dial),
				wsproxy.WithTLSConfig(&tls.Config{InsecureSkipVerify: true}))
			client := s.Dial(t)
			book.began = time.Now()
			client.WriteRequest(proxytest.UpgradeTo("/"))
			client.ReadResponse()
			client.Close()
			s.Wait()
			want, numConns := wsproxy.UpgradeTimes{Dial: time.Second}, uint64(0)
			if accepts {
				want.Answer, numConns = 2*time.Second, 1
			}
			book.check(t, want, accepts)
			wantPhases(t, p, want, 1, 1, 1, numConns, 0)
		})
	}
}

// Over sockets the event loop dials, and a client over HTTP/2 has the same phases.
func TestUpgradeTimesOverSockets(t *testing.T) {
	const delay = 20 * time.Millisecond
	check := func(t *testing.T, book *timeBook, p *wsproxy.Proxy) {
		t.Helper()
		if x := book.times; !book.isOpen || x.Admit < delay || x.Queue != 0 || x.Dial <= 0 || x.Answer < delay {
			t.Errorf("hooks saw %+v, opened %t; want an Admit and an Answer of 20 ms or more, and a Dial", x, book.isOpen)
		}
		book.checkSum(t)
		wantPhases(t, p, book.times, 1, 1, 1, 1, 0)
	}
	for name, url := range map[string]string{"address": "http://127.0.0.1", "name": "http://localhost"} {
		for _, isHTTP2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, HTTP/2 %t", name, isHTTP2), func(t *testing.T) {
				var book timeBook
				b := wstest.StartBackend(t)
				opened := make(chan bool, 1)
				admit := wsproxy.WithAdmit(func(*http.Request) (any, error) { time.Sleep(delay); return nil, nil })
				p := proxytest.NewProxy(t, book.trace(), admit, wsproxy.WithBackends(strings.Replace(b.URL(), "http://127.0.0.1", url, 1)))
				p.Observe(&wsproxy.Trace{Opened: func(wsproxy.OpenedInfo) { opened <- true }})
				accept := func() {
					backend := b.Accepted(t)
					time.Sleep(delay) // which the backend takes
					backend.AcceptUpgrade(nil)
				}
				book.began = time.Now()
				if isHTTP2 {
					s := proxytest.ServeHTTP2(t, p)
					stream := proxytest.NewHTTP2Client(t, s.URL).Send(t, proxytest.ConnectFields("/ws"))
					accept()
					proxytest.WantStatus(t, stream.Response(t), http.StatusOK)
				} else {
					client := wstest.Dial(t, proxytest.Serve(t, p).URL)
					client.RequestUpgrade("/", nil)
					accept()
					client.WantUpgrade()
				}
				<-opened
				check(t, &book, p)
			})
		}
	}
}
