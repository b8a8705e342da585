package wsproxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/wsproxy/wsproxy/internal/handshake"
	"github.com/wsproxy/wsproxy/internal/health"
)

// Every line that the package logs is here. No line has a query, a cookie,
// Authorization or Sec-WebSocket-Protocol: tokens travel there.

// Keys of log lines.
const (
	logAdmit             = "admit"
	logAnswer            = "answer"
	logAttempts          = "attempts"
	logBackend           = "backend"
	logCause             = "cause"
	logClient            = "client"
	logCode              = "code"
	logCut               = "cut"
	logDial              = "dial"
	logDuration          = "duration"
	logErr               = "err"
	logFlag              = "flag"
	logHint              = "hint"
	logHook              = "hook"
	logHost              = "host"
	logPanicValue        = "panic"
	logPath              = "path"
	logPeer              = "peer"
	logPhrase            = "phrase"
	logPriority          = "priority"
	logProto             = "proto"
	logQueue             = "queue"
	logReason            = "reason"
	logRequestID         = "request_id"
	logSide              = "side"
	logStack             = "stack"
	logStatus            = "status"
	logTier              = "tier"
	logToBackendBytes    = "to_backend_bytes"
	logToBackendMessages = "to_backend_messages"
	logToClientBytes     = "to_client_bytes"
	logToClientMessages  = "to_client_messages"
	logTunnel            = "tunnel"
	logTunnels           = "tunnels"
	logType              = "type"
)

// logRefused logs a request that got no tunnel. If the client gets a backend's own response,
// resp, the line has its reason phrase, because the client's response has the standard one.
func (p *Proxy) logRefused(i *RefusedInfo, resp *http.Response) {
	if !p.logs(slog.LevelDebug) {
		return
	}
	msg := "upgrade refused"
	switch {
	case i.isPlain && i.Reason.isFailure():
		msg = "request failed"
	case i.isPlain:
		msg = "request refused"
	case i.Reason.isFailure():
		msg = "upgrade failed"
	}
	r := i.Request
	attrs := []slog.Attr{
		slog.String(logRequestID, i.RequestID), slog.String(logReason, i.Reason.String()),
		slog.String(logClient, clientName(p.ClientIP(r), r.RemoteAddr)), slog.String(logHost, r.Host), slog.String(logPath, r.URL.Path),
		slog.String(logProto, r.Proto), slog.Int(logStatus, i.Status),
	}
	if i.Backend != nil {
		attrs = append(attrs, slog.String(logBackend, i.Backend.id))
	}
	if resp != nil {
		attrs = append(attrs, slog.String(logPhrase, reasonPhrase(r, resp)))
		if i.Backend.target.Load().hintFor(i.Status) != "" {
			attrs = append(attrs, slog.String(logHint, proxyHeaderHint))
		}
	} else {
		attrs = append(attrs, slog.Any(logErr, i.Err))
	}
	p.logAttrs(slog.LevelDebug, msg, attrs...)
}

// clientName returns the address of a client in a log line: the peer's with its port, or
// that of the client behind a trusted proxy.
func clientName(client netip.Addr, remoteAddr string) string {
	if client == handshake.PeerAddr(remoteAddr) {
		return remoteAddr
	}
	return client.String()
}

// maxReason bounds how many bytes of a backend's reason phrase are logged.
const maxReason = 256

// reasonPhrase returns the reason phrase of a backend's response to r, or its beginning.
// Some backends repeat parts of the request in it. A phrase with a secret of r, or of the
// request that the Rewrite hook has made of it, is redacted.
func reasonPhrase(r *http.Request, resp *http.Response) string {
	_, reason, _ := strings.Cut(resp.Status, " ")
	if repeatsSecret(reason, secretsOf(r)) || repeatsSecret(reason, secretsOf(resp.Request)) {
		return "[redacted]"
	}
	if len(reason) > maxReason {
		reason = reason[:maxReason] + "..."
	}
	return reason
}

// secretsOf returns the values of r, one or more in each line, that must not be logged.
func secretsOf(r *http.Request) []string {
	lines := slices.Concat([]string{r.URL.RawQuery}, r.Header["Cookie"], r.Header["Authorization"],
		r.Header["Sec-Websocket-Protocol"])
	//lint:ignore SA1008 the spelling of RFC 6455, which a middleware may use
	return append(lines, r.Header["Sec-WebSocket-Protocol"]...)
}

// minSecret is the length of the shortest value that counts as a secret. Shorter ones are
// often part of an ordinary phrase.
const minSecret = 4

// repeatsSecret reports whether the phrase contains a value of one of the lines, each of
// which is a query or a list: "a=value; b=value", "value, value".
func repeatsSecret(phrase string, lines []string) bool {
	for _, line := range lines {
		for _, element := range strings.FieldsFunc(line, func(c rune) bool { return strings.ContainsRune("&;, ", c) }) {
			_, value, _ := strings.Cut(element, "=")
			if strings.Trim(value, "=") == "" { // no name: the "=" of base64, or none
				value = element
			}
			decoded, err := url.QueryUnescape(value)
			if len(value) >= minSecret && (strings.Contains(phrase, value) || err == nil && strings.Contains(phrase, decoded)) {
				return true
			}
		}
	}
	return false
}

