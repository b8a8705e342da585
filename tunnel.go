package wsproxy

import (
	"errors"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/wsproxy/wsproxy/internal/frame"
	"github.com/wsproxy/wsproxy/internal/health"
	"github.com/wsproxy/wsproxy/internal/netconn"
	"github.com/wsproxy/wsproxy/internal/relay"
)

// A Tunnel is a client and a backend between which frames are relayed. Its
// methods are safe for concurrent use.
type Tunnel struct {
	// Immutable, and small: these fields and the relay are the memory of an idle
	// tunnel. Info computes the rest.
	p       *Proxy
	relay   *relay.Relay
	id      uint64 // set by registry.addTunnel
	backend *Backend
	opened  time.Duration // when the backend's 101 came, since p.start
	request encodedSnapshot
	more    *extras // nil for most
}

// ID returns the tunnel's number, which is unique within its Proxy.
func (t *Tunnel) ID() uint64 { return t.id }

// Backend returns the tunnel's backend, as Info does in a hundred times the time.
func (t *Tunnel) Backend() *Backend { return t.backend }

// Traffic returns the bytes and messages relayed so far in each direction, without frames that
// the proxy itself sent. When a tunnel is cut, the bytes that a side had not been sent are taken off.
func (t *Tunnel) Traffic() (toBackend, toClient Traffic) {
	b, c := t.relay.Counts()
	return Traffic(b), Traffic(c)
}

// LastActive returns when bytes of one side were last passed to the other, pings and pongs of
// the two sides included, to within a quarter of a second; if none were, when the tunnel was
// opened. The pings of [WithPing] do not count.
func (t *Tunnel) LastActive() time.Time {
	opened, passed := t.p.start.Add(t.opened), t.relay.LastPassed()
	if passed.Before(opened) {
		return opened
	}
	return passed
}

// Close ends the tunnel: the backend is sent a Close frame with 1001, and the client one
// with code and reason, behind what the backend still sends or, if code is 1008, at once.
// Each is sent at a frame boundary. The package documentation says how long the backend is
// waited for, and when its own code goes to the client instead. Close does not wait, and
// does nothing if the tunnel is ending already. It returns an error if code may not be sent
// (valid are 1000 to 1014 except 1004, 1005 and 1006, and 3000 to 4999), or if reason is
// not UTF-8 or is longer than 123 bytes.
// https://www.rfc-editor.org/rfc/rfc6455#section-7.4.2
func (t *Tunnel) Close(code int, reason string) error {
	if err := checkClose(code, reason); err != nil {
		return fmt.Errorf("wsproxy: close tunnel %d: %w", t.id, err)
	}
	t.relay.Close(relay.CauseApplication, code, reason)
	return nil
}

// checkClose returns an error if a Close frame cannot have this code and reason.
func checkClose(code int, reason string) error {
	switch {
	case !frame.ValidCode(code):
		return fmt.Errorf("code %d may not be sent", code)
	case !utf8.ValidString(reason):
		return fmt.Errorf("reason %q is not UTF-8", reason)
	case len(reason) > frame.MaxReason:
		return fmt.Errorf("reason of %d bytes; at most %d fit", len(reason), frame.MaxReason)
	}
	return nil
}

// closeFor ends the tunnel because of cause, which is not CauseApplication. It reports whether
// the tunnel was not ending already.
func (t *Tunnel) closeFor(cause relay.Cause) (hasBegun bool) { return t.relay.Close(cause, 0, "") }

// closeForShutdown ends the tunnel because the proxy shuts down.
func (t *Tunnel) closeForShutdown() bool { return t.closeFor(relay.CauseShutdown) }

// abort ends the tunnel at once.
func (t *Tunnel) abort() { t.relay.Abort(relay.CauseShutdown) }

// newTunnel returns a tunnel for a, whose client's connection was hijacked after early was
// read from it. The tunnel then owns the connections and the place of a.
func (p *Proxy) newTunnel(u *upgrade, a *attempt, early []byte) *Tunnel {
	s := newRequestSnapshot(u.r, &u.info, a.client.LocalAddr(), a.agreement)
	t := &Tunnel{
		p: p, backend: a.backend, opened: a.switchedAt,
		request: s.encode(), more: u.extras(),
	}
	t.relay = p.engine.New(relay.Config{
		Client:     netconn.New(a.client, early),
		Backend:    netconn.New(a.conn, a.early),
		Deflate:    a.agreement.Deflate,
		Unknown:    a.agreement.Unknown,
		MaxMessage: uint64(p.messageSize),
		Owner:      tunnelOwner{t},
	})
	a.backend.upgrading.Add(-1)
	return t
}

// register registers t. If the proxy has been shut down since the upgrade began, or the
// backend drains since it was picked, t begins to end.
func (p *Proxy) register(t *Tunnel) {
	switch isStopped, isAborted := p.registry.addTunnel(t); {
	case isAborted:
		t.abort()
	case isStopped:
		t.closeForShutdown()
	case t.backend.drains(): // read after addTunnel, so that a drain finds t or t finds the drain
		t.closeFor(relay.CauseDrain)
	}
}

// close ends a tunnel that has not opened, without a hook and without a line in the log.
func (t *Tunnel) close() {
	defer t.p.registry.removeTunnel(t, nil, 0)
	t.relay.Abort(relay.CauseLost)
	t.relay.Run()
}

