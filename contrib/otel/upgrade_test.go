package wsotel

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestUpgradeSpanEndsAtThe101(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		backend := wstest.StartEcho(t)
		s := newScene(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: backend}), way)
		mux := http.NewServeMux()
		mux.Handle("GET /rooms/{room}", s)
		site := proxytest.Serve(t, mux)
		client, resp := proxytest.Open(t, site.URL, proxytest.UpgradeTo("/rooms/7?token=secret", "User-Agent: tester"))
		upgrade := s.ended(t, upgradeSpan)
		proxytest.WantEcho(t, client) // it is open
		if events := upgrade.Events(); len(events) > 0 {
			t.Errorf("the span has the events %v; want none for one attempt", events)
		}
		wantAttributes(t, upgrade, map[attribute.Key]any{
			"http.request.method": "GET", "http.route": "/rooms/{room}", "url.path": "/rooms/7", "url.scheme": "http",
			"http.response.status_code": int64(101), "network.protocol.version": "1.1",
			"server.address": "chat.example", "client.address": "127.0.0.1", "user_agent.original": "tester",
			"wsproxy.result": "opened", "wsproxy.backend": "a", "wsproxy.attempts": int64(1), "wsproxy.tunnel.id": int64(1),
			"wsproxy.request_id": proxytest.OnlyTunnel(t, s.proxy).Info().RequestID,
		}, timeKeys...)
		if upgrade.SpanKind() != trace.SpanKindServer || upgrade.Parent().IsValid() || upgrade.Status().Code != codes.Unset {
			t.Errorf("the span is of kind %v, its parent %v, its status %v; want a root of kind server without a status",
				upgrade.SpanKind(), upgrade.Parent(), upgrade.Status())
		}
		if resp.Header.Get("Traceparent") != "" {
			t.Error("the client got a traceparent")
		}
		proxytest.HangUp(t, client)
		s.wantNothingKept(t)
	})
}

// timeKeys are the phases that each upgrade has which opens a tunnel.
var timeKeys = []attribute.Key{keyAdmitTime, keyDialTime, keyAnswerTime}

func TestUpgradeSpanHasSubprotocolOfTheBackend(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.SwitchingWith("Sec-WebSocket-Protocol: v2"))
	s := newScene(t, wsproxy.WithBackends(backend.URL()))
	client, _ := proxytest.Open(t, proxytest.Serve(t, s).URL, proxytest.UpgradeWithOffers)
	if got := attributesOf(s.ended(t, upgradeSpan).Attributes())[keySubprotocol]; got != "v2" {
		t.Errorf("the subprotocol is %v; want v2", got)
	}
	client.Close()
}

func TestUpgradeSpanHasEachAttemptIfOneFailed(t *testing.T) {
	broken := wstest.StartRaw(t, "HTTP/1.1 nonsense\r\n\r\n")
	busy := wstest.StartRaw(t, proxytest.Refusing(503, ""))
	s := newScene(t, proxytest.FirstCandidate, wsproxy.WithBackendConfigs(
		wsproxy.BackendConfig{ID: "broken", URL: broken.URL()},
		wsproxy.BackendConfig{ID: "busy", URL: busy.URL()},
		wsproxy.BackendConfig{ID: "good", URL: wstest.StartEcho(t)}))
	client, _ := proxytest.Open(t, proxytest.Serve(t, s).URL, proxytest.UpgradeTo("/"))
	upgrade := s.ended(t, upgradeSpan)
	if got := attributesOf(upgrade.Attributes()); got[keyAttempts] != int64(3) || got[keyBackend] != "good" {
		t.Errorf("the span has %v attempts, the last one with %v; want 3 and good", got[keyAttempts], got[keyBackend])
	}
	events := upgrade.Events()
	if len(events) != 3 {
		t.Fatalf("the span has %d events; want 3", len(events))
	}
	for i, want := range []struct {
		backend string
		status  any
		failed  bool
	}{{"broken", nil, true}, {"busy", int64(503), true}, {"good", int64(101), false}} {
		got := attributesOf(events[i].Attributes)
		if _, failed := got[keyError]; events[i].Name != attemptEvent || got[keyBackend] != want.backend ||
			got["http.response.status_code"] != want.status || failed != want.failed || got[keyAttempt] != int64(i+1) {
			t.Errorf("event %d is %s with %v; want attempt %d, %+v", i, events[i].Name, got, i+1, want)
		}
		if d, ok := got[keyDuration].(float64); !ok || d <= 0 {
			t.Errorf("event %d has the duration %v; want one above 0", i, got[keyDuration])
		}
	}
	proxytest.HangUp(t, client)
}

