package wsproxy

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/wsproxy/wsproxy/internal/affinity"
	"github.com/wsproxy/wsproxy/internal/handshake"
	"github.com/wsproxy/wsproxy/internal/health"
)

// An Affinity brings a client back to the backend where it was before: see [WithAffinity]. At
// least one of Keys and Key must be set.
type Affinity struct {
	// Keys sign and verify the cookie that binds a client: the first one signs, all of them
	// verify. Each has 16 random bytes or more, and all replicas of the program have the same
	// ones. To replace a key, add the new one at the end in all replicas, then move it to the
	// front in all, and remove the old one when TTL has passed, or, if there is no end, when the
	// clients have come again. Without Keys no cookie is set or looked at.
	Keys [][]byte

	// Cookie is the template of the cookie: its Name, Path, Domain, SameSite, Secure and
	// Partitioned. It is an error to set a field of its value or its end. The defaults, also
	// for the fields that are not set, are the name "wsproxy", the path "/", no Domain, and
	// SameSite=Lax. The cookie is always HttpOnly, and ends with the session of the browser. It
	// is Secure if the client came over TLS, or if a peer of [WithTrustedProxies] says so in
	// X-Forwarded-Proto; and always where browsers require it: with SameSite=None, Partitioned,
	// or a name that begins with __Secure- or __Host-.
	Cookie *http.Cookie

	// TTL is how long a cookie binds its client. A client that comes again after half of that
	// time gets a new one. The end is inside the signed value, in whole seconds of the system's
	// clock, so that less than a second counts as one. Zero means 24 h, negative means no end:
	// then a client gets a new one after the first of Keys has changed.
	TTL time.Duration

	// Key returns a key that binds a request, whatever its cookie: [ByQuery] and
	// [BySockJSSession], for instance, return one. A request without a key, the empty string, is
	// bound by its cookie, if there are Keys. A client that chooses its key can choose its
	// backend. Where [WithHTTP] meets a rate of [Limits], Key is called once more, before the hook
	// of [WithAdmit]: a request that has a key only after the hook counts for the rate.
	Key KeyFunc

	// Refuse refuses a request whose backend cannot be used now, instead of having another one
	// chosen: with 503, and ReasonBackendLimit if the backend has its MaxTunnels, or
	// ReasonUnreachable if it cannot be reached or its check failed. With [Limits.Queue] an
	// upgrade waits for its backend instead, and does not hold up others. From a backend that
	// drains or was removed, which does not come back, clients are moved all the same.
	Refuse bool
}

const (
	defaultTTL        = 24 * time.Hour // see Affinity
	defaultCookieName = "wsproxy"
	minAffinityKey    = 16 // bytes
)

// A binding is what binds a request to a backend. The zero value binds it to none.
type binding struct {
	hasKey bool
	key    uint64 // the hash of the key

	backend *Backend // by the cookie; may be removed meanwhile
	isDue   bool     // the cookie is to be made anew
	cookie  cookieState
}

// A cookieState is the state of a request's cookie. If there are several, it is that of the first
// valid one, or else of the first one.
type cookieState uint8

const (
	noCookie      cookieState = iota // or none is looked at
	invalidCookie                    // it was forged, is expired, or was signed by another key
	orphanCookie                     // it is of a backend that is not in the set
	validCookie                      // it is that of binding.backend
)

func (b *binding) isBound() bool { return b.hasKey || b.backend != nil }

// isBound reports whether the request has a valid cookie, or a key. A key that depends on what the
// Admit hook returns is known only after the hook.
func (in *inbound) isBound() bool {
	if in.p.affinity == nil {
		return false
	}
	b, err := in.findBinding()
	return err == nil && b.isBound()
}

// findBinding finds out what binds the request. An error is that of the Key function.
func (in *inbound) findBinding() (binding, error) {
	a := in.p.affinity
	if a.key != nil {
		key, err := in.p.callAffinityKey(in.r)
		if err != nil || key != "" {
			return binding{hasKey: true, key: hashString(key)}, err
		}
	}
	if a.signer == nil {
		return binding{}, nil
	}
	bindings := in.p.set.Load().bindings
	now := time.Now().Unix() // and not p.now: replicas have to agree
	found := noCookie
	for _, line := range in.r.Header["Cookie"] {
		for line != "" {
			var value string
			var ok bool
			if value, line, ok = nextCookie(line, a.cookie.name); !ok {
				continue
			}
			if b, isDue, ok := bindings.Find(value, now); ok {
				return binding{backend: b, isDue: isDue, cookie: validCookie}, nil
			}
			if found != noCookie {
				continue // a client that sends many is not to make us look at the signature of each
			}
			if found = invalidCookie; a.signer.HasSigned(value, now) {
				found = orphanCookie
			}
		}
	}
	return binding{cookie: found}, nil
}

// A usability says whether a backend may be used for a request that is bound to it.
type usability uint8

