package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/dialer"
	"github.com/wsproxy/wsproxy/internal/handshake"
	"github.com/wsproxy/wsproxy/internal/limit"
	"github.com/wsproxy/wsproxy/internal/relay"
)

// A Proxy is an [http.Handler] that balances WebSocket connections over
// backends. Its methods are safe for concurrent use.
//
// Use [New] to make one; the zero value cannot be used. A Proxy starts no goroutine before
// its first upgrade, unless [WithHealthCheck] is given: then New starts one. Its goroutines
// end with [Proxy.Shutdown] or [Proxy.Close], and not before: call one of them when the Proxy
// is no longer needed.
type Proxy struct {
	config // immutable

	start time.Time // immutable

	admission *admission
	queue     *queue
	retries   retryBudget
	forwarded forwardedCount
	panics    panicCounts

	// Clients that were refused by a Close frame are waited for until stopLingering is
	// called, which ends the context lingering. See Refusal.
	lingering     context.Context
	stopLingering context.CancelFunc
	numLingering  atomic.Int64

	observers observers
	phases    phases // immutable

	engine *relay.Engine  // immutable
	dialer *dialer.Dialer // for names, without WithDialer; immutable

	checker *checker // nil without WithHealthCheck; immutable

	set      atomic.Pointer[backendSet]
	registry registry

	ejecting   sync.Mutex  // held while a backend is ejected, so that not too many are
	usesOthers atomic.Bool // see reportTier

	hasFallbacks atomic.Bool // see reportFallback

	slowUntil    atomic.Int64 // the end of the last slow start, since start; 0 if there was none
	stateChanged atomic.Int64 // the last call of recordStateChange, since start; 0 if there was none

	rebalancing atomic.Pointer[rebalancing] // the call of Rebalance under way, or nil

	mu    sync.Mutex          // held to change set and known, and what drains or closes a backend's tunnels
	known map[string]*Backend // by ID: the backends in the set, and removed ones that still have tunnels
}

// New returns a Proxy. It checks all options together: the error joins a
// [*ConfigError] for each mistake.
func New(opts ...Option) (*Proxy, error) {
	var s settings
	var errs []error
	for i, o := range opts {
		if o == nil {
			errs = append(errs, &ConfigError{Option: fmt.Sprintf("New[%d]", i), Value: o, Err: errors.New("no option")})
			continue
		}
		o.apply(&s)
	}
	c, bad := s.compile()
	errs = append(errs, bad...)
	p := &Proxy{config: c, start: time.Now(), phases: newPhases(), dialer: dialer.New(), known: make(map[string]*Backend)}
	p.engine = relay.NewEngine(relay.Limits{
		CloseTimeout: c.closeTimeout, WriteStall: c.writeStall, Stalled: c.maxStalled,
		ClientMessages: limit.Rate(c.limits.ClientMessages), ClientBytes: limit.Rate(c.limits.ClientBytes),
		Idle: c.idle, Lifetime: c.lifetime,
		PingClient: c.ping.Client, PingBackend: c.ping.Backend, PingTimeout: c.ping.Timeout,
	})
	p.admission = newAdmission(c.limits)
	p.queue = newQueue(p, c.limits.Queue)
	p.lingering, p.stopLingering = context.WithCancel(context.Background())
	p.registry.init()
	p.observers.change(func([]*Trace) []*Trace { return []*Trace{s.trace} })
	if err := p.setBackends(s.backendsOption, s.backends); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if c.healthCheck != nil {
		p.checker = newChecker(p)
	}
	return p, nil
}

// ServeHTTP relays a WebSocket upgrade to a backend and returns when the tunnel has
// ended, or with [WithDetached] as soon as it is open. Any other request gets 426 Upgrade
// Required, with a body that names the check that failed, or goes to a backend if [WithHTTP] is
// on; a CONNECT gets 405, or 501 if it asks for anything but a WebSocket over HTTP/2.
//
// The request's context bounds the upgrade only. It has no effect after the 101.
//
// The 101 is written to the connection itself: the ResponseWriter of a middleware must have
// a Hijack or an Unwrap method (see [http.ResponseController]), and a middleware that
// records the status in WriteHeader sees the 101 only with [Front].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	isUpgrade, otherwise := classify(r)
	switch {
	case isUpgrade:
		p.serveUpgrade(w, r)
	case p.proxiesHTTP:
		p.servePlain(w, r)
	default:
		if handshake.IsFallback(r) {
			otherwise.Reason += fallbackHint
			p.reportFallback(r)
		}
		p.refuse(w, r, refusalError(otherwise), ReasonCheck)
	}
}

// fallbackHint follows the reason why a request is refused that would be welcome with WithHTTP.
const fallbackHint = ". It looks like a fallback of SockJS, Socket.IO or SignalR over plain HTTP: " +
	"wsproxy.WithHTTP(true) sends those to the backends"