func TestBackendGetsTraceOfUpgradeOnce(t *testing.T) {
	tests := map[string]struct {
		lines     []string
		wantTrace string
	}{
		"without one":                {nil, ""},
		"continued":                  {[]string{"traceparent: " + incomingParent, "tracestate: a=b", "baggage: k=v"}, incomingTrace},
		"spelled otherwise":          {[]string{"TRACEPARENT: " + incomingParent}, incomingTrace},
		"twice":                      {[]string{"traceparent: " + incomingParent, "Traceparent: " + incomingParent}, incomingTrace},
		"invalid, with a tracestate": {[]string{"traceparent: 00-0-0-01", "tracestate: a=b"}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			backend := wstest.StartBackend(t)
			s := newScene(t, wsproxy.WithBackends(backend.URL()))
			client := wstest.Dial(t, proxytest.Serve(t, s).URL)
			client.WriteRequest(proxytest.UpgradeTo("/", tt.lines...))
			leg := backend.Accepted(t)
			got := leg.AcceptUpgrade(nil)
			proxytest.WantSwitch(t, client)
			upgrade := s.ended(t, upgradeSpan)
			parent := parentOf(t, got.Header)
			if !parent.Equal(upgrade.SpanContext().WithRemote(true)) {
				t.Errorf("the backend got %v; want the span %v", parent, upgrade.SpanContext())
			}
			isContinued := upgrade.Parent().TraceID().String() == incomingTrace && upgrade.Parent().SpanID().String() == incomingSpan
			if want := tt.wantTrace != ""; isContinued != want {
				t.Errorf("the parent of the span is %v; want that of the client: %t", upgrade.Parent(), want)
			}
			if name == "continued" {
				proxytest.WantField(t, got.Header, "Tracestate", "a=b")
				proxytest.WantField(t, got.Header, "Baggage", "k=v")
			} else {
				proxytest.WantField(t, got.Header, "Tracestate")
			}
			client.Close()
			leg.Close()
		})
	}
}

// The span of a middleware is the parent. Otelhttp has its own name for the same upgrade.
func TestUpgradeSpanIsInternalBehindOtelhttp(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		for _, version := range []string{"1.1", "2"} {
			for name, front := range map[string]func(http.Handler) http.Handler{
				"with Front":    wsproxy.Front,
				"without Front": func(h http.Handler) http.Handler { return h },
			} {
				t.Run(version+"/"+name, func(t *testing.T) {
					backend := wstest.StartBackend(t)
					s := newScene(t, wsproxy.WithBackends(backend.URL()), way)
					spans, provider := newRecorder(t, sdktrace.AlwaysSample())
					h := front(otelhttp.NewHandler(s, "ws", otelhttp.WithTracerProvider(provider), otelhttp.WithPropagators(w3c)))
					client, atBackend, leg := openOver(t, version, h, backend)
					upgrade := s.ended(t, upgradeSpan)
					server := spans.Started()[0]
					if upgrade.SpanKind() != trace.SpanKindInternal || upgrade.Parent().SpanID() != server.SpanContext().SpanID() {
						t.Errorf("the span is of kind %v, beneath %v; want internal, beneath %v", upgrade.SpanKind(), upgrade.Parent(), server.SpanContext())
					}
					if got := server.Parent().TraceID().String(); got != incomingTrace {
						t.Errorf("the server's span is of trace %s; want %s", got, incomingTrace)
					}
					if got := parentOf(t, atBackend.Header); !got.Equal(upgrade.SpanContext().WithRemote(true)) {
						t.Errorf("the backend got %v; want %v", got, upgrade.SpanContext())
					}
					got := attributesOf(upgrade.Attributes())
					want := map[attribute.Key]any{"http.request.method": "GET", "http.response.status_code": int64(101), "url.scheme": "http"}
					if version == "2" {
						want = map[attribute.Key]any{"http.request.method": "CONNECT", "http.response.status_code": int64(200), "url.scheme": "https"}
					}
					want["network.protocol.version"] = version
					for key, value := range want {
						if got[key] != value {
							t.Errorf("%s is %v; want %v", key, got[key], value)
						}
					}
					client.Send(wstest.Close(1000, ""))
					leg.WantClose(1000)
					leg.Send(wstest.Close(1000, ""))
					client.WantClose(1000)
					client.Close()
					leg.Close()
					s.wantNothingKept(t)
				})
			}
		}
	})
}

