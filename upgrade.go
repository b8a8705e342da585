package wsproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/wsproxy/wsproxy/internal/handshake"
	"github.com/wsproxy/wsproxy/internal/limit"
	"github.com/wsproxy/wsproxy/internal/netconn"
)

// A ProxyRequest is the argument of the hook of [WithRewrite]. With [WithHTTP] it may be a request
// that is no upgrade: In.Method and In.Header["Upgrade"] tell.
type ProxyRequest struct {
	// In is the client's request. It must not be modified or retained.
	In *http.Request

	// Out is the request for the backend. Its Host, Header, URL.Path, URL.RawPath and
	// URL.RawQuery are used. It may be replaced. Hop-by-hop fields are removed and
	// X-Forwarded-For, -Host and -Proto are set before the hook is called, so that no
	// client can forge or remove a field that the hook sets. Query parameters that
	// net/url cannot parse are removed too, because the backend might read them in
	// another way than the balancer did; In.URL.RawQuery still has them. Upgrade,
	// Connection, Sec-WebSocket-Key and Sec-WebSocket-Version are set by the proxy
	// afterwards. Other fields of Out are not used: the method, the body and the trailer of a
	// request that is no upgrade are those of In, and hop-by-hop fields that the hook sets
	// are not sent.
	Out *http.Request

	// Backend is the backend that was picked, which will be dialed next.
	Backend *Backend

	// RequestID is the ID of the request, which Out has in X-Request-Id: see
	// [TunnelInfo.RequestID].
	RequestID string

	// Value is what the hook of [WithAdmit] returned, or nil.
	Value any
}

// A ProxyResponse is the argument of the hook of [WithResponse].
type ProxyResponse struct {
	// Request is the client's request. It must not be modified or retained.
	Request *http.Request

	// Backend is the backend that answered.
	Backend *Backend

	// RequestID is the ID of the request: see [TunnelInfo.RequestID].
	RequestID string

	// StatusCode is the status of its response: 101, the status with which it refused the
	// upgrade, or with [WithHTTP] that of its response to another request. Changing it has no
	// effect.
	StatusCode int

	// Header is the header of the client's response. Set a cookie here. Header may be
	// replaced. The fields of the handshake, hop-by-hop fields and Content-Length are not in it
	// and cannot be set.
	Header http.Header
}

// An upgrade is one request on its way to a tunnel. One goroutine works on it at
// a time.
type upgrade struct {
	inbound
	client   client // &http1, unless it is over HTTP/2
	http1    http1Client
	canceler canceler

	hasPlace bool // among Limits.Tunnels and PerClient, until the tunnel has it

	deadline       time.Time // of all attempts together, r's context's included; zero: none
	callerDeadline bool      // deadline is that of r's context

	failed []*BackendError // attempts since it has waited
	kept   *attempt        // see attempt.isKept

	times upgradeTimes

	waiter     limit.Waiter // in the queue
	hasWaited  bool
	pickResult limit.Result // of the last pick
	waitCause  error        // why it waits; nil: behind others

	head headBuffer // of a request for a backend, then of the client's 101

	// The result is one of these.
	err      error
	response *attempt // with a response other than 101
	tunnel   *Tunnel
}

func newUpgrade(p *Proxy, w http.ResponseWriter, r *http.Request) *upgrade {
	u := &upgrade{inbound: inbound{p: p, r: r}}
	if c := connectOf(r); c != nil {
		u.client = &http2Client{u: u, w: w, connect: c}
		return u
	}
	u.http1 = http1Client{u: u, w: w, front: frontOf(r.Context())}
	u.client = &u.http1
	return u
}

// serveUpgrade serves r, which is an upgrade.
//
// The steps before the tunnel run on a goroutine of their own. Its deep stack is
// freed when the tunnel opens, and the stack of the server's goroutine, which stays
// with the tunnel, has never grown: 4 KB instead of 8, of 27 KB in all.
func (p *Proxy) serveUpgrade(w http.ResponseWriter, r *http.Request) {
	if handshake.IsConnect(r) { // there is no Front
		serveConnect(w, r, http.HandlerFunc(p.serveUpgrade))
		return
	}
	if u := p.openTunnel(w, r); u != nil {
		// From here on w is hijacked: nothing may be written to it.
		p.runTunnel(u)
	}
}

