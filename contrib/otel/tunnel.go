package wsotel

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/wsproxy/wsproxy"
)

// Names of the spans of a tunnel.
const (
	openedSpan = "wsproxy.tunnel.opened"
	closedSpan = "wsproxy.tunnel.closed"
)

// Attributes of tunnels.
const (
	keyTunnel            = attribute.Key("wsproxy.tunnel.id")
	keySide              = attribute.Key("wsproxy.side")
	keyCause             = attribute.Key("wsproxy.cause")
	keyCode              = attribute.Key("wsproxy.close_code")
	keyCut               = attribute.Key("wsproxy.cut")
	keyToBackendBytes    = attribute.Key("wsproxy.to_backend.bytes")
	keyToBackendMessages = attribute.Key("wsproxy.to_backend.messages")
	keyToClientBytes     = attribute.Key("wsproxy.to_client.bytes")
	keyToClientMessages  = attribute.Key("wsproxy.to_client.messages")
)

// reportOpened reports a tunnel that has opened. Its link is kept until closed is called, which is
// after the hook for its opening has returned.
func (i *Instrumentation) reportOpened(info *wsproxy.TunnelInfo, upgrade trace.SpanContext) {
	if !upgrade.IsSampled() {
		return // it is only recorded in this process
	}
	i.tunnels.add(info.ID, upgrade)
	i.emit(openedSpan, upgrade, i.tunnelAttributes(info, 4))
}

// closed reports a tunnel that has ended.
func (i *Instrumentation) closed(e wsproxy.TunnelEnd) {
	ctx := context.Background()
	upgrade, isTraced := i.tunnels.take(e.ID)
	if isTraced {
		ctx = trace.ContextWithSpanContext(ctx, upgrade)
	}
	i.metrics.recordEnd(ctx, &e)
	if !isTraced {
		return
	}
	attrs := append(i.tunnelAttributes(&e.TunnelInfo, 14),
		keySide.String(e.Side.String()), keyCause.String(e.Cause.String()), keyCode.Int(e.Code), keyCut.Bool(e.Cut),
		keyDuration.Float64(e.Duration.Seconds()),
		keyToBackendBytes.Int64(int64(e.ToBackend.Bytes)), keyToBackendMessages.Int64(int64(e.ToBackend.Messages)),
		keyToClientBytes.Int64(int64(e.ToClient.Bytes)), keyToClientMessages.Int64(int64(e.ToClient.Messages)))
	if e.Err != nil {
		attrs = append(attrs, text(keyError, e.Err.Error()))
	}
	i.emit(closedSpan, upgrade, attrs)
}

// tunnelAttributes returns the attributes of both spans, with room for n in all.
func (i *Instrumentation) tunnelAttributes(info *wsproxy.TunnelInfo, n int) []attribute.KeyValue {
	attrs := append(make([]attribute.KeyValue, 0, n),
		keyTunnel.Int64(int64(info.ID)), keyRequestID.String(info.RequestID), text(keyBackend, info.Backend.ID()))
	return append(attrs, i.common...)
}

// emit makes a span without a duration, beneath that of the upgrade, so that it is sampled as that
// one is, and with a link to it.
func (i *Instrumentation) emit(name string, upgrade trace.SpanContext, attrs []attribute.KeyValue) {
	now := trace.WithTimestamp(time.Now())
	_, span := i.tracer.Start(trace.ContextWithSpanContext(context.Background(), upgrade), name,
		now, trace.WithLinks(trace.Link{SpanContext: upgrade}))
	span.SetAttributes(attrs...)
	span.End(now)
}