// runTunnel calls the hook and logs for the tunnel that u has opened, and relays until it has
// ended; if the proxy is detached, it returns at once. It does not keep u.
func (p *Proxy) runTunnel(u *upgrade) {
	t, r := u.tunnel, u.r
	p.registry.counters.opened.Add(1)
	t.backend.counters.opened.Add(1)
	p.recordLife(t)
	if r := p.rebalancing.Load(); r != nil {
		r.recordOpened(t)
	}
	p.logOpened(t, &u.times.UpgradeTimes)
	if hooks := p.traceHooks().opened; len(hooks) > 0 {
		p.callOpened(hooks, u)
	}
	p.relayTunnel(t, r)
}

// relayTunnel relays until t, which r has opened, has ended, or in the background. A stream of
// HTTP/2 ends when the handler returns.
func (p *Proxy) relayTunnel(t *Tunnel, r *http.Request) {
	if p.detached && r.ProtoMajor == 1 {
		t.relay.Start()
		return
	}
	t.finish(t.relay.Run())
}

// callOpened calls the hooks for the tunnel that u has opened. If one panics or ends its goroutine,
// the tunnel ends with a closing handshake.
func (p *Proxy) callOpened(hooks []func(OpenedInfo), u *upgrade) {
	t := u.tunnel
	isDone := false
	defer func() {
		if !isDone {
			t.relay.Close(relay.CausePanic, 0, "")
			p.relayTunnel(t, u.r)
		}
	}()
	i := OpenedInfo{Tunnel: t, Request: u.r, Times: u.times.UpgradeTimes}
	if err := callHooks(p, "Trace.Opened", u.info.id, hooks, i); err != nil {
		t.relay.Close(relay.CausePanic, 0, "")
	}
	isDone = true
}

// finish gives back the place among [Limits], logs the end and calls the hook. It removes the
// tunnel from the registry last, so that Shutdown returns after the last hook.
func (t *Tunnel) finish(end relay.End) {
	defer t.p.registry.removeTunnel(t, &end, t.p.now()-t.opened) // until now, whatever the hook takes
	t.releasePlace()                                             // the client may come again before the hook returns
	t.recordUse(end)
	if len(t.p.traceHooks().closed) > 0 || t.p.logs(t.p.tunnelLevel()) {
		t.reportEnd(end)
	}
}

// recordUse records that messages have passed both ways: that shows as much as a tunnel that
// lives for a second, where clients have short ones.
func (t *Tunnel) recordUse(end relay.End) {
	isLost := end.Side == relay.Backend && end.Cause == relay.CauseLost
	if !t.backend.needsLife() || isLost || t.backend.hasMovedSince(t.opened) {
		return
	}
	if toBackend, toClient := t.Traffic(); toBackend.Messages > 0 && toClient.Messages > 0 {
		t.p.recordHealth(t.backend, health.Event{Outcome: health.Lived}, nil)
	}
}

// releasePlace gives the place back that the tunnel has among [Limits].
func (t *Tunnel) releasePlace() {
	if a := t.p.admission; a.boundsPlaces() {
		var key clientKey
		if t.more != nil {
			key = t.more.clientKey
		}
		a.release(key)
	}
}

// A tunnelOwner is a tunnel as its relay's [relay.Owner].
type tunnelOwner struct{ t *Tunnel }

// BackendEnding records a tunnel that its backend has refused: see [Backend.Load]. That the
// client has sent something means little: many do so at once, before they can know that the
// backend has already ended the tunnel. But it may be the reason why the backend has closed
// the connection: so a backend that did that is at fault only if nothing was sent.
func (o tunnelOwner) BackendEnding(isLost bool, toBackend, toClient relay.Counts) {
	t := o.t
	if t.p.now()-t.opened >= health.MinLife || t.backend.hasMovedSince(t.opened) {
		return
	}
	isUsed := toBackend.Bytes > 0 && toClient.Messages > 0
	if !isUsed {
		t.backend.recordEnded(t.opened)
	}
	if isLost {
		s := t.request.decode()
		e := health.Event{Outcome: health.Lost, Client: hashString(addrKey(s.clientAddr()))}
		if change := t.p.changeHealth(t.backend, e, errTunnelLost); change.Raised != 0 {
			t.p.registry.addReport()
			go func() { // ends when the hook returns
				defer t.p.registry.removeReport()
				t.p.reportHealth(t.backend, change, errTunnelLost)
			}()
		}
	}
}

// errTunnelLost is the reason of [FlagResting] for a backend that loses tunnels.
var errTunnelLost = errors.New("closed the connection of a tunnel at once, without a Close frame")

// BackendClosed gives the backend's place back.
func (o tunnelOwner) BackendClosed() { o.t.p.release(o.t.backend) }

// Ended finishes the tunnel on a goroutine of its own: a hook may block, and the
// goroutine that moves the bytes of other tunnels must not.
func (o tunnelOwner) Ended(end relay.End) { go o.t.finish(end) }

// reportEnd logs the end and calls the hook. It is a function of its own because of its
// large stack frame: without a hook and a log line, the goroutine's stack need not grow.
func (t *Tunnel) reportEnd(end relay.End) {
	toBackend, toClient := t.Traffic()
	e := TunnelEnd{
		TunnelInfo: t.Info(), Duration: t.p.now() - t.opened,
		Side: Side(end.Side), Cause: Cause(end.Cause), Code: end.Code, Cut: end.Cut, Err: end.Err,
		ToBackend: toBackend, ToClient: toClient,
	}
	t.p.logClosed(&e)
	callHooks(t.p, "Trace.Closed", e.RequestID, t.p.traceHooks().closed, e)
}