// reportFallback logs once that there are requests that [WithHTTP] is for. A browser does not
// show the page or its user the response: it says that CORS has blocked it.
func (p *Proxy) reportFallback(r *http.Request) {
	if !p.hasFallbacks.Swap(true) {
		p.logFallback(r)
	}
}

// Wrap returns a handler that relays every WebSocket upgrade as [Proxy.ServeHTTP]
// does, and calls next for any other request. Wrap a route, not a mux that serves
// WebSockets of its own. If next is nil, Wrap returns p.
func (p *Proxy) Wrap(next http.Handler) http.Handler {
	if next == nil {
		return p
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isUpgrade, _ := classify(r); !isUpgrade {
			next.ServeHTTP(w, r)
			return
		}
		p.serveUpgrade(w, r)
	})
}

// Tunnels iterates over the tunnels that are open when the iteration begins, in no order.
func (p *Proxy) Tunnels() iter.Seq[*Tunnel] {
	return func(yield func(*Tunnel) bool) {
		for _, t := range p.registry.tunnels() {
			if !yield(t) {
				return
			}
		}
	}
}

// Tunnel returns the open tunnel with that [Tunnel.ID]. It returns false if there is none:
// the tunnel may have ended, and the hook for its end have returned.
func (p *Proxy) Tunnel(id uint64) (*Tunnel, bool) {
	t := p.registry.tunnel(id)
	return t, t != nil
}

// Shutdown ends the proxy gracefully: new requests, and upgrades under way, get 503
// with Retry-After; every tunnel's backend is sent a Close frame with code 1001, and its
// client another one behind what the backend still sends; then Shutdown waits until all
// tunnels have ended. A tunnel whose peers do not answer takes some seconds, one with a
// slow client at most [Timeouts.Close]. When ctx ends, what is left is cut, and Shutdown
// returns within two seconds, whatever a hook does.
//
// The tunnels are closed at 1,000 a second, but all within 60 % of the time that ctx has left
// (9 s without a deadline), so that their clients do not all go to the next proxy at once. The
// rest of the time is for the last ones to end. [Proxy.CloseTunnels] before Shutdown closes
// them more slowly, or at once.
//
// It returns nil if no tunnel was cut and all upgrades have ended, else a [*DrainError]. A
// nil error does not mean that every peer has answered: see [TunnelEnd.Cut]. Upgrades that
// come after Shutdown was called are refused, and it does not wait for that. Shutdown may
// be called again, by several goroutines, and together with [Proxy.Close].
// [http.Server.Shutdown] neither knows nor waits for tunnels: call both, side by
// side. It does wait for requests that are no upgrade ([WithHTTP]): the proxy's Shutdown leaves
// those in flight alone.
func (p *Proxy) Shutdown(ctx context.Context) error {
	p.checker.stop()
	tunnels := p.registry.stop()
	p.closeIdle()
	p.stopClosing()
	p.closePaced(ctx, p.registry.empty, tunnels, 0, (*Tunnel).closeForShutdown)
	select {
	case <-p.registry.empty:
		p.stopLingering()
		ctx, cancel := context.WithTimeout(ctx, abortTimeout)
		defer cancel()
		p.checker.wait(ctx)
		p.stopWorkers()
		return p.registry.drainError(nil)
	case <-ctx.Done():
	}
	p.abortAll()
	return p.registry.drainError(ctx.Err())
}

// Close ends the proxy at once: new requests, and upgrades under way, get 503, and
// every tunnel is cut. It waits until they have ended, though no longer than two
// seconds: a hook may block, and a client be slow to read a backend's refusal. It does
// not wait for clients that were refused by a Close frame, and closes their
// connections. The error is always nil.
func (p *Proxy) Close() error {
	p.checker.stop()
	p.registry.stop()
	p.closeIdle()
	p.stopClosing()
	p.abortAll()
	return nil
}

// abortAll cuts all tunnels and waits until they and the probes have ended, at most for
// abortTimeout: a hook may delay the end.
func (p *Proxy) abortAll() {
	p.stopLingering()
	for _, t := range p.registry.abort() {
		t.abort()
	}
	ctx, cancel := context.WithTimeout(context.Background(), abortTimeout)
	defer cancel()
	select {
	case <-p.registry.empty:
	case <-ctx.Done():
	}
	p.checker.wait(ctx)
	p.stopWorkers()
}

// stopWorkers ends the goroutines that serve all tunnels. The tunnels have ended.
func (p *Proxy) stopWorkers() {
	p.engine.Close()
}

// now returns the time since the proxy's start. Changes of the system's clock do not
// affect it.
func (p *Proxy) now() time.Duration { return time.Since(p.start) }
