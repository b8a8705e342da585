package wsproxy

import (
	"fmt"
	"hash/maphash"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/limit"
)

// Limits bound the resources that one peer, or all together, can use. Zero and negative
// values mean no bound; for Queue they mean that no upgrade waits.
//
// Tunnels, PerClient, Handshakes, HandshakesPerClient and Admitting decide who gets in. An
// upgrade that would exceed one of them is refused before a backend is picked: with 429 where
// the limit is for each client, else with 503, and with Retry-After. The error handler gets an
// error that wraps [ErrLimit] and names the limit; Trace.Refused has ReasonLimit,
// ReasonClientLimit or ReasonRate.
//
// The order is: the checks of RFC 6455, [WithOriginPatterns], HandshakesPerClient, Handshakes,
// Admitting, the hook of [WithAdmit], PerClient, Tunnels, and then the pick, where Queue may let
// the upgrade wait. An upgrade counts for the rates even if it fails afterwards.
type Limits struct {
	// Tunnels bounds the tunnels of the proxy, upgrades that were let in included. See
	// [BackendConfig] for those of one backend.
	Tunnels int

	// PerClient bounds the tunnels of each client, upgrades that were let in included; and by a
	// count of their own, its requests in flight that are no upgrade ([WithHTTP]).
	PerClient int

	// Handshakes bounds the rate of all upgrades together, and with them of the requests that are
	// no upgrade ([WithHTTP]) and not bound to a backend ([WithAffinity]).
	Handshakes Rate

	// HandshakesPerClient bounds the rate of each client's upgrades, and of the other requests
	// that Handshakes bounds. One that exceeds it does not count for Handshakes. Memory is used
	// for the clients that have come within twice the time in which Burst upgrades are allowed
	// again.
	HandshakesPerClient Rate

	// Admitting bounds how many calls of the hook of [WithAdmit] run at once.
	Admitting int

	// Queue bounds how many upgrades wait for a backend. One waits if no backend that may be
	// used has a place (see [BackendConfig.MaxTunnels]), or if all its attempts failed to
	// connect: a restart of the only backend is then a pause for its clients, and no error. It
	// goes on when a place is free, a flag of a backend changes or a backend comes into the
	// set. Each unreachable backend is tried by one of those that wait, 200 ms after its last
	// failure, or 1 s after an attempt that has no result yet.
	//
	// They go on in their order, at the rate of Handshakes, or 100 a second for each backend
	// without it; the rate doubles each second until the queue is empty. One for which the
	// balancer returns [ErrLimit] does not hold up the others.
	//
	// An upgrade waits until the deadline of [Timeouts.Handshake], or without one until the
	// client leaves, and has its place among Tunnels and PerClient meanwhile. If Queue upgrades
	// wait already, the next one is refused with 503 and ReasonQueueFull; one that was tried
	// and waits again is not. If no backend is in the set, or all drain, none waits.
	Queue int

	// ClientKey tells clients apart. It is called before the hook of [WithAdmit], so that
	// [Admitted] has no value. A client without a key, the empty string, is bounded by the
	// other limits only. Default: [ByClientIP]. Behind a proxy set [WithTrustedProxies], or
	// all clients have the key of that proxy.
	ClientKey KeyFunc

	// MessageSize bounds the payload of one message, in bytes, in both directions:
	// the sum of its fragments, as they are on the wire (compressed, if
	// permessage-deflate was negotiated). A larger message ends the tunnel, and its
	// sender gets Close 1009. The part below the bound may have been relayed. Zero
	// and negative mean no bound.
	MessageSize int64

	// ClientMessages bounds the rate of the messages that the client of each tunnel sends, in
	// messages a second. A message counts at its end; control frames do not count. Beyond the
	// rate nothing is dropped and nothing is closed: the client is not read until its next
	// message is allowed, so that TCP makes it wait. The messages of the backend do not wait.
	// Zero and negative mean no bound.
	//
	// The proxy looks at such clients four times a second. So a message that waits is delayed
	// by up to 250 ms more, and a Burst of less than PerSecond / 4 means PerSecond / 4. One
	// read, of at most 32 KiB, may exceed the rate; the client then waits for longer. Its
	// Close frame waits behind its messages. No rate applies while a tunnel ends, or to a
	// client that has ended its connection: then its last messages, as many as the kernel has
	// buffered, are passed at once. Where the proxy cannot see that end before it has read
	// them, they wait: on systems other than Linux, and if the listener wraps its
	// connections. A tunnel does not count as stalled because its client waits.
	ClientMessages Rate

	// ClientBytes bounds the rate of the bytes that the client of each tunnel sends, in bytes
	// a second, with all headers and control frames. Beyond the rate it does the same as
	// ClientMessages; a read is of at most 56 KiB. Zero and negative mean no bound.
	ClientBytes Rate

	// SocketBuffer bounds, in bytes, each of the kernel's four buffers of a tunnel: the
	// receive and the send buffer of both connections. It is set with
	// [net.TCPConn.SetReadBuffer] and SetWriteBuffer, on the client's connection when
	// it is hijacked, and on the backend's when it is dialed; beneath TLS, but not
	// beneath a wrapper that lacks these methods. Linux doubles the value to have room
	// for its own records, and limits it to net.core.rmem_max and net.core.wmem_max.
	//
	// A tunnel with one side that does not read was measured to hold 0.3 MB with
	// 64 KiB, 1.0 MB with 256 KiB, and 5 to 34 MB with the buffers that Linux chooses.
	// In exchange, one connection carries at most about SocketBuffer bytes in each
	// round trip, and bulk data costs more CPU, much more with less than 64 KiB: see
	// docs/production.md. Zero and negative leave the size to the kernel, which adapts
	// it. A value above 2 GiB - 1 means 2 GiB - 1.
	SocketBuffer int

	// StalledTunnels bounds how many tunnels may be stalled at once. A tunnel is stalled
	// if one of its peers has taken no byte for a second, although there were bytes that
	// could not be written to it. Four times a second, the tunnels above the bound are
	// ended, those that have been stalled for the longest first: see [CauseStalled].
	//
	// The kernel accepts bytes, and when its buffer was full it accepts more only after
	// a good part of the buffer has reached the peer. For a client that read 256 KB/s
	// it was measured to accept nothing for 5.6 s with the buffers that Linux chooses,
	// and for 0.5 s with a SocketBuffer of 64 KiB: so set both. With [EnginePortable],
	// up to 32 KiB count as accepted when the last of them is. Zero and negative mean
	// no bound.
	StalledTunnels int
}

