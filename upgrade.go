package wsproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/wsproxy/wsproxy/internal/handshake"
	"github.com/wsproxy/wsproxy/internal/netconn"
)

// A ProxyRequest is what the hook of [WithRewrite] works on.
type ProxyRequest struct {
	// In is the client's request. It must not be modified or kept.
	In *http.Request

	// Out is the request that the backend gets: its Host, Header, URL.Path,
	// URL.RawPath and URL.RawQuery count. It may be replaced. Hop-by-hop fields are removed, so are
	// query parameters that net/url cannot parse (the backend might read them
	// differently from whoever chose it; In.URL.RawQuery still has them), and
	// X-Forwarded-For, -Host and -Proto are set already, so that what the hook
	// sets no client can forge or remove. Upgrade, Connection,
	// Sec-WebSocket-Key and Sec-WebSocket-Version are the proxy's own and written
	// afterwards.
	Out *http.Request

	// Backend is the backend that was picked, which will be dialed next.
	Backend *Backend
}

// A ProxyResponse is what the hook of [WithResponse] works on.
type ProxyResponse struct {
	// Request is the client's request. It must not be modified or kept.
	Request *http.Request

	// Backend is the backend that answered.
	Backend *Backend

	// StatusCode is what it answered: 101, or what it refused the upgrade with. To
	// change it has no effect.
	StatusCode int

	// Header is what the client will get; a cookie is set here. It may be replaced.
	// The handshake's own fields are not in it and cannot be set.
	Header http.Header
}

// An upgrade is one request on its way to a tunnel. One goroutine works on it at
// a time.
type upgrade struct {
	p        *Proxy
	w        http.ResponseWriter
	r        *http.Request // the client's, with the client behind a trusted proxy noted in its context
	client   netip.Addr    // behind trusted proxies
	trusted  bool          // the peer that sent r is a trusted proxy
	deadline time.Time     // for all attempts together, r's context's included; zero: none
	canceler canceler

	callerDeadline bool // deadline is that of r's context

	tried      []*Backend // one for each attempt
	triedArray [maxAttempts]*Backend

	head headBuffer // of a request for a backend, then of the client's 101

	// What came of it: an error, or an answer other than 101, or a tunnel, or
	// nothing if the client went away at the last moment.
	err        error
	response   *backendResponse
	tunnel     *Tunnel
	isHijacked bool
}

// serveUpgrade takes r, which is an upgrade, all the way.
//
// All that comes before the tunnel runs on a goroutine of its own: its deep stack
// is gone when the tunnel opens, and the one that stays in the tunnel has never
// grown (4 KB instead of 8, of 27 KB in all).
func (p *Proxy) serveUpgrade(w http.ResponseWriter, r *http.Request) {
	if t := p.openTunnel(w, r); t != nil {
		// From here on w is hijacked: nothing may be written to it.
		p.runTunnel(t)
	}
}

// openTunnel returns an open tunnel, or nil when the client has been answered
// otherwise. What it needs is gone when it returns.
func (p *Proxy) openTunnel(w http.ResponseWriter, r *http.Request) *Tunnel {
	u := &upgrade{p: p, w: w, r: r}
	ctx := r.Context()
	stop := context.AfterFunc(ctx, func() { u.canceler.cancel(ctx.Err()) })
	defer stop()
	if err := p.registry.addUpgrade(u); err != nil {
		p.refuse(w, r, err)
		return nil
	}
	defer p.registry.removeUpgrade(u)
	done := make(chan struct{})
	go u.run(done) // ends by u.wait and u.deadline
	<-done
	switch {
	case u.err != nil || u.isHijacked:
	case u.response != nil:
		u.err = u.forwardResponse()
	default:
		u.err = errors.New("wsproxy: a hook has ended its goroutine")
	}
	if u.err != nil && !u.isHijacked {
		// The server's WriteTimeout may have passed while backends were tried.
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(responseTimeout))
		p.refuse(w, r, u.err)
	}
	return u.tunnel
}

// run makes a tunnel of u, or finds out why not.
func (u *upgrade) run(done chan<- struct{}) {
	defer close(done)
	defer u.head.free()
	defer u.p.catch("an upgrade", &u.err)
	if u.err = u.check(); u.err != nil {
		return
	}
	a, err := u.connect()
	switch {
	case err != nil:
		u.err = err
	case a.resp.StatusCode == http.StatusSwitchingProtocols:
		u.err = u.switchProtocols(a)
	default:
		u.response = a
	}
}

