package wsproxy_test

import (
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestAdmitIsCalledOnceAfterTheChecksAndBeforeThePick(t *testing.T) {
	events := make(chan string, 10)
	_, s := proxytest.Start(t,
		wsproxy.WithBackends("http://127.0.0.1:1", "http://127.0.0.1:2", wstest.StartEcho(t)), proxytest.FirstCandidate,
		wsproxy.WithOriginPatterns(),
		wsproxy.WithAdmit(func(*http.Request) (any, error) { events <- "admit"; return nil, nil }),
		wsproxy.WithTrace(&wsproxy.Trace{Picked: func(wsproxy.PickedInfo) { events <- "pick" }}))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/", "Origin: https://evil.example"))
	proxytest.WantStatus(t, resp, http.StatusForbidden)
	resp, _ = proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/", "Content-Length: 1")+"x")
	proxytest.WantStatus(t, resp, http.StatusBadRequest)
	proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	close(events)
	var got []string
	for e := range events {
		got = append(got, e)
	}
	if want := []string{"admit", "pick", "pick", "pick"}; !slices.Equal(got, want) {
		t.Errorf("three requests, of which one passes the checks, made %q; want %q", got, want)
	}
}

// A user is what an Admit hook of these tests returns.
type user struct{ name string }

func TestAdmittedValueReachesHooksAndTunnel(t *testing.T) {
	alice := &user{"alice"}
	values := make(chan any, 10)
	refuse := false
	p, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)),
		wsproxy.WithAdmit(func(r *http.Request) (any, error) {
			if v := wsproxy.Admitted(r); v != nil {
				t.Errorf("Admitted = %v within the Admit hook", v)
			}
			return alice, nil
		}),
		wsproxy.WithBalancer(wsproxy.Hash(func(r *http.Request) string {
			values <- wsproxy.Admitted(r)
			return "key"
		})),
		wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
			values <- r.Value
			if refuse {
				return errors.New("no")
			}
			return nil
		}),
		wsproxy.WithTrace(&wsproxy.Trace{
			Refused: func(i wsproxy.RefusedInfo) { values <- i.Value },
			Opened:  func(i wsproxy.OpenedInfo) { values <- i.Tunnel.Info().Value },
			Closed:  func(e wsproxy.TunnelEnd) { values <- e.Value },
		}))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	values <- proxytest.OnlyTunnel(t, p).Info().Value
	proxytest.HangUp(t, client)
	s.Wait()
	refuse = true
	proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/"))
	s.Wait()
	if n := len(values); n != 8 {
		t.Errorf("%d values were seen; want 8", n)
	}
	for close(values); len(values) > 0; {
		if v := <-values; v != alice {
			t.Errorf("a hook saw the value %v; want what Admit returned", v)
		}
	}
}

func TestValueWithoutAdmitIsNil(t *testing.T) {
	p, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	if i := proxytest.OnlyTunnel(t, p).Info(); i.Value != nil || i.Attempts != 1 {
		t.Errorf("Info() has value %v and %d attempts; want nil and 1", i.Value, i.Attempts)
	}
}

func TestClientThatIsNotAdmittedReachesNoBackend(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Switching)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()),
		wsproxy.WithAdmit(func(r *http.Request) (any, error) {
			return nil, &wsproxy.StatusError{Status: 401, Header: http.Header{"Www-Authenticate": {"Bearer"}}, Err: errors.New("log in")}
		}))
	resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/"))
	proxytest.WantStatus(t, resp, http.StatusUnauthorized)
	proxytest.WantField(t, resp.Header, "Www-Authenticate", "Bearer")
	if body != "log in\n" {
		t.Errorf("client got body %q", body)
	}
	proxytest.WantUntouched(t, backend)
}

// A user who signs out while an upgrade is under way is found by one of the two.
func TestTunnelIsListedBeforeItsOpenedHook(t *testing.T) {
	var p *wsproxy.Proxy
	listed := make(chan bool, 1)
	p, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithTrace(&wsproxy.Trace{
		Opened: func(i wsproxy.OpenedInfo) {
			_, ok := p.Tunnel(i.Tunnel.ID())
			listed <- ok && slices.Contains(slices.Collect(p.Tunnels()), i.Tunnel)
			i.Tunnel.Close(1008, "signed out")
		},
	}))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	client.WantClose(1008)
	client.Close()
	if !<-listed {
		t.Error("Opened was called for a tunnel that is not listed")
	}
}