const (
	usable       usability = iota
	atMaxTunnels           // it has its MaxTunnels, and the request is an upgrade
	unusable               // it cannot be reached, its check failed, it was just tried, or is ejected and a session begins
	leftForGood            // it was removed, or drains and the request is moved
)

// usability returns the usability of b at now. A bound upgrade that waits may try a backend that
// cannot be reached. A request that is no upgrade needs no place among tunnels.
func (in *inbound) usability(b *Backend, now time.Duration, mayWait bool) usability {
	if b.removed.Load() || b.drains() && in.leavesDraining() {
		return leftForGood
	}
	if slices.Contains(in.tried, b) {
		return unusable
	}
	switch b.tier(now, len(in.tried) > 0) {
	case health.TierEjected:
		if !in.p.affinity.refuses && in.beginsSession() {
			return unusable // the client gets each 502 of the backend, which would keep it for ever
		}
	case health.TierCheckFailed:
		return unusable
	case health.TierUnreachable:
		if !(in.p.affinity.refuses && mayWait && b.mayBeTried(now)) {
			return unusable
		}
	}
	if !in.isPlain && b.hasMaxTunnels() {
		return atMaxTunnels
	}
	return usable
}

// leavesDraining reports whether the request gets another backend while its own one drains. A
// session without a WebSocket goes on where it is, and ends there. A client that begins another
// session leaves with its first request: the upgrade of Socket.IO, which comes later, belongs to
// the session.
func (in *inbound) leavesDraining() bool { return !in.isPlain || in.beginsSession() }

// beginsSession reports whether the request, which is no upgrade, begins a session. A key does not
// tell the sessions of a client apart.
func (in *inbound) beginsSession() bool {
	return in.isPlain && !in.binding.hasKey && handshake.BeginsSession(in.r)
}

// boundBackend returns the backend that the request is bound to, if it may be used at now. It
// returns nil if the balancer has to choose. An error refuses the request: it is that of the
// Key function, with a nil backend, or says why the backend that is returned cannot be used.
func (in *inbound) boundBackend(set *backendSet, now time.Duration, mayWait bool) (*Backend, error) {
	a := in.p.affinity
	if a == nil {
		return nil, nil
	}
	if !in.isBindingKnown {
		var err error
		if in.binding, err = in.findBinding(); err != nil {
			return nil, err
		}
		in.isBindingKnown = true
	}
	b := in.binding.backend
	if in.binding.hasKey {
		b = in.byKey(set, now, mayWait)
	}
	if b == nil {
		return in.amongCheckFailed(set, now), nil
	}
	u := in.usability(b, now, mayWait)
	switch {
	case u == usable:
		return b, nil
	case u == unusable && !a.refuses:
		return in.amongCheckFailed(set, now), nil
	case u == leftForGood || !a.refuses:
		return nil, nil
	case u == atMaxTunnels:
		return b, fmt.Errorf("%w: backend %s, which the client is bound to, has its MaxTunnels", ErrLimit, b.id)
	}
	return b, &boundError{b.id}
}

// byKey returns the first usable backend in the order of the request's key; with Refuse, the first
// backend that is not left for good. The order is by priority, and then by rendezvous hashing, as in
// [Hash]. Backends of a later priority do not take the place of those that have their MaxTunnels.
func (in *inbound) byKey(set *backendSet, now time.Duration, mayWait bool) *Backend {
	var best *Backend
	var highest score
	isEmpty, first := true, 0 // the lowest priority with a backend that is usable or has its MaxTunnels
	for _, b := range set.all {
		u := in.usability(b, now, mayWait)
		if u == leftForGood || u == unusable && !in.p.affinity.refuses {
			continue
		}
		priority := b.Priority()
		switch {
		case isEmpty || priority < first:
			isEmpty, first = false, priority
			best, highest = nil, score{}
		case priority > first:
			continue
		}
		if u != usable && !in.p.affinity.refuses {
			continue
		}
		if s := b.score(in.binding.key); s.better(highest) {
			best, highest = b, s
		}
	}
	return best
}

// amongCheckFailed returns the backend of a bound request if no candidate is better than one whose
// check failed: to move the request would end its session and bring it to no better backend. It
// returns nil if there is a better one, or if the request's own one is not among the candidates.
func (in *inbound) amongCheckFailed(set *backendSet, now time.Duration) *Backend {
	if in.p.affinity.refuses || !in.binding.isBound() {
		return nil
	}
	c, err := set.candidates(nil, in.tried, now, !in.isPlain)
	if err != nil || c.tier != health.TierCheckFailed {
		return nil
	}
	switch {
	case in.binding.hasKey:
		return highestScored(c.backends, in.binding.key)
	case slices.Contains(c.backends, in.binding.backend):
		return in.binding.backend
	}
	return nil
}