// openOver opens a tunnel over a version of HTTP, with the traceparent of a client.
func openOver(t *testing.T, version string, h http.Handler, b *wstest.Backend) (client *wstest.Peer, r *http.Request, backend *wstest.Peer) {
	t.Helper()
	if version == "1.1" {
		client = wstest.Dial(t, proxytest.Serve(t, h).URL)
		client.WriteRequest(proxytest.UpgradeTo("/ws", "traceparent: "+incomingParent))
		backend = b.Accepted(t)
		r = backend.AcceptUpgrade(nil)
		proxytest.WantSwitch(t, client)
		return client, r, backend
	}
	accepted := make(chan struct{})
	go func() { // ends with the handshake
		defer close(accepted)
		backend = b.Accepted(t)
		r = backend.AcceptUpgrade(nil)
	}()
	browser := proxytest.NewHTTP2Client(t, proxytest.ServeHTTP2(t, h).URL)
	client, resp := browser.Connect(t, proxytest.ConnectFields("/ws", proxytest.Field{Name: "traceparent", Value: incomingParent}))
	proxytest.WantStatus(t, resp, 200)
	<-accepted
	return client, r, backend
}

func TestRefusalEndsSpan(t *testing.T) {
	refuse := func(status int) wsproxy.Option {
		return wsproxy.WithAdmit(func(*http.Request) (any, error) {
			return nil, &wsproxy.StatusError{Status: status, Err: errors.New("not you")}
		})
	}
	upgrade := proxytest.UpgradeTo("/")
	tests := map[string]struct {
		opts     []wsproxy.Option
		backend  string // its response; it is not asked if empty
		request  string
		reason   wsproxy.Reason
		status   int64
		attempts int64
	}{
		"by the check": {request: proxytest.Head("GET / HTTP/1.1", "Host: chat.example", "Sec-WebSocket-Version: 13"),
			reason: wsproxy.ReasonCheck, status: 426},
		"by the Admit hook":         {opts: []wsproxy.Option{refuse(403)}, request: upgrade, reason: wsproxy.ReasonAdmit, status: 403},
		"by an Admit hook at fault": {opts: []wsproxy.Option{refuse(503)}, request: upgrade, reason: wsproxy.ReasonAdmit, status: 503},
		"without a backend":         {opts: []wsproxy.Option{wsproxy.WithBackends()}, request: upgrade, reason: wsproxy.ReasonNoBackend, status: 503},
		"by the backend":            {backend: proxytest.Refusing(404, "no"), request: upgrade, reason: wsproxy.ReasonAnswer, status: 404, attempts: 1},
		"by a broken backend":       {backend: "HTTP/1.1 nonsense\r\n\r\n", request: upgrade, reason: wsproxy.ReasonUnreachable, status: 502, attempts: 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			backend := wstest.StartRaw(t, tt.backend)
			s := newScene(t, append([]wsproxy.Option{wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: backend.URL()})}, tt.opts...)...)
			resp, _ := proxytest.Exchange(t, proxytest.Serve(t, s).URL, tt.request)
			span := s.ended(t, upgradeSpan)
			got := attributesOf(span.Attributes())
			if got["http.response.status_code"] != tt.status || resp.StatusCode != int(tt.status) {
				t.Errorf("the span has status %v, and the client got %d; want %d", got["http.response.status_code"], resp.StatusCode, tt.status)
			}
			stats := s.proxy.Stats()
			result := "refused"
			if stats.Failed > 0 {
				result = "failed"
			}
			if got[keyReason] != tt.reason.String() || got[keyResult] != result || got[keyAttempts] != tt.attempts {
				t.Errorf("the span has reason %v, result %v, %v attempts; want %v, %s, %d", got[keyReason], got[keyResult], got[keyAttempts], tt.reason, result, tt.attempts)
			}
			if got[keyRequestID] != resp.Header.Get("X-Request-Id") && tt.reason != wsproxy.ReasonAnswer {
				t.Errorf("the request ID is %v; the client got %q", got[keyRequestID], resp.Header.Get("X-Request-Id"))
			}
			if _, hasBackend := got[keyBackend]; hasBackend != (tt.attempts > 0) {
				t.Errorf("the backend is %v after %d attempts", got[keyBackend], tt.attempts)
			}
			isError := tt.status >= 500
			if _, hasType := got["error.type"]; (span.Status().Code == codes.Error) != isError || hasType != isError {
				t.Errorf("the status of the span is %v, its error.type %v; want an error: %t", span.Status(), got["error.type"], isError)
			}
			s.wantNothingKept(t)
		})
	}
}