// A Rate is how many events are allowed a second, on average and at once.
type Rate struct {
	PerSecond float64 // zero, negative and infinite mean no bound
	Burst     int     // the number at once; zero and negative mean 1
}

// String returns "2 a second, 20 at once".
func (r Rate) String() string {
	return fmt.Sprintf("%v a second, %d at once", r.PerSecond, max(r.Burst, 1))
}

// Limits returns the limits of [WithLimits] as they were given: a field that was not set is zero,
// which mostly means no bound, and has no default filled in. ClientKey is nil if none was given.
// Without WithLimits all fields are zero.
func (p *Proxy) Limits() Limits { return p.limits }

// An admission lets upgrades in, as far as the limits allow: see [Limits].
type admission struct {
	limits Limits       // immutable; ClientKey is not nil
	seed   maphash.Seed // of clientKeys; immutable

	mu           sync.Mutex
	bucket       limit.Bucket      // of Handshakes
	buckets      *limit.Buckets    // of HandshakesPerClient; nil: no bound
	numAdmitting int               // calls of the Admit hook under way
	numPlaces    int               // upgrades that were let in, and tunnels
	perClient    map[clientKey]int // those of each client; nil: no bound
	requests     map[clientKey]int // those of each client that are no upgrade; nil: no bound
}

// A clientKey is the hash of what ClientKey returned, so that the strings of a request are
// not retained. 0 is that of a client without a key.
type clientKey uint64

func newAdmission(l Limits) *admission {
	a := &admission{limits: l, seed: maphash.MakeSeed()}
	if l.ClientKey == nil {
		a.limits.ClientKey = clientIP
	}
	if r := limit.Rate(l.HandshakesPerClient); r.IsBound() {
		a.buckets = limit.NewBuckets(r)
	}
	if l.PerClient > 0 {
		a.perClient, a.requests = make(map[clientKey]int), make(map[clientKey]int)
	}
	return a
}

// boundsClients reports whether there is a limit for each client.
func (a *admission) boundsClients() bool { return a.buckets != nil || a.perClient != nil }

// boundsRates reports whether allowRate bounds anything.
func (a *admission) boundsRates() bool {
	return a.buckets != nil || limit.Rate(a.limits.Handshakes).IsBound()
}

// boundsPlaces reports whether an upgrade that is let in needs a place.
func (a *admission) boundsPlaces() bool { return a.limits.Tunnels > 0 || a.perClient != nil }

