package wsotel

import (
	"fmt"
	"net/http"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/label"
)

// Options are for [New].
type Options struct {
	// TracerProvider makes the spans. Default: the global one. That of package trace/noop makes
	// none.
	TracerProvider trace.TracerProvider

	// MeterProvider makes the instruments. Default: the global one. That of package metric/noop
	// makes none.
	MeterProvider metric.MeterProvider

	// Propagator reads the trace of a request, and writes it into the one for the backend.
	// Default: the global one, which by itself does neither.
	Propagator propagation.TextMapPropagator

	// Name is the value of the attribute "proxy" of each metric and span. It tells the proxies of
	// one program apart. Default: there is no such attribute.
	Name string
}

// An Instrumentation is the [http.Handler] of a Proxy whose upgrades are traced. Its methods are
// safe for concurrent use.
type Instrumentation struct {
	proxy      *wsproxy.Proxy
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	common     []attribute.KeyValue // of each metric and span
	metrics    *metrics
	tunnels    links
	stop       func() // removes the hooks
	isClosed   atomic.Bool
}

// scope is the name of the instrumentation scope.
const scope = "github.com/wsproxy/wsproxy/contrib/otel"

// New adds hooks to p and registers the metrics. Call [Instrumentation.Close] when the proxy is no
// longer needed. Upgrades are traced if the Instrumentation is their handler; metrics and closed
// tunnels are those of all. Two Instrumentations of one Proxy need other providers, or other names:
// the metrics of one provider would be added up.
func New(p *wsproxy.Proxy, o Options) (*Instrumentation, error) {
	if o.TracerProvider == nil {
		o.TracerProvider = otel.GetTracerProvider()
	}
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	if o.Propagator == nil {
		o.Propagator = otel.GetTextMapPropagator()
	}
	i := &Instrumentation{
		proxy:      p,
		tracer:     o.TracerProvider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
		propagator: o.Propagator,
	}
	if o.Name != "" {
		i.common = []attribute.KeyValue{attribute.String("proxy", label.Text(o.Name))}
	}
	var err error
	if i.metrics, err = newMetrics(p, o.MeterProvider.Meter(scope), i.common); err != nil {
		return nil, err
	}
	i.stop = p.Observe(&wsproxy.Trace{
		Attempted: i.attempted, Opened: i.opened, Refused: i.refused, Closed: i.closed,
	})
	return i, nil
}

// ServeHTTP calls the Proxy. An upgrade gets a span, and its backend the traceparent of it. A
// request that is no upgrade gets none: its backend gets the trace of the middleware in front, if
// there is one, and otherwise that of the client.
func (i *Instrumentation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if i.isClosed.Load() || !asksForTunnel(r) {
		if trace.SpanContextFromContext(r.Context()).IsValid() {
			r = i.inject(r.WithContext(r.Context()))
		}
		i.proxy.ServeHTTP(w, r)
		return
	}
	i.serveUpgrade(w, r, i.proxy)
}

// Wrap returns a handler that serves upgrades as ServeHTTP does, and calls next for any other
// request: see [wsproxy.Proxy.Wrap]. If next is nil, Wrap returns i.
func (i *Instrumentation) Wrap(next http.Handler) http.Handler {
	if next == nil {
		return i
	}
	h := i.proxy.Wrap(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if i.isClosed.Load() || !asksForTunnel(r) {
			h.ServeHTTP(w, r)
			return
		}
		i.serveUpgrade(w, r, h)
	})
}

// serveUpgrade calls h, the proxy's, with a span for r. R is not used after the call, which may
// last as long as the tunnel: it need not stay in memory.
func (i *Instrumentation) serveUpgrade(w http.ResponseWriter, r *http.Request, h http.Handler) {
	u, r := i.begin(r)
	defer u.end() // if no hook has: it was no upgrade, or i was closed meanwhile
	h.ServeHTTP(w, r)
}

// Close removes the hooks and the metrics. Upgrades are then served without a span. It may be
// called more than once.
func (i *Instrumentation) Close() error {
	if i.isClosed.Swap(true) {
		return nil
	}
	i.stop()
	i.tunnels.close() // a hook may still run: it adds no link now
	if err := i.metrics.registration.Unregister(); err != nil {
		return fmt.Errorf("wsotel: unregister the metrics: %w", err)
	}
	return nil
}