// The client gets no response that the span could have.
func TestClientThatLeavesEndsSpan(t *testing.T) {
	backend := wstest.StartBackend(t)
	s := newScene(t, wsproxy.WithBackends(backend.URL()))
	client := wstest.Dial(t, proxytest.Serve(t, s).URL)
	client.WriteRequest(proxytest.UpgradeTo("/"))
	leg := backend.Accepted(t)
	leg.ReadRequest()
	client.Close()
	span := s.ended(t, upgradeSpan)
	got := attributesOf(span.Attributes())
	if _, hasStatus := got["http.response.status_code"]; hasStatus || got[keyReason] != "client left" || span.Status().Code != codes.Unset {
		t.Errorf("the span has %v and status %v; want the reason client left, and no status", got, span.Status())
	}
	leg.Close()
}

func TestShutdownEndsSpans(t *testing.T) {
	backend := wstest.StartBackend(t)
	s := newScene(t, wsproxy.WithBackends(backend.URL()))
	site := proxytest.Serve(t, s)
	waiting := wstest.Dial(t, site.URL)
	waiting.WriteRequest(proxytest.UpgradeTo("/"))
	leg := backend.Accepted(t)
	leg.ReadRequest()
	if err := s.proxy.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	proxytest.WantStatus(t, waiting.ReadResponse(), 503)
	resp, _ := proxytest.Exchange(t, site.URL, proxytest.UpgradeTo("/"))
	proxytest.WantStatus(t, resp, 503)
	spans := s.all(upgradeSpan)
	if len(spans) != 2 {
		t.Fatalf("there are %d spans; want two", len(spans))
	}
	for _, span := range spans {
		if got := attributesOf(span.Attributes()); got[keyReason] != "shutdown" || got["http.response.status_code"] != int64(503) {
			t.Errorf("the span has %v; want the reason shutdown, and status 503", got)
		}
	}
	leg.Close()
	s.wantNothingKept(t)
}

func TestReasonsOfFailuresHaveTheResultFailed(t *testing.T) {
	failed := map[string]bool{"no backend": true, "unreachable": true, "queue timeout": true}
	for r := wsproxy.ReasonCheck; !strings.HasPrefix(r.String(), "Reason("); r++ {
		want := "refused"
		if failed[r.String()] {
			want = "failed"
		}
		if got := resultOf(r); got != want {
			t.Errorf("resultOf(%v) = %s; want %s", r, got, want)
		}
	}
}

// An upgrade that is not sampled is passed on as such, and nothing is kept for its tunnel.
func TestUnsampledUpgradeHasNoSpans(t *testing.T) {
	backend := wstest.StartBackend(t)
	p := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithDetached(true))
	s := instrument(t, p, Options{}, sdktrace.ParentBased(sdktrace.NeverSample()))
	client, r, leg := openOver(t, "1.1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Traceparent")
		s.ServeHTTP(w, r)
	}), backend)
	if parent := parentOf(t, r.Header); parent.IsSampled() {
		t.Errorf("the backend got %v; want a trace that is not sampled", parent)
	}
	if n, _ := s.tunnels.numLinks(); n != 0 {
		t.Errorf("%d links are kept; want none", n)
	}
	client.Close()
	leg.Close()
	s.wantNothingKept(t)
	if names := s.names(); len(names) > 0 {
		t.Errorf("there are spans %q; want none", names)
	}
}