// openTunnel returns an upgrade that has opened a tunnel, or nil when the client has had another
// response.
func (p *Proxy) openTunnel(w http.ResponseWriter, r *http.Request) *upgrade {
	u := newUpgrade(p, w, r)
	u.times.arrived = time.Now()
	ctx := r.Context()
	stop := context.AfterFunc(ctx, func() { u.canceler.cancel(ctx.Err()) })
	defer stop()
	if err := p.registry.addUpgrade(u); err != nil {
		p.refuse(w, r, err, ReasonShutdown)
		return nil
	}
	defer p.registry.removeUpgrade(u)
	u.client.begin()
	done := make(chan struct{})
	go u.run(done) // ends by u.canceler and u.deadline
	<-done
	p.phases.observe(&u.times)
	stop() // before forward may hijack: fasthttp ends the context of a hijacked request without an error
	defer u.releasePlace()
	if u.response != nil || u.tunnel != nil {
		u.countAffinity()
	}
	if u.response != nil {
		u.err = u.forward()
	} else if u.tunnel == nil && u.err == nil {
		u.err = errors.New("wsproxy: a hook has ended its goroutine")
	}
	if u.err != nil {
		u.refuse()
	}
	if u.tunnel == nil {
		return nil
	}
	return u
}

// refuse reports and refuses the upgrade, which ended with u.err. It is a function of its own
// because of its large stack frame: the stack of a goroutine that waits in an idle tunnel was 8 KB
// with it in openTunnel, and is 4 KB.
//
//go:noinline
func (u *upgrade) refuse() {
	i := u.refused(u.err, reasonOf(u.err, u.stage, u.canceled() != nil))
	u.p.reportRefused(i, nil)
	u.releasePlace() // the client may come again before it has been refused
	u.client.refuse(&i)
}

// releasePlace gives the upgrade's place back, unless its tunnel has it now.
func (u *upgrade) releasePlace() {
	if u.hasPlace && u.tunnel == nil {
		u.hasPlace = false
		u.p.admission.release(u.clientKey)
	}
}

// run performs the steps before the tunnel, in the order of ARCHITECTURE.md, which is a
// security property.
func (u *upgrade) run(done chan<- struct{}) {
	defer close(done)
	defer u.head.free()
	defer func() {
		if v := recover(); v != nil {
			u.err = u.p.newHookPanic(panicOfProxy, u.info.id, v)
		}
	}()
	u.identify()
	u.checkForwarded()
	if u.err = u.check(); u.err != nil {
		return
	}
	u.times.letIn()
	if u.err = u.canceled(); u.err != nil {
		return // while the Admit hook ran
	}
	u.stage = ReasonHook
	u.setDeadline()
	a, err := u.tryBackends()
	switch {
	case err != nil:
		u.err = err
	case a.isSwitch():
		u.err = u.switchProtocols(a)
	default:
		u.response = a
	}
}

// check returns an error if RFC 6455 or the proxy's policy refuses the request, or if no
// connection can be hijacked.
func (u *upgrade) check() error {
	u.stage = ReasonCheck
	if refusal := handshake.Validate(u.r); refusal != nil {
		return refusalError(refusal)
	}
	if err := u.checkOrigin(); err != nil {
		return err
	}
	if err := u.admit(); err != nil {
		return err
	}
	u.stage = ReasonFault
	return u.client.check()
}

// admit returns an error if the limits or the Admit hook do not let the upgrade in.
func (u *upgrade) admit() error {
	a := u.p.admission
	if err := u.setClientKey(); err != nil {
		return err
	}
	if err := a.allowRate(u.p.now(), u.clientKey); err != nil {
		return err
	}
	if err := u.callAdmit(); err != nil {
		return err
	}
	if !a.boundsPlaces() {
		return nil
	}
	if err := a.reserve(u.clientKey); err != nil {
		return err
	}
	u.hasPlace = true
	return nil
}

// refusalError returns the error for a refusal of package handshake.
func refusalError(f *handshake.Refusal) error {
	return &StatusError{Status: f.Status, Header: f.Header, Err: errors.New(f.Reason)}
}

// refused is [inbound.refused], with the times of the upgrade.
func (u *upgrade) refused(err error, reason Reason) RefusedInfo {
	i := u.inbound.refused(err, reason)
	i.Times = u.times.UpgradeTimes
	return i
}

// setDeadline sets the deadline of all attempts together.
func (u *upgrade) setDeadline() {
	if u.p.handshakeTimeout > 0 {
		u.deadline = time.Now().Add(u.p.handshakeTimeout)
	}
	if d, ok := u.r.Context().Deadline(); ok && (u.deadline.IsZero() || d.Before(u.deadline)) {
		u.deadline, u.callerDeadline = d, true // a middleware's
	}
}

// canceled returns why the upgrade is canceled, by Shutdown or by the end of the
// request's context, or nil.
func (u *upgrade) canceled() error {
	if cause := u.canceler.err(); cause != nil {
		return cause
	}
	return contextErr(u.r.Context())
}

