package wsotel

import (
	"context"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/wsproxy/wsproxy"
)

// Names of spans, and of the event of an attempt.
const (
	upgradeSpan  = "wsproxy.upgrade"
	attemptEvent = "wsproxy.attempt"
)

// Attributes that have no name in the semantic conventions.
const (
	keyRequestID   = attribute.Key("wsproxy.request_id")
	keyBackend     = attribute.Key("wsproxy.backend")
	keyAttempts    = attribute.Key("wsproxy.attempts")
	keyAttempt     = attribute.Key("wsproxy.attempt") // of an event: 1 for the first
	keyResult      = attribute.Key("wsproxy.result")  // opened, refused or failed
	keyReason      = attribute.Key("wsproxy.reason")
	keySubprotocol = attribute.Key("wsproxy.subprotocol")
	keyError       = attribute.Key("wsproxy.error")
	keyDuration    = attribute.Key("wsproxy.duration") // in seconds, as the next four

	keyAdmitTime  = attribute.Key("wsproxy.time.admit")
	keyQueueTime  = attribute.Key("wsproxy.time.queue")
	keyDialTime   = attribute.Key("wsproxy.time.dial")
	keyAnswerTime = attribute.Key("wsproxy.time.answer")
)

// An upgrade is one whose span is recorded. The hooks find it in the context of the request. One
// goroutine uses it at a time.
type upgrade struct {
	span     trace.Span // nil after its end, so that a tunnel does not keep it
	attempts int
}

// upgradeKey is the context key of an upgrade.
type upgradeKey struct{ of *Instrumentation }

// upgradeOf returns the upgrade of a request, or nil if there is no span to record.
func (i *Instrumentation) upgradeOf(r *http.Request) *upgrade {
	u, _ := r.Context().Value(upgradeKey{i}).(*upgrade)
	if u == nil || u.span == nil {
		return nil
	}
	return u
}

// asksForTunnel reports whether r is meant to be an upgrade. It may have been broken on its way: a
// proxy in front may have dropped its Upgrade field.
func asksForTunnel(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet:
		return len(r.Header["Sec-Websocket-Version"]) > 0 || len(r.Header["Sec-Websocket-Key"]) > 0 ||
			r.ProtoMajor == 1 && strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
	case http.MethodConnect: // over HTTP/2, where no Front has made a GET of it
		return len(r.Header[":protocol"]) > 0
	}
	return false
}

// begin begins the span of r. It returns the request for the proxy, and nil if the span is not
// recorded.
func (i *Instrumentation) begin(r *http.Request) (*upgrade, *http.Request) {
	ctx, kind := r.Context(), trace.SpanKindInternal
	switch parent := trace.SpanContextFromContext(ctx); {
	case !parent.IsValid():
		ctx, kind = i.propagator.Extract(ctx, propagation.HeaderCarrier(r.Header)), trace.SpanKindServer
	case parent.IsRemote(): // a middleware has only extracted it
		kind = trace.SpanKindServer
	}
	ctx, span := i.tracer.Start(ctx, upgradeSpan, trace.WithSpanKind(kind), trace.WithAttributes(i.requestAttributes(r)...))
	var u *upgrade
	if span.IsRecording() {
		u = &upgrade{span: span}
		ctx = context.WithValue(ctx, upgradeKey{i}, u)
	}
	return u, i.inject(r.WithContext(ctx))
}