// logUntrusted logs that upgrades of peer seem to be those of many clients. An invalid peer
// is a unix socket. The line has the peer as WithTrustedProxies names it.
func (p *Proxy) logUntrusted(peer netip.Addr) {
	name := "unix"
	if peer.IsValid() {
		name = peer.String()
	}
	p.logAttrs(slog.LevelWarn, "forwarding fields of an untrusted peer are not used, and all its clients count as one: if it is a proxy, name it in WithTrustedProxies",
		slog.String(logPeer, name))
}

// logFallback logs that r looks like a request for [WithHTTP], which is off.
func (p *Proxy) logFallback(r *http.Request) {
	p.logAttrs(slog.LevelWarn, "a request looks like a fallback of SockJS, Socket.IO or SignalR over plain HTTP, and is refused: see WithHTTP",
		slog.String(logHost, r.Host), slog.String(logPath, r.URL.Path))
}

// logBroken logs that the response of in's backend has ended too early, because of err.
func (p *Proxy) logBroken(in *inbound, err error) {
	p.logAttrs(slog.LevelDebug, "response of a backend broke off",
		slog.String(logRequestID, in.info.id), slog.String(logBackend, in.picked.id),
		slog.String(logHost, in.r.Host), slog.String(logPath, in.r.URL.Path), slog.Any(logErr, handshake.RedactError(err)))
}

// logFailing logs that a flag of b is raised, because of err.
func (p *Proxy) logFailing(b *Backend, f Flag, err error) {
	p.logAttrs(slog.LevelWarn, "backend flag raised", slog.String(logBackend, b.id), slog.String(logFlag, f.String()), slog.Any(logErr, err))
}

// logRecovered logs that a flag of b is cleared.
func (p *Proxy) logRecovered(b *Backend, f Flag) {
	p.logAttrs(slog.LevelInfo, "backend flag cleared", slog.String(logBackend, b.id), slog.String(logFlag, f.String()))
}

// logDrainBegins logs that Drain was called for b, which has some tunnels.
func (p *Proxy) logDrainBegins(b *Backend) {
	p.logAttrs(slog.LevelInfo, "backend drains", slog.String(logBackend, b.id), slog.Int(logTunnels, b.NumTunnels()))
}

// logDrainEnds logs that a call of Drain returns: b is empty, or err says why it is not.
func (p *Proxy) logDrainEnds(b *Backend, err error) {
	if err == nil {
		p.logAttrs(slog.LevelInfo, "backend is drained", slog.String(logBackend, b.id))
		return
	}
	p.logAttrs(slog.LevelWarn, "drain of backend ended early", slog.String(logBackend, b.id), slog.Any(logErr, err))
}

// logNoneLeft logs that b was the last backend that did not drain.
func (p *Proxy) logNoneLeft(b *Backend) {
	p.logAttrs(slog.LevelWarn, "all backends drain: upgrades get 503", slog.String(logBackend, b.id))
}

// logRebalanced logs that a call of Rebalance has closed some tunnels, or has failed.
func (p *Proxy) logRebalanced(numClosed int, err error) {
	switch {
	case err != nil:
		p.logAttrs(slog.LevelWarn, "rebalance ended early", slog.Int(logTunnels, numClosed), slog.Any(logErr, err))
	case numClosed > 0:
		p.logAttrs(slog.LevelInfo, "rebalance has closed tunnels", slog.Int(logTunnels, numClosed))
	}
}

// logResumed logs that Resume has ended the drain of a backend.
func (p *Proxy) logResumed(id string) {
	p.logAttrs(slog.LevelInfo, "backend resumed", slog.String(logBackend, id))
}

// logClosedDown logs that the tunnels of b are closed because of HealthCheck.DrainAfter.
func (p *Proxy) logClosedDown(b *Backend, numTunnels int) {
	p.logAttrs(slog.LevelWarn, "backend has failed its check for long: its tunnels are closed",
		slog.String(logBackend, b.id), slog.Int(logTunnels, numTunnels))
}

// logOthersUsed logs that each backend of the first priority has a flag, so that upgrades get
// those of a tier, with a flag or not, and of a priority.
func (p *Proxy) logOthersUsed(t health.Tier, priority int) {
	p.logAttrs(slog.LevelWarn, "no backend of the first priority is without a flag: others are used",
		slog.String(logTier, t.String()), slog.Int(logPriority, priority))
}

func (p *Proxy) logOthersUnused() {
	p.logAttrs(slog.LevelInfo, "backends of the first priority without a flag are used again")
}