// isConfined reports whether no other backend may be tried: the request is to be refused if its
// own one fails.
func (in *inbound) isConfined() bool {
	if a := in.p.affinity; a == nil || !a.refuses || !in.binding.isBound() {
		return false
	}
	if in.binding.hasKey {
		return in.byKey(in.p.set.Load(), in.p.now(), false) != nil
	}
	return in.usability(in.binding.backend, in.p.now(), false) != leftForGood
}

// A boundError says that a client gets no backend: it is bound to one that fails.
type boundError struct{ id string }

func (e *boundError) Error() string {
	return fmt.Sprintf("wsproxy: backend %s, which the client is bound to, is not to be reached", e.id)
}

// Is reports that the error is an [ErrNoBackend].
func (e *boundError) Is(target error) bool { return target == ErrNoBackend }

func isBoundError(err error) bool {
	_, ok := err.(*boundError)
	return ok
}

// bindTo adds the cookie that binds the client to the chosen backend to h, the header of its
// response, unless the client has it or is bound by its key. A backend that responds with 500 or
// more has not taken the client: its next request may find a better one.
func (in *inbound) bindTo(c *choice, status int, h http.Header) {
	a := in.p.affinity
	if a == nil {
		return
	}
	b := c.backend
	setsCookie := a.signer != nil && !in.binding.hasKey && status < 500 && (in.binding.backend != b || in.binding.isDue)
	if setsCookie {
		h.Add("Set-Cookie", a.cookie.field(a.signer.Sign(b.hashes, time.Now().Unix()), in.isSecure()))
	}
	in.affinityResult = in.binding.result(c, setsCookie)
}

// An affinityResult is the result of WithAffinity for a request: see [AffinityCounts].
type affinityResult uint8

const (
	affinityNone affinityResult = iota // it was not bound before, and is not now
	affinityBound
	affinityNew
	affinityRebound
	affinityInvalid

	numAffinityResults = iota
)

// result returns the result for a request whose response is that of a choice. SetsCookie reports
// that the response binds the client.
func (b *binding) result(c *choice, setsCookie bool) affinityResult {
	switch {
	case c.isBound || b.cookie == validCookie && b.backend == c.backend: // the balancer may choose it too
		return affinityBound
	case b.hasKey || b.cookie == validCookie || b.cookie == orphanCookie:
		return affinityRebound
	case b.cookie == invalidCookie:
		return affinityInvalid
	case setsCookie:
		return affinityNew
	}
	return affinityNone
}

// countAffinity counts the request, which gets the response that bindTo has seen last.
func (in *inbound) countAffinity() {
	if in.p.affinity != nil {
		in.p.registry.counters.affinity[in.affinityResult].Add(1)
	}
}

// isSecure reports whether the client came over TLS, to this server or to the trusted proxy that
// says so.
func (in *inbound) isSecure() bool {
	if lines := in.r.Header["X-Forwarded-Proto"]; in.info.isTrusted && len(lines) > 0 {
		first, _, _ := strings.Cut(lines[0], ",")
		proto := strings.TrimSpace(first)
		return strings.EqualFold(proto, "https") || strings.EqualFold(proto, "wss")
	}
	return in.r.TLS != nil
}

// An affinityRule is a compiled Affinity.
type affinityRule struct {
	signer  *affinity.Signer // nil: there is no cookie
	cookie  cookieTemplate
	key     KeyFunc // nil: there is no key
	refuses bool
}

// hashes returns the hashes of a backend's ID. A nil a has none.
func (a *affinityRule) hashes(id string) []affinity.Hash {
	if a == nil || a.signer == nil {
		return nil
	}
	return a.signer.Hashes(id)
}

func (s *settings) compileAffinity(errs []error, c *config) []error {
	if s.affinity == nil {
		return errs
	}
	bad := func(field string, value any, text string) {
		errs = append(errs, &ConfigError{Option: "WithAffinity" + field, Value: value, Err: errors.New(text)})
	}
	f := s.affinity
	if len(f.Keys) == 0 && f.Key == nil {
		bad(".Keys", 0, "neither Keys nor a Key")
	} else if len(f.Keys) == 0 && f.Cookie != nil {
		bad(".Keys", 0, "none, but a Cookie that one has to sign")
	}
	for i, key := range f.Keys { // keys are secret: no error has one
		if len(key) < minAffinityKey {
			bad(fmt.Sprintf(".Keys[%d]", i), fmt.Sprintf("%d bytes", len(key)), "want 16 bytes or more")
		}
	}
	a := &affinityRule{key: f.Key, refuses: f.Refuse}
	if a.cookie.compile(f.Cookie, bad); len(f.Keys) > 0 {
		ttl := f.TTL
		if ttl == 0 {
			ttl = defaultTTL
		}
		a.signer = affinity.New(a.cookie.name, f.Keys, ttl)
	}
	c.affinity = a
	return errs
}
