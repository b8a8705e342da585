package wsproxy

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/wsproxy/wsproxy/internal/limit"
)

// A Rate is how many events are allowed a second, on average and at once.
type Rate struct {
	PerSecond float64 // zero and negative mean no bound
	Burst     int     // below 1 it means 1
}

// An admission lets upgrades in, as far as the limits allow: see [Limits].
type admission struct {
	limits Limits // immutable; ClientKey is not nil

	mu           sync.Mutex
	bucket       limit.Bucket   // of Handshakes
	buckets      *limit.Buckets // of HandshakesPerClient; nil: no bound
	numAdmitting int            // calls of the Admit hook under way
	numPlaces    int            // upgrades that were let in, and tunnels
	perClient    map[string]int // those of each client; nil: no bound
}

func newAdmission(l Limits) *admission {
	a := &admission{limits: l}
	if l.ClientKey == nil {
		a.limits.ClientKey = clientIP
	}
	if r := limit.Rate(l.HandshakesPerClient); r.IsBound() {
		a.buckets = limit.NewBuckets(r)
	}
	if l.PerClient > 0 {
		a.perClient = make(map[string]int)
	}
	return a
}

// boundsClients reports whether there is a limit for each client.
func (a *admission) boundsClients() bool { return a.buckets != nil || a.perClient != nil }

// boundsPlaces reports whether an upgrade that is let in needs a place.
func (a *admission) boundsPlaces() bool { return a.limits.Tunnels > 0 || a.perClient != nil }

// A limitError says which limit an upgrade would exceed.
type limitError struct {
	name     string // the field of Limits
	limit    any
	reason   Reason
	isClient bool // the limit is that of one client
}

func (e *limitError) Error() string {
	return fmt.Sprintf("%v: Limits.%s is %v", ErrLimit, e.name, e.limit)
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

// takeRate counts an upgrade of the client with that key at now, or returns a [*limitError].
// An upgrade that its client may not make takes nothing from the others.
func (a *admission) takeRate(now time.Duration, key string) error {
	total := limit.Rate(a.limits.Handshakes)
	if a.buckets == nil && !total.IsBound() {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.buckets != nil && key != "" && !a.buckets.Take(now, key) {
		return &limitError{"HandshakesPerClient", a.limits.HandshakesPerClient, ReasonRate, true}
	}
	if total.IsBound() && !a.bucket.Take(now, total) {
		return &limitError{"Handshakes", a.limits.Handshakes, ReasonRate, false}
	}
	return nil
}

// beginAdmitting counts a call of the Admit hook, or returns a [*limitError]. One
// endAdmitting follows.
func (a *admission) beginAdmitting() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := a.limits.Admitting; l > 0 && a.numAdmitting >= l {
		return &limitError{"Admitting", l, ReasonLimit, false}
	}
	a.numAdmitting++
	return nil
}

func (a *admission) endAdmitting() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.numAdmitting--
}

// enter takes a place for an upgrade of the client with that key, or returns a
// [*limitError]. One leave follows, when the upgrade fails or its tunnel has ended.
func (a *admission) enter(key string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	isCounted := a.perClient != nil && key != ""
	if l := a.limits.PerClient; isCounted && a.perClient[key] >= l {
		return &limitError{"PerClient", l, ReasonClientLimit, true}
	}
	if l := a.limits.Tunnels; l > 0 && a.numPlaces >= l {
		return &limitError{"Tunnels", l, ReasonLimit, false}
	}
	a.numPlaces++
	if isCounted {
		a.perClient[key]++
	}
	return nil
}

func (a *admission) leave(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.numPlaces--
	if a.perClient == nil || key == "" {
		return
	}
	if a.perClient[key]--; a.perClient[key] == 0 {
		delete(a.perClient, key)
	}
}