// logNoHijacker logs that w, a ResponseWriter, hides the connection.
func (p *Proxy) logNoHijacker(w http.ResponseWriter, requestID string) {
	p.logAttrs(slog.LevelError, "connection cannot be hijacked: a middleware's ResponseWriter has neither Hijack nor Unwrap",
		slog.String(logRequestID, requestID), slog.String(logType, fmt.Sprintf("%T", w)))
}

// logNoStream logs that w, a ResponseWriter, hides the stream of a client over HTTP/2.
func (p *Proxy) logNoStream(w http.ResponseWriter, requestID string) {
	p.logAttrs(slog.LevelError, "stream cannot be used: a middleware's ResponseWriter has no Unwrap, and no Flush or no SetWriteDeadline",
		slog.String(logRequestID, requestID), slog.String(logType, fmt.Sprintf("%T", w)))
}

// logNotHijacked logs that the Hijack method behind w failed.
func (p *Proxy) logNotHijacked(w http.ResponseWriter, requestID string, err error) {
	p.logAttrs(slog.LevelError, "connection cannot be hijacked", slog.String(logRequestID, requestID),
		slog.String(logType, fmt.Sprintf("%T", w)), slog.Any(logErr, err))
}

// logPanic logs a panic in a hook, with the stack of the caller. A hook that is about no
// request has no requestID.
func (p *Proxy) logPanic(hook, requestID string, value any) {
	p.logAttrs(slog.LevelError, "panic in a hook", slog.String(logRequestID, requestID),
		slog.String(logHook, hook), slog.Any(logPanicValue, value), slog.String(logStack, string(debug.Stack())))
}

// tunnelLevel returns the level of the lines about tunnels.
func (p *Proxy) tunnelLevel() slog.Level {
	if p.accessLog {
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// logOpened logs a tunnel that has opened, and how long that took.
func (p *Proxy) logOpened(t *Tunnel, times *UpgradeTimes) {
	level := p.tunnelLevel()
	if !p.logs(level) {
		return
	}
	i := t.Info()
	p.logAttrs(level, "tunnel opened",
		slog.Uint64(logTunnel, i.ID), slog.String(logRequestID, i.RequestID), slog.String(logBackend, i.Backend.ID()), slog.String(logClient, clientName(i.ClientAddr, i.RemoteAddr)),
		slog.String(logHost, i.Host), slog.String(logPath, i.URL.Path), slog.String(logProto, i.proto()), slog.Int(logAttempts, i.Attempts),
		slog.Duration(logAdmit, times.Admit), slog.Duration(logQueue, times.Queue), slog.Duration(logDial, times.Dial), slog.Duration(logAnswer, times.Answer))
}

// proto returns the version of HTTP over which the tunnel was opened.
func (i *TunnelInfo) proto() string {
	if i.Method == http.MethodConnect {
		return "HTTP/2.0"
	}
	return "HTTP/1.1"
}

// logClosed logs a tunnel that has ended.
func (p *Proxy) logClosed(e *TunnelEnd) {
	level := p.tunnelLevel()
	if !p.logs(level) {
		return
	}
	attrs := []slog.Attr{
		slog.Uint64(logTunnel, e.ID), slog.String(logRequestID, e.RequestID), slog.String(logBackend, e.Backend.ID()), slog.String(logClient, clientName(e.ClientAddr, e.RemoteAddr)),
		slog.Duration(logDuration, e.Duration), slog.String(logSide, e.Side.String()), slog.String(logCause, e.Cause.String()),
		slog.Int(logCode, e.Code), slog.Bool(logCut, e.Cut),
		slog.Uint64(logToBackendBytes, e.ToBackend.Bytes), slog.Uint64(logToBackendMessages, e.ToBackend.Messages),
		slog.Uint64(logToClientBytes, e.ToClient.Bytes), slog.Uint64(logToClientMessages, e.ToClient.Messages),
	}
	if e.Err != nil {
		attrs = append(attrs, slog.String(logErr, e.Err.Error()))
	}
	p.logAttrs(level, "tunnel closed", attrs...)
}

// log returns the logger. It calls slog.Default each time, because programs set it
// late.
func (p *Proxy) log() *slog.Logger {
	if p.logger != nil {
		return p.logger
	}
	return slog.Default()
}

// logAttrs logs. A panic of the logger's handler is counted and dropped: it must not end the
// upgrade or tunnel that the line is about.
func (p *Proxy) logAttrs(level slog.Level, msg string, attrs ...slog.Attr) {
	defer p.dropPanic()
	p.log().LogAttrs(context.Background(), level, msg, attrs...)
}

// logs reports whether the logger writes lines of this level.
func (p *Proxy) logs(level slog.Level) (isEnabled bool) {
	defer p.dropPanic()
	return p.log().Enabled(context.Background(), level)
}

// dropPanic is deferred by the caller of the logger.
func (p *Proxy) dropPanic() {
	if recover() != nil {
		p.panics.add("WithLogger")
	}
}
