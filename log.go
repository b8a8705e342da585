package wsproxy

import (
	"context"
	"log/slog"
)

// Keys of log lines.
const (
	logTunnel  = "tunnel"
	logBackend = "backend"
	logClient  = "client"
)

// logOpened leaves the query out: tokens travel there.
func (p *Proxy) logOpened(t *Tunnel) {
	i := t.Info()
	p.logAttrs(slog.LevelDebug, "tunnel opened",
		slog.Uint64(logTunnel, i.ID), slog.String(logBackend, i.Backend.ID()), slog.String(logClient, i.RemoteAddr),
		slog.String("host", i.Host), slog.String("path", i.URL.Path), slog.Int("attempts", i.Attempts))
}

func (p *Proxy) logClosed(e *TunnelEnd) {
	attrs := []slog.Attr{
		slog.Uint64(logTunnel, e.ID), slog.String(logBackend, e.Backend.ID()), slog.String(logClient, e.RemoteAddr),
		slog.Duration("duration", e.Duration), slog.String("side", e.Side.String()), slog.String("cause", e.Cause.String()),
		slog.Int("code", e.Code), slog.Bool("cut", e.Cut),
		slog.Uint64("to_backend_bytes", e.ToBackend.Bytes), slog.Uint64("to_backend_messages", e.ToBackend.Messages),
		slog.Uint64("to_client_bytes", e.ToClient.Bytes), slog.Uint64("to_client_messages", e.ToClient.Messages),
	}
	if e.Err != nil {
		attrs = append(attrs, slog.String("err", e.Err.Error()))
	}
	p.logAttrs(slog.LevelDebug, "tunnel closed", attrs...)
}

// log returns the logger. slog.Default is asked each time, because programs set it
// late.
func (p *Proxy) log() *slog.Logger {
	if p.logger != nil {
		return p.logger
	}
	return slog.Default()
}

// logAttrs logs. A handler's panic cannot be told to anybody, but must not end
// what it was told of.
func (p *Proxy) logAttrs(level slog.Level, msg string, attrs ...slog.Attr) {
	defer func() { recover() }()
	p.log().LogAttrs(context.Background(), level, msg, attrs...)
}

// logs reports whether anybody reads lines of this level.
func (p *Proxy) logs(level slog.Level) (isRead bool) {
	defer func() { recover() }()
	return p.log().Enabled(context.Background(), level)
}
