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

// A Rate is how many events are allowed a second, on average and at once.
type Rate struct {
	PerSecond float64 // zero, negative and infinite mean no bound
	Burst     int     // the number at once; zero and negative mean 1
}

// String returns "2 a second, 20 at once".
func (r Rate) String() string {
	return fmt.Sprintf("%v a second, %d at once", r.PerSecond, max(r.Burst, 1))
}

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

// Limits returns the limits of [WithLimits] as they were given: a field that was not set is zero,
// which mostly means no bound, and has no default filled in. ClientKey is nil if none was given.
// Without WithLimits all fields are zero.
func (p *Proxy) Limits() Limits { return p.limits }