// The trace of a client is passed on as it is, but for that of a middleware.
func TestPlainRequestHasNoSpanOfItsOwn(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Refusing(200, "page", "Connection: close"))
	s := newScene(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithHTTP(true))
	spans, provider := newRecorder(t, sdktrace.AlwaysSample())
	request := proxytest.Head("GET / HTTP/1.1", "Host: chat.example", "Connection: close", "traceparent: "+incomingParent)
	proxytest.Exchange(t, proxytest.Serve(t, s).URL, request)
	proxytest.Exchange(t, proxytest.Serve(t, otelhttp.NewHandler(s, "page", otelhttp.WithTracerProvider(provider), otelhttp.WithPropagators(w3c))).URL, request)
	if names := s.names(); len(names) > 0 {
		t.Errorf("there are spans %q; want none", names)
	}
	s.proxy.Close() // closes the connections to the backend
	received := strings.Join(backend.Received(t), "")
	if !proxytest.Becomes(func() bool { return len(spans.Ended()) == 1 }) {
		t.Fatal("otelhttp has made no span")
	}
	server := spans.Ended()[0].SpanContext()
	for _, want := range []string{incomingParent, "00-" + incomingTrace + "-" + server.SpanID().String() + "-01"} {
		if strings.Count(received, "Traceparent: "+want) != 1 {
			t.Errorf("the backend got %q; want %s once", received, want)
		}
	}
}

func TestWrapTracesUpgradesOnly(t *testing.T) {
	s := newScene(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	site := proxytest.Serve(t, s.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })))
	resp, _ := proxytest.Exchange(t, site.URL, proxytest.Head("GET / HTTP/1.1", "Host: chat.example", "Connection: close"))
	proxytest.WantStatus(t, resp, http.StatusTeapot)
	if names := s.names(); len(names) > 0 {
		t.Errorf("there are spans %q; want none", names)
	}
	client, _ := proxytest.Open(t, site.URL, proxytest.UpgradeTo("/"))
	s.ended(t, upgradeSpan)
	proxytest.HangUp(t, client)
	if s.Wrap(nil) != http.Handler(s.Instrumentation) {
		t.Error("Wrap(nil) is not the Instrumentation")
	}
}

// An exporter would drop all of a batch because of one text that is not UTF-8.
func TestAttributesAreUTF8(t *testing.T) {
	s := newScene(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a\xff", URL: wstest.StartEcho(t)}))
	client, _ := proxytest.Open(t, proxytest.Serve(t, s).URL, proxytest.UpgradeTo("/%ff", "User-Agent: a\xff"))
	proxytest.HangUp(t, client)
	s.wantNothingKept(t)
	for _, span := range s.spans.Ended() {
		attrs := span.Attributes()
		for _, e := range span.Events() {
			attrs = append(attrs, e.Attributes...)
		}
		for _, a := range attrs {
			if v := a.Value.String(); !utf8.ValidString(v) {
				t.Errorf("%s: %s is %q", span.Name(), a.Key, v)
			}
		}
	}
	got := attributesOf(s.ended(t, upgradeSpan).Attributes())
	if want := "a\uFFFD"; got[keyBackend] != want || got["user_agent.original"] != want || got["url.path"] != "/\uFFFD" {
		t.Errorf("the span has %v; want U+FFFD in place of what is not UTF-8", got)
	}
}

// The request that the caller has is not changed.
func TestInjectLeavesRequestAsItIs(t *testing.T) {
	s := newScene(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://chat.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Traceparent", incomingParent)
	u, injected := s.begin(r)
	defer u.end()
	if got := r.Header.Get("Traceparent"); got != incomingParent || injected.Header.Get("Traceparent") == got {
		t.Errorf("the caller's request has traceparent %q, the proxy's %q; want the first as it was", got, injected.Header.Get("Traceparent"))
	}
}

// A panic of another hook does not keep the span from ending, nor the tunnel's link from going.
func TestPanicOfAnotherHookLeavesNothing(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		for name, hooks := range map[string]*wsproxy.Trace{
			"Picked":    {Picked: func(wsproxy.PickedInfo) { panic("a hook") }},
			"Attempted": {Attempted: func(wsproxy.AttemptInfo) { panic("a hook") }},
			"Opened":    {Opened: func(wsproxy.OpenedInfo) { panic("a hook") }},
			"Closed":    {Closed: func(wsproxy.TunnelEnd) { panic("a hook") }},
			"Refused":   {Picked: func(wsproxy.PickedInfo) { panic("a hook") }, Refused: func(wsproxy.RefusedInfo) { panic(http.ErrAbortHandler) }},
		} {
			t.Run(name, func(t *testing.T) {
				s := newScene(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithTrace(hooks), way)
				client := wstest.Dial(t, proxytest.Serve(t, s).URL)
				client.WriteRequest(proxytest.UpgradeTo("/"))
				s.ended(t, upgradeSpan)
				client.Close()
				s.wantNothingKept(t)
				want := 3
				if name != "Opened" && name != "Closed" {
					want = 1
				}
				if got := s.names(); len(got) != want {
					t.Errorf("there are spans %q; want %d", got, want)
				}
			})
		}
	})
}

