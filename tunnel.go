package wsproxy

import (
	"fmt"
	"log/slog"
	"time"
	"unicode/utf8"

	"github.com/wsproxy/wsproxy/internal/frame"
	"github.com/wsproxy/wsproxy/internal/netconn"
	"github.com/wsproxy/wsproxy/internal/relay"
)

// A Tunnel is a client and a backend between which frames are relayed. Its
// methods are safe for concurrent use.
type Tunnel struct {
	// Immutable. This is what an idle tunnel costs besides its relay, so it is kept
	// small: Info makes the rest of it.
	p       *Proxy
	relay   *relay.Relay
	id      uint64 // set by registry.addTunnel
	backend *Backend
	opened  time.Duration // since p.start
	request encodedSnapshot
	more    *extras // nil for most
}

// ID returns a number that no other tunnel of its Proxy has.
func (t *Tunnel) ID() uint64 { return t.id }

// Close ends the tunnel: as soon as they stand at a frame boundary, the client is
// sent a Close frame with code and reason, and the backend one with 1001. It does
// not wait, and does nothing if the tunnel is ending already. The error is about
// code, which must be one that may be sent (1000 to 1014 but for 1004, 1005 and
// 1006, or 3000 to 4999), or reason, which must be UTF-8 of at most 123 bytes.
// https://www.rfc-editor.org/rfc/rfc6455#section-7.4.2
func (t *Tunnel) Close(code int, reason string) error {
	if !frame.ValidCode(code) {
		return fmt.Errorf("wsproxy: close tunnel %d: code %d may not be sent", t.id, code)
	}
	if !utf8.ValidString(reason) {
		return fmt.Errorf("wsproxy: close tunnel %d: reason %q is not UTF-8", t.id, reason)
	}
	if len(reason) > frame.MaxReason {
		return fmt.Errorf("wsproxy: close tunnel %d: reason of %d bytes; at most %d fit", t.id, len(reason), frame.MaxReason)
	}
	t.relay.Goodbye(relay.CauseCaller, code, reason)
	return nil
}

// closeForShutdown ends the tunnel because the proxy shuts down.
func (t *Tunnel) closeForShutdown() { t.relay.Goodbye(relay.CauseShutdown, 0, "") }

// abort ends the tunnel at once.
func (t *Tunnel) abort() { t.relay.Cut(relay.CauseShutdown) }

// traffic returns what has passed so far.
func (t *Tunnel) traffic() (toBackend, toClient Traffic) {
	b, c := t.relay.Counts()
	return Traffic(b), Traffic(c)
}

// newTunnel returns a tunnel of a, whose client's connection was taken over and has early
// read from it. The tunnel takes over what a owns.
func (p *Proxy) newTunnel(u *upgrade, a *attempt, early []byte) *Tunnel {
	s := newSnapshot(u.r, u.clientAddr, a.client.LocalAddr(), a.agreement)
	return &Tunnel{
		p: p, backend: a.backend, opened: p.now(),
		request: s.encode(), more: u.extras(),
		relay: relay.New(relay.Config{
			Client:      netconn.New(a.client, early),
			Backend:     netconn.New(a.conn, a.early),
			Loops:       p.loops,
			Deflate:     a.agreement.Deflate,
			Unknown:     a.agreement.Unknown,
			MaxMessage:  uint64(p.messageSize),
			WatchStalls: p.maxStalled > 0,
		}),
	}
}

// register registers t. If the proxy has been shut down since the upgrade began, t
// begins to end.
func (p *Proxy) register(t *Tunnel) {
	p.stalls.start()
	switch isStopped, isAborted := p.registry.addTunnel(t); {
	case isAborted:
		t.abort()
	case isStopped:
		t.closeForShutdown()
	}
}

// close ends a tunnel that has not opened, without a hook and without a line in the log.
func (t *Tunnel) close() {
	defer t.p.registry.removeTunnel(t, false)
	defer t.p.release(t.backend)
	t.relay.Cut(relay.CauseLost)
	t.relay.Run()
}

// runTunnel tells of t, which is open, and relays: until it has ended or, if the
// proxy is detached, behind the caller's back.
func (p *Proxy) runTunnel(t *Tunnel) {
	p.registry.opened.Add(1)
	p.logOpened(t)
	if p.trace.Opened != nil {
		p.callOpened(t)
	}
	p.relayTunnel(t)
}

func (p *Proxy) relayTunnel(t *Tunnel) {
	if p.detached {
		t.relay.Start(t.finishAsync)
		return
	}
	t.finish(t.relay.Run())
}

// callOpened calls the hook. A panic in it ends the tunnel, properly, and so does
// the end of its goroutine.
func (p *Proxy) callOpened(t *Tunnel) {
	isDone := false
	defer func() {
		if !isDone {
			t.relay.Goodbye(relay.CausePanic, 0, "")
			p.relayTunnel(t)
		}
	}()
	if err := callHook(p, "Trace.Opened", p.trace.Opened, t.Info()); err != nil {
		t.relay.Goodbye(relay.CausePanic, 0, "")
	}
	isDone = true
}

// finish tells everybody that the tunnel has ended. It leaves the registry last,
// so that Shutdown returns after the last hook.
func (t *Tunnel) finish(end relay.End) {
	t.p.release(t.backend)
	defer t.p.registry.removeTunnel(t, end.Cut)
	if t.p.trace.Closed != nil || t.p.logs(slog.LevelDebug) {
		t.reportEnd(end)
	}
}

// finishAsync is finish on a goroutine of its own: a hook may wait, and who moves the
// bytes of other tunnels must not.
func (t *Tunnel) finishAsync(end relay.End) { go t.finish(end) }

// reportEnd is apart because its frame is large: where nobody listens, the
// goroutine's stack need not grow for it.
func (t *Tunnel) reportEnd(end relay.End) {
	toBackend, toClient := t.traffic()
	e := TunnelEnd{
		TunnelInfo: t.Info(), Duration: t.p.now() - t.opened,
		Side: Side(end.Side), Cause: Cause(end.Cause), Code: end.Code, Cut: end.Cut, Err: end.Err,
		ToBackend: toBackend, ToClient: toClient,
	}
	t.p.logClosed(&e)
	callHook(t.p, "Trace.Closed", t.p.trace.Closed, e)
}