// check refuses what need not be dialed for. The order of the steps is a security
// property.
func (u *upgrade) check() error {
	if refusal := handshake.Validate(u.r); refusal != nil {
		return refused(refusal)
	}
	if u.p.origins != nil {
		if refusal := u.p.origins.Check(u.r); refusal != nil {
			return refused(refusal)
		}
	}
	return u.p.checkHijacker(u.w)
}

// refused makes an error of what package handshake refuses.
func refused(f *handshake.Refusal) error {
	return &StatusError{Status: f.Status, Header: f.Header, Err: errors.New(f.Reason)}
}

// checkHijacker looks for the server's connection behind the wrappers that
// middleware puts around a ResponseWriter, before anything is dialed.
func (p *Proxy) checkHijacker(w http.ResponseWriter) error {
	for {
		switch t := w.(type) {
		case http.Hijacker:
			return nil
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			p.logAttrs(slog.LevelError, "connection cannot be hijacked: a middleware's ResponseWriter has neither Hijack nor Unwrap",
				slog.String("type", fmt.Sprintf("%T", w)))
			return fmt.Errorf("wsproxy: %T has neither Hijack nor Unwrap: %w", w, http.ErrNotSupported)
		}
	}
}

// connect makes attempts until a backend has answered.
func (u *upgrade) connect() (*backendResponse, error) {
	u.client, u.trusted = u.p.trusted.Client(u.r.RemoteAddr, u.r.Header)
	if u.trusted {
		u.r = withClient(u.r, u.client) // else the client is the peer, which u.r names itself
	}
	u.tried = u.triedArray[:0]
	if u.p.handshakeTimeout > 0 {
		u.deadline = time.Now().Add(u.p.handshakeTimeout)
	}
	if d, ok := u.r.Context().Deadline(); ok && (u.deadline.IsZero() || d.Before(u.deadline)) {
		u.deadline, u.callerDeadline = d, true // of a middleware
	}
	return u.try()
}

// try makes attempts, one backend after another: nothing has been sent to the
// client, so this is safe.
func (u *upgrade) try() (*backendResponse, error) {
	var failed []error
	for {
		b, isLast, err := u.pick()
		if len(failed) > 0 && (errors.Is(err, ErrNoBackend) || errors.Is(err, ErrLimit)) {
			return nil, &attemptErrors{failed} // no other is left: why those failed that were
		}
		if err != nil {
			return nil, err
		}
		a, err := u.attempt(b, isLast)
		if a != nil {
			return a, nil
		}
		if cause := u.canceled(); cause != nil {
			return nil, cause
		}
		if _, ok := err.(*BackendError); !ok {
			return nil, err // a hook's
		}
		if failed = append(failed, err); isLast {
			return nil, &attemptErrors{failed}
		}
	}
}

// canceled returns why nobody waits for the upgrade any more, the request's context or
// Shutdown, or nil.
func (u *upgrade) canceled() error { return u.canceler.checkContext(u.r.Context()) }

// attemptErrors joins the failures of all attempts, in their order.
type attemptErrors struct{ errs []error }

func (e *attemptErrors) Error() string   { return errors.Join(e.errs...).Error() }
func (e *attemptErrors) Unwrap() []error { return e.errs }

// last returns the failure that decides what the client gets.
func (e *attemptErrors) last() error { return e.errs[len(e.errs)-1] }

// pick has the balancer choose, and reserves the chosen backend's place. isLast
// reports that no other will be tried after it.
func (u *upgrade) pick() (b *Backend, isLast bool, err error) {
	for {
		set := u.p.set.Load()
		candidates, err := set.candidates(make([]*Backend, 0, len(set.all)), u.tried, u.p.now())
		if err != nil {
			return nil, false, err
		}
		b, err := u.p.callPick(u.r, candidates)
		if err != nil {
			return nil, false, err
		}
		if b == nil || !slices.Contains(candidates, b) {
			return nil, false, fmt.Errorf("wsproxy: balancer %T picked a backend that is no candidate", u.p.balancer)
		}
		if !b.reserve() {
			continue // others have filled it in the meantime
		}
		if b.removed.Load() { // after reserve: SetBackends has seen one of the two
			u.p.release(b)
			continue
		}
		u.tried = append(u.tried, b)
		if err := u.tracePicked(b, len(candidates)); err != nil {
			return nil, false, err
		}
		return b, len(u.tried) == maxAttempts || !set.hasOther(u.tried), nil
	}
}