func TestClosedInstrumentationServesWithoutSpans(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		s := newScene(t, wsproxy.WithBackends(wstest.StartEcho(t)), way)
		site := proxytest.Serve(t, s)
		early, _ := proxytest.Open(t, site.URL, proxytest.UpgradeTo("/"))
		s.ended(t, openedSpan)
		for range 2 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		late, _ := proxytest.Open(t, site.URL, proxytest.UpgradeTo("/"))
		proxytest.WantEcho(t, late)
		proxytest.HangUp(t, late)
		proxytest.HangUp(t, early)
		s.wantNothingKept(t)
		if got := s.names(); len(got) != 2 {
			t.Errorf("there are spans %q; want those of the first upgrade", got)
		}
	})
}

// The upgrade's span ends with the handler, if Close has removed the hook for its end.
func TestCloseDuringUpgradeEndsItsSpan(t *testing.T) {
	backend := wstest.StartBackend(t)
	s := newScene(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithDetached(true))
	client := wstest.Dial(t, proxytest.Serve(t, s).URL)
	client.WriteRequest(proxytest.UpgradeTo("/"))
	leg := backend.Accepted(t)
	s.Close()
	leg.AcceptUpgrade(nil)
	proxytest.WantSwitch(t, client)
	if got := attributesOf(s.ended(t, upgradeSpan).Attributes()); got[keyResult] != nil {
		t.Errorf("the span has the result %v; want none", got[keyResult])
	}
	client.Close()
	leg.Close()
	s.wantNothingKept(t)
}

func TestInstrumentationsOfOneProxyTraceTheirOwn(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	first, second := instrument(t, p, Options{Name: "first"}, sdktrace.AlwaysSample()), instrument(t, p, Options{Name: "second"}, sdktrace.AlwaysSample())
	for _, s := range []*scene{first, second} {
		client, _ := proxytest.Open(t, proxytest.Serve(t, s).URL, proxytest.UpgradeTo("/"))
		proxytest.HangUp(t, client)
	}
	for s, name := range map[*scene]string{first: "first", second: "second"} {
		for _, span := range []string{upgradeSpan, openedSpan, closedSpan} {
			if got := attributesOf(s.ended(t, span).Attributes())["proxy"]; got != name {
				t.Errorf("%s of %s is of proxy %v", span, name, got)
			}
		}
		s.wantNothingKept(t)
	}
	first.Close()
	client, _ := proxytest.Open(t, proxytest.Serve(t, second).URL, proxytest.UpgradeTo("/"))
	proxytest.HangUp(t, client)
	if !proxytest.Becomes(func() bool { return len(second.all(closedSpan)) == 2 }) {
		t.Error("the second one makes no spans after the first was closed")
	}
}
