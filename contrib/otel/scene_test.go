package wsotel

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/wsproxy/wsproxy"
	_ "github.com/wsproxy/wsproxy/http2ws"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// A scene is a proxy with an Instrumentation, whose spans are recorded.
type scene struct {
	*Instrumentation
	proxy *wsproxy.Proxy
	spans *tracetest.SpanRecorder
}

// newScene returns a scene whose proxy has these options.
func newScene(t *testing.T, opts ...wsproxy.Option) *scene {
	t.Helper()
	p := proxytest.NewProxy(t, opts...)
	return instrument(t, p, Options{}, sdktrace.AlwaysSample())
}

// instrument returns a scene with p. Of o, MeterProvider and Name are used.
func instrument(t *testing.T, p *wsproxy.Proxy, o Options, s sdktrace.Sampler) *scene {
	t.Helper()
	spans, provider := newRecorder(t, s)
	o.TracerProvider, o.Propagator = provider, w3c
	if o.MeterProvider == nil {
		o.MeterProvider = noop.NewMeterProvider()
	}
	i, err := New(p, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	return &scene{i, p, spans}
}

var w3c = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})

func newRecorder(t *testing.T, s sdktrace.Sampler) (*tracetest.SpanRecorder, *sdktrace.TracerProvider) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(s))
	t.Cleanup(func() { provider.Shutdown(context.Background()) })
	return spans, provider
}

// ended returns the only span of that name. It waits for it, because the client gets its response
// before the hook is called.
func (s *scene) ended(t *testing.T, name string) sdktrace.ReadOnlySpan {
	t.Helper()
	var found []sdktrace.ReadOnlySpan
	if !proxytest.Becomes(func() bool { found = s.all(name); return len(found) > 0 }) {
		t.Fatalf("there is no span %s; there are %q", name, s.names())
	}
	if len(found) > 1 {
		t.Fatalf("there are %d spans %s; want one", len(found), name)
	}
	return found[0]
}

// all returns the spans of that name which have ended.
func (s *scene) all(name string) []sdktrace.ReadOnlySpan {
	return slices.DeleteFunc(s.spans.Ended(), func(span sdktrace.ReadOnlySpan) bool { return span.Name() != name })
}

// names returns the names of all spans that have ended.
func (s *scene) names() []string {
	var names []string
	for _, span := range s.spans.Ended() {
		names = append(names, span.Name())
	}
	return names
}

// wantNothingKept waits until all tunnels have ended, and checks that there is no link then, and no
// span that has not ended.
func (s *scene) wantNothingKept(t *testing.T) {
	t.Helper()
	if !proxytest.Becomes(func() bool { return s.proxy.Stats().Tunnels == 0 }) {
		t.Fatal("a tunnel has not ended")
	}
	if n, room := s.tunnels.numLinks(); n != 0 || room != 0 {
		t.Errorf("%d links are kept, with room for %d; want none", n, room)
	}
	if !proxytest.Becomes(func() bool { return len(s.spans.Started()) == len(s.spans.Ended()) }) {
		t.Errorf("%d spans have started, and %d have ended", len(s.spans.Started()), len(s.spans.Ended()))
	}
}

// attributesOf returns attributes by their key.
func attributesOf(attrs []attribute.KeyValue) map[attribute.Key]any {
	all := make(map[attribute.Key]any)
	for _, a := range attrs {
		all[a.Key] = a.Value.AsInterface()
	}
	return all
}

// wantAttributes checks the attributes that are in want, and that there are those of more, with any
// value but an empty one, and no others.
func wantAttributes(t *testing.T, span sdktrace.ReadOnlySpan, want map[attribute.Key]any, more ...attribute.Key) {
	t.Helper()
	got := attributesOf(span.Attributes())
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s: %s is %v; want %v", span.Name(), key, got[key], value)
		}
		delete(got, key)
	}
	for _, key := range more {
		if v, ok := got[key]; !ok || v == "" {
			t.Errorf("%s: %s is %v; want a value", span.Name(), key, v)
		}
		delete(got, key)
	}
	if len(got) > 0 {
		t.Errorf("%s: it has %q too", span.Name(), slices.Sorted(maps.Keys(got)))
	}
}

// wantLink checks that a span has no duration, is a child of upgrade, and has a link to it.
func wantLink(t *testing.T, span, upgrade sdktrace.ReadOnlySpan) {
	t.Helper()
	if d := span.EndTime().Sub(span.StartTime()); d != 0 {
		t.Errorf("%s took %v; want 0", span.Name(), d)
	}
	if span.Parent().SpanID() != upgrade.SpanContext().SpanID() || span.Parent().TraceID() != upgrade.SpanContext().TraceID() {
		t.Errorf("%s is beneath %v; want %v", span.Name(), span.Parent(), upgrade.SpanContext())
	}
	links := span.Links()
	if len(links) != 1 || !links[0].SpanContext.Equal(upgrade.SpanContext()) {
		t.Errorf("%s has links to %v; want one to %v", span.Name(), links, upgrade.SpanContext())
	}
	if span.StartTime().Before(upgrade.EndTime()) {
		t.Errorf("%s is before the end of %s", span.Name(), upgrade.Name())
	}
}

// parentOf returns the span context of a request's traceparent. It must have exactly one.
func parentOf(t *testing.T, h http.Header) trace.SpanContext {
	t.Helper()
	if lines := h.Values("Traceparent"); len(lines) != 1 {
		t.Fatalf("the backend got the traceparents %q; want one", lines)
	}
	return trace.SpanContextFromContext(w3c.Extract(t.Context(), propagation.HeaderCarrier(h)))
}

const (
	incomingTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	incomingSpan   = "00f067aa0ba902b7"
	incomingParent = "00-" + incomingTrace + "-" + incomingSpan + "-01"
)

// wait waits until a tunnel's end was sent to the channel.
func wait(t *testing.T, ends <-chan wsproxy.TunnelEnd) wsproxy.TunnelEnd {
	t.Helper()
	select {
	case e := <-ends:
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("the tunnel did not end within 10 s")
		panic("unreachable")
	}
}