// newOutboundRequest returns the request for b, after the Rewrite hook.
func (u *upgrade) newOutboundRequest(b *Backend) (*outboundRequest, error) {
	out := &outboundRequest{target: b.target.Load(), offer: u.r.Header, forLoop: u.r.TLS == nil && u.r.ProtoMajor == 1, requestID: u.info.id}
	url, refusal := handshake.OutboundURL(u.r.URL, out.target.prefix)
	if refusal != nil {
		u.stage = ReasonCheck
		return nil, refusalError(refusal)
	}
	out.out = &http.Request{
		Method: http.MethodGet, URL: url, Host: u.r.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: u.outboundHeader(),
	}
	var err error
	if out.out, err = u.rewrite(out.out, b); err != nil {
		return nil, err
	}
	if err := out.encode(&u.head); err != nil {
		return nil, err
	}
	out.proxyHeader = out.target.proxyHeader(u.r, &u.info)
	return out, nil
}

// forward sends the client the response with which the backend refused the upgrade.
func (u *upgrade) forward() error {
	u.stage = ReasonFault
	defer u.response.close()
	return u.client.forward(u.response)
}

// switchProtocols hijacks the client's connection, registers a tunnel and writes the
// 101. The tunnel is registered first: a client that has its 101 is then seen by
// [Proxy.Tunnels] and by Shutdown.
//
// The attempt owns the connections and the backend's place, then the tunnel does.
// Each step may fail or panic: the owner of the moment is then closed.
func (u *upgrade) switchProtocols(a *attempt) error {
	var owner interface{ close() } = a
	defer func() {
		if owner != nil {
			owner.close()
		}
	}()
	opening, err := u.opening(a)
	if err != nil {
		return err
	}
	u.stage = ReasonFault
	conn, ahead, err := u.client.hijack()
	if err != nil {
		return err
	}
	u.stage = ReasonClientLeft
	a.client = conn
	netconn.LimitBuffers(conn, u.p.socketBuffer)
	conn.SetDeadline(time.Time{}) // the server's deadlines do not hold for a tunnel
	t := u.p.newTunnel(u, a, detachBuffered(ahead))
	owner = t
	u.p.register(t)
	if err := t.relay.Open(opening, responseTimeout); err != nil {
		if cause := u.canceled(); cause == ErrShutdown {
			return cause
		}
		return fmt.Errorf("wsproxy: client lost before its 101: %w", err) // no handler sees it
	}
	owner = nil // the caller's, in u.tunnel
	u.tunnel = t
	return nil
}

// detachBuffered returns the bytes that br has read ahead, and drops br's buffer: the
// server's connection refers to br as long as ServeHTTP runs, and the buffer would be 4 KB
// of the cost of an idle tunnel. A nil br has none.
func detachBuffered(br *bufio.Reader) []byte {
	if br == nil {
		return nil
	}
	early, _ := br.Peek(br.Buffered())
	early = slices.Clone(early)
	*br = bufio.Reader{}
	return early
}

// opening returns the bytes that open the tunnel for the client.
func (u *upgrade) opening(a *attempt) ([]byte, error) {
	if cause := u.canceled(); cause != nil {
		return nil, cause // while the hook ran
	}
	opening, err := u.client.opening(&u.head, a.header, a.agreement)
	if err != nil {
		return nil, &responseError{err}
	}
	return opening, nil
}

// applyResponseHook sets a.header, which the client's response will have, and calls the
// Response hook with it.
func (u *upgrade) applyResponseHook(a *attempt) error {
	if a.isSwitch() {
		a.header = handshake.SwitchHeader(u.client.header(), a.resp.Header)
	} else {
		a.header = handshake.AnswerHeader(a.resp.Header)
	}
	u.bindTo(&a.choice, a.resp.StatusCode, a.header)
	if u.p.response == nil {
		return nil
	}
	r := &ProxyResponse{
		Request: u.r, Backend: a.backend, RequestID: u.info.id,
		StatusCode: a.resp.StatusCode, Header: a.header,
	}
	err := u.p.callResponse(r)
	a.header = r.Header
	if errors.Is(err, ErrTryNext) {
		return &BackendError{ID: a.backend.id, Op: "handshake", Err: fmt.Errorf("%w: %w", statusFailure(a.resp), err), isConnected: true}
	}
	return responseHookError(err)
}

// responseHookError returns the error of a request, if the Response hook returned err.
func responseHookError(err error) error {
	var chosen *StatusError
	var panicked *hookPanic
	if err == nil || errors.As(err, &chosen) || errors.As(err, &panicked) {
		return err
	}
	return &responseError{err}
}

// A responseError reports that a backend's response cannot be passed on: the Response
// hook refused it, or set a header that cannot be written.
type responseError struct{ err error }

func (e *responseError) Error() string { return "wsproxy: answer for the client: " + e.err.Error() }
func (e *responseError) Unwrap() error { return e.err }