// tracePicked tells of b, whose place is given back unless the hook returns.
func (u *upgrade) tracePicked(b *Backend, numCandidates int) (err error) {
	isDone := false
	defer func() {
		if !isDone {
			u.p.release(b)
		}
	}()
	err = callHook(u.p, "Trace.Picked", u.p.trace.Picked,
		PickedInfo{Request: u.r, Backend: b, Attempt: len(u.tried), Candidates: numCandidates})
	isDone = err == nil
	return err
}

// switchProtocols hijacks the client's connection, opens the tunnel and writes the
// 101. The tunnel is registered first: a client that has its 101 finds it there,
// and so does whoever ends all tunnels.
func (u *upgrade) switchProtocols(a *backendResponse) error {
	var conn net.Conn
	defer func() { // whatever panics
		if a != nil {
			u.close(a)
			if conn != nil {
				conn.Close()
			}
		}
	}()
	msg, err := u.switchMessage(a)
	if err != nil {
		return err
	}
	conn, brw, err := http.NewResponseController(u.w).Hijack()
	if err != nil {
		u.p.logAttrs(slog.LevelError, "connection cannot be hijacked",
			slog.String("type", fmt.Sprintf("%T", u.w)), slog.Any("err", err))
		return fmt.Errorf("wsproxy: hijack the client's connection: %w", err)
	}
	u.isHijacked = true
	netconn.LimitBuffers(conn, u.p.socketBuffer)
	// What the server has left of its deadlines ends here: a tunnel has none.
	conn.SetDeadline(time.Time{})
	t := u.p.newTunnel(u, a, netconn.New(conn, takeBuffered(brw.Reader)), conn.LocalAddr())
	a = nil
	if err := t.relay.Greet(msg, responseTimeout); err != nil {
		u.p.logAttrs(slog.LevelDebug, "client lost before its 101",
			slog.String(logClient, u.r.RemoteAddr), slog.Any("err", err))
		u.p.abandonTunnel(t)
		return nil
	}
	u.tunnel = t
	return nil
}

// takeBuffered returns what br has read ahead, and frees br's buffer. The server's
// connection holds br as long as ServeHTTP runs, though it does not use it any more:
// 4 KB of what an idle tunnel costs.
func takeBuffered(br *bufio.Reader) []byte {
	early, _ := br.Peek(br.Buffered())
	early = slices.Clone(early)
	*br = bufio.Reader{}
	return early
}

// switchMessage returns the client's 101, after the Response hook.
func (u *upgrade) switchMessage(a *backendResponse) ([]byte, error) {
	h, err := u.applyResponseHook(a, handshake.SwitchHeader(u.w.Header(), a.resp.Header))
	if err != nil {
		return nil, err
	}
	if cause := u.canceled(); cause != nil {
		return nil, cause // while the hook ran
	}
	msg, err := handshake.AppendSwitch(u.head.empty(), h, handshake.ClientKey(u.r), a.agreement)
	if err != nil {
		return nil, &responseError{err}
	}
	return msg, nil
}

// applyResponseHook runs the Response hook over h, and returns the header that the client will
// get.
func (u *upgrade) applyResponseHook(a *backendResponse, h http.Header) (http.Header, error) {
	if u.p.response == nil {
		return h, nil
	}
	r := &ProxyResponse{Request: u.r, Backend: a.backend, StatusCode: a.resp.StatusCode, Header: h}
	err := u.p.callResponse(r)
	var chosen *StatusError
	var panicked *hookPanic
	if err == nil || errors.As(err, &chosen) || errors.As(err, &panicked) {
		return r.Header, err
	}
	return nil, &responseError{err}
}

// A responseError says that a backend's answer cannot be passed on: the Response
// hook refused it, or left what cannot be written.
type responseError struct{ err error }

func (e *responseError) Error() string { return "wsproxy: answer for the client: " + e.err.Error() }
func (e *responseError) Unwrap() error { return e.err }