// keyOf returns the hash of a key.
func (a *admission) keyOf(key string) clientKey {
	if key == "" {
		return 0
	}
	return clientKey(max(maphash.String(a.seed, key), 1))
}

// A limitError says which limit an upgrade would exceed.
type limitError struct {
	name     string // the field of Limits
	limit    any
	reason   Reason
	isClient bool          // the limit is that of one client
	wait     time.Duration // until an upgrade would not exceed it; 0: not known
	cause    error         // why it came to the limit; may be nil
}

func (e *limitError) Error() string {
	s := fmt.Sprintf("%v: Limits.%s is %v", ErrLimit, e.name, e.limit)
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

func (e *limitError) Unwrap() error { return ErrLimit }

// status returns 429 for what the client itself has caused.
// https://www.rfc-editor.org/rfc/rfc6585#section-4
func (e *limitError) status() int {
	if e.isClient {
		return http.StatusTooManyRequests
	}
	return http.StatusServiceUnavailable
}

// allowRate counts an upgrade of a client at now, or returns a [*limitError]. The client's
// own rate comes first: an upgrade that exceeds it does not count for the rate of all.
func (a *admission) allowRate(now time.Duration, key clientKey) error {
	if !a.boundsRates() {
		return nil
	}
	total := limit.Rate(a.limits.Handshakes)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.buckets != nil && key != 0 {
		if wait, ok := a.buckets.Allow(now, uint64(key)); !ok {
			return &limitError{name: "HandshakesPerClient", limit: a.limits.HandshakesPerClient, reason: ReasonRate, isClient: true, wait: wait}
		}
	}
	if total.IsBound() {
		if wait, ok := a.bucket.Allow(now, total); !ok {
			return &limitError{name: "Handshakes", limit: a.limits.Handshakes, reason: ReasonRate, wait: wait}
		}
	}
	return nil
}

// beginAdmitting counts a call of the Admit hook, or returns a [*limitError]. One
// endAdmitting follows.
func (a *admission) beginAdmitting() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := a.limits.Admitting; l > 0 && a.numAdmitting >= l {
		return &limitError{name: "Admitting", limit: l, reason: ReasonLimit}
	}
	a.numAdmitting++
	return nil
}

func (a *admission) endAdmitting() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.numAdmitting--
}

// reserve reserves a place for an upgrade of a client, or returns a [*limitError]. One
// release follows, when the upgrade fails or its tunnel has ended.
func (a *admission) reserve(key clientKey) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	isCounted := a.perClient != nil && key != 0
	if l := a.limits.PerClient; isCounted && a.perClient[key] >= l {
		return &limitError{name: "PerClient", limit: l, reason: ReasonClientLimit, isClient: true}
	}
	if l := a.limits.Tunnels; l > 0 && a.numPlaces >= l {
		return &limitError{name: "Tunnels", limit: l, reason: ReasonLimit}
	}
	a.numPlaces++
	if isCounted {
		a.perClient[key]++
	}
	return nil
}

// reserveRequest reserves a place for a request of a client that is no upgrade, or returns a
// [*limitError]. One releaseRequest follows.
func (a *admission) reserveRequest(key clientKey) error {
	if a.requests == nil || key == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := a.limits.PerClient; a.requests[key] >= l {
		return &limitError{name: "PerClient", limit: l, reason: ReasonClientLimit, isClient: true}
	}
	a.requests[key]++
	return nil
}

func (a *admission) releaseRequest(key clientKey) {
	if a.requests == nil || key == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.requests[key]--; a.requests[key] == 0 {
		delete(a.requests, key)
	}
}

func (a *admission) release(key clientKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.numPlaces--
	if a.perClient == nil || key == 0 {
		return
	}
	if a.perClient[key]--; a.perClient[key] == 0 {
		delete(a.perClient, key)
	}
}

// A retryBudget is [limit.Budget] for several goroutines.
type retryBudget struct {
	denied atomic.Uint64 // how often allow has returned false

	mu     sync.Mutex
	budget limit.Budget
}

// addUpgrade counts an upgrade, which may be tried again.
func (b *retryBudget) addUpgrade(now time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.budget.AddUpgrade(now)
}

// allow counts one more attempt of an upgrade that an attempt has failed, or returns false.
func (b *retryBudget) allow(now time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	isAllowed := b.budget.AllowRetry(now)
	if !isAllowed {
		b.denied.Add(1)
	}
	return isAllowed
}