// requestAttributes returns the attributes that a sampler sees. The query is not among them: tokens
// travel there.
func (i *Instrumentation) requestAttributes(r *http.Request) []attribute.KeyValue {
	method, scheme := semconv.HTTPRequestMethodGet, "http"
	if r.ProtoMajor == 2 {
		method = semconv.HTTPRequestMethodConnect // handlers behind Front see a GET
	}
	if r.TLS != nil {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	attrs := append(make([]attribute.KeyValue, 0, 6), method,
		text(semconv.URLPathKey, r.URL.Path), semconv.URLScheme(scheme), text(semconv.ServerAddressKey, host))
	if n, err := strconv.Atoi(port); err == nil {
		attrs = append(attrs, semconv.ServerPort(n))
	}
	return append(attrs, i.common...)
}

// inject puts the trace of r's context into the header of r, in place of any other. R is a copy, and
// gets a header of its own.
func (i *Instrumentation) inject(r *http.Request) *http.Request {
	r.Header = maps.Clone(r.Header)
	for _, field := range i.propagator.Fields() {
		r.Header.Del(field)
	}
	i.propagator.Inject(r.Context(), propagation.HeaderCarrier(r.Header))
	return r
}

// attempted records an attempt. It is an event if it failed or others did before: the span has all
// that there is to know of an upgrade with one attempt.
func (i *Instrumentation) attempted(a wsproxy.AttemptInfo) {
	i.metrics.recordAttempt(a)
	u := i.upgradeOf(a.Request)
	if u == nil {
		return
	}
	u.attempts = a.Attempt
	if a.Err == nil && a.Attempt == 1 {
		return
	}
	attrs := append(make([]attribute.KeyValue, 0, 5),
		text(keyBackend, a.Backend.ID()), keyAttempt.Int(a.Attempt), keyDuration.Float64(a.Duration.Seconds()))
	if a.Status != 0 {
		attrs = append(attrs, semconv.HTTPResponseStatusCode(a.Status))
	}
	if a.Err != nil {
		attrs = append(attrs, text(keyError, a.Err.Error()))
	}
	u.span.AddEvent(attemptEvent, trace.WithAttributes(attrs...))
}

// opened ends the span of an upgrade that has opened a tunnel, and reports the tunnel.
func (i *Instrumentation) opened(o wsproxy.OpenedInfo) {
	i.metrics.recordTimes(o.Request.Context(), o.Times, true)
	u := i.upgradeOf(o.Request)
	if u == nil {
		return
	}
	info := o.Tunnel.Info()
	status := http.StatusSwitchingProtocols
	if info.Method == http.MethodConnect {
		status = http.StatusOK
	}
	attrs := append(make([]attribute.KeyValue, 0, maxAttributes), keyResult.String("opened"),
		keyRequestID.String(info.RequestID), text(keyBackend, info.Backend.ID()), keyAttempts.Int(info.Attempts),
		semconv.HTTPResponseStatusCode(status), keyTunnel.Int64(int64(info.ID)))
	if info.Subprotocol != "" {
		attrs = append(attrs, keySubprotocol.String(info.Subprotocol))
	}
	attrs = appendPeer(attrs, o.Request, info.ClientAddr)
	u.span.SetAttributes(appendTimes(attrs, o.Times)...) // all at once: the SDK copies them for each call
	upgrade := u.span.SpanContext()
	u.end()
	i.reportOpened(&info, upgrade)
}

// refused ends the span of an upgrade that has opened no tunnel.
func (i *Instrumentation) refused(f wsproxy.RefusedInfo) {
	i.metrics.recordRefused(&f)
	u := i.upgradeOf(f.Request)
	if u == nil {
		return
	}
	attrs := append(make([]attribute.KeyValue, 0, maxAttributes), keyResult.String(resultOf(f.Reason)),
		keyReason.String(f.Reason.String()), keyRequestID.String(f.RequestID), keyAttempts.Int(u.attempts))
	if f.Backend != nil {
		attrs = append(attrs, text(keyBackend, f.Backend.ID()))
	}
	if f.Err != nil {
		attrs = append(attrs, text(keyError, f.Err.Error()))
	}
	if f.Reason != wsproxy.ReasonClientLeft { // which gets no response
		attrs = append(attrs, semconv.HTTPResponseStatusCode(f.Status))
		// "Span Status MUST be left unset if HTTP status code was in the 1xx, 2xx or 3xx ranges,
		// [...] For HTTP status codes in the 4xx range span status MUST be left unset in case of
		// SpanKind.SERVER".
		// https://opentelemetry.io/docs/specs/semconv/http/http-spans/#status
		if f.Status >= 500 {
			attrs = append(attrs, semconv.ErrorTypeKey.String(f.Reason.String()))
			u.span.SetStatus(codes.Error, "")
		}
	}
	attrs = appendPeer(attrs, f.Request, i.proxy.ClientIP(f.Request))
	u.span.SetAttributes(appendTimes(attrs, f.Times)...)
	u.end()
}

// end ends the span, if it has not ended. A nil upgrade has none.
func (u *upgrade) end() {
	if u != nil && u.span != nil {
		u.span.End()
		u.span = nil
	}
}

// text returns an attribute whose value may come from a client or a backend. An exporter drops all
// of a batch because of one text that is not UTF-8.
func text(key attribute.Key, value string) attribute.KeyValue {
	return key.String(strings.ToValidUTF8(value, "\uFFFD"))
}

// resultOf returns the result of an upgrade that was refused: as which [wsproxy.Stats] counts it.
func resultOf(r wsproxy.Reason) string {
	switch r {
	case wsproxy.ReasonNoBackend, wsproxy.ReasonUnreachable, wsproxy.ReasonQueueTimeout:
		return "failed"
	}
	return "refused"
}

// maxAttributes is how many attributes an upgrade can have at its end.
const maxAttributes = 16

// appendPeer appends the attributes of r that no sampler sees.
func appendPeer(attrs []attribute.KeyValue, r *http.Request, client netip.Addr) []attribute.KeyValue {
	version := "1.1"
	if r.ProtoMajor == 2 {
		version = "2"
	}
	attrs = append(attrs, semconv.NetworkProtocolVersion(version))
	if client.IsValid() {
		attrs = append(attrs, semconv.ClientAddress(client.String()))
	}
	if agent := r.Header.Get("User-Agent"); agent != "" {
		attrs = append(attrs, text(semconv.UserAgentOriginalKey, agent))
	}
	if r.Pattern != "" { // "GET example.com/ws": the route is without the method
		attrs = append(attrs, semconv.HTTPRoute(r.Pattern[strings.LastIndexByte(r.Pattern, ' ')+1:]))
	}
	return attrs
}

// appendTimes appends the times of the phases that an upgrade has reached.
func appendTimes(attrs []attribute.KeyValue, t wsproxy.UpgradeTimes) []attribute.KeyValue {
	add := func(key attribute.Key, d time.Duration) {
		if d > 0 {
			attrs = append(attrs, key.Float64(d.Seconds()))
		}
	}
	add(keyAdmitTime, t.Admit)
	add(keyQueueTime, t.Queue)
	add(keyDialTime, t.Dial)
	add(keyAnswerTime, t.Answer)
	return attrs
}
