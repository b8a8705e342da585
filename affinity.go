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
	// clock. Zero means 24 h, negative means no end: then a client gets a new one after the first
	// of Keys has changed.
	TTL time.Duration

	// Key returns a key that binds a request without a cookie: [ByQuery] and
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
}

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
	for _, line := range in.r.Header["Cookie"] {
		for line != "" {
			var value string
			value, line, _ = nextCookie(line, a.cookie.name)
			if b, isDue, ok := bindings.Find(value, now); ok {
				return binding{backend: b, isDue: isDue}, nil
			}
		}
	}
	return binding{}, nil
}

// A fitness says whether a backend may be used for a request that is bound to it.
type fitness uint8

const (
	fit      fitness = iota
	occupied         // it has its MaxTunnels, and the request is an upgrade
	failing          // it cannot be reached, its check failed, or it was just tried
	leaving          // it was removed, or drains and the request leaves it
)

// fitness returns the fitness of b at now. A bound upgrade that waits may try a backend that
// cannot be reached. A request that is no upgrade needs no place among tunnels.
func (in *inbound) fitness(b *Backend, now time.Duration, mayWait bool) fitness {
	if b.removed.Load() || b.drains() && in.leavesDraining() {
		return leaving
	}
	if slices.Contains(in.tried, b) {
		return failing
	}
	switch b.tier(now, len(in.tried) > 0) {
	case health.TierEjected:
		if !in.p.affinity.refuses && in.beginsSession() {
			return failing // the client gets each 502 of the backend, which would keep it for ever
		}
	case health.TierCheckFailed:
		return failing
	case health.TierUnreachable:
		if !(in.p.affinity.refuses && mayWait && b.mayBeTried(now)) {
			return failing
		}
	}
	if !in.isPlain && b.hasMaxTunnels() {
		return occupied
	}
	return fit
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
		return nil, nil
	}
	f := in.fitness(b, now, mayWait)
	switch {
	case f == fit:
		return b, nil
	case f == leaving || !a.refuses:
		return nil, nil
	case f == occupied:
		return b, fmt.Errorf("%w: backend %s, which the client is bound to, has its MaxTunnels", ErrLimit, b.id)
	}
	return b, &boundError{b.id}
}

// byKey returns the first fit backend in the order of the request's key; with Refuse, the first
// backend that does not leave. The order is by priority, and then by rendezvous hashing, as in
// [Hash]. Backends of a later priority do not take the place of occupied ones.
func (in *inbound) byKey(set *backendSet, now time.Duration, mayWait bool) *Backend {
	var best *Backend
	var highest score
	isEmpty, first := true, 0 // the lowest priority with a backend that is fit or occupied
	for _, b := range set.all {
		f := in.fitness(b, now, mayWait)
		if f == leaving || f == failing && !in.p.affinity.refuses {
			continue
		}
		priority := b.priority()
		switch {
		case isEmpty || priority < first:
			isEmpty, first = false, priority
			best, highest = nil, score{}
		case priority > first:
			continue
		}
		if f != fit && !in.p.affinity.refuses {
			continue
		}
		if s := b.score(in.binding.key); s.better(highest) {
			best, highest = b, s
		}
	}
	return best
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
	return in.fitness(in.binding.backend, in.p.now(), false) != leaving
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

// bindTo adds the cookie that binds the client to b to h, the header of b's response, unless the
// client has it or is bound by its key. A backend that responds with 502, 503 or 504 has not
// taken the client.
func (in *inbound) bindTo(b *Backend, status int, h http.Header) {
	a := in.p.affinity
	if a == nil || a.signer == nil || in.binding.hasKey || isRetryable(status) {
		return
	}
	if in.binding.backend != b || in.binding.isDue {
		h.Add("Set-Cookie", a.cookie.field(a.signer.Sign(b.hashes, time.Now().Unix()), in.isSecure()))
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

// A cookieTemplate makes the values of Set-Cookie fields.
type cookieTemplate struct {
	name   string
	plain  string // the text behind the value
	secure string // the same, with Secure
}

// field returns the value of a Set-Cookie field.
func (t *cookieTemplate) field(value string, isSecure bool) string {
	if isSecure {
		return t.name + "=" + value + t.secure
	}
	return t.name + "=" + value + t.plain
}

// compile checks c, which may be nil, and fills its defaults in.
func (t *cookieTemplate) compile(c *http.Cookie, bad func(field string, value any, text string)) {
	if c == nil {
		c = new(http.Cookie)
	}
	if c.Value != "" || c.Quoted {
		bad(".Cookie.Value", c.Value, "the proxy sets it")
	}
	if !c.Expires.IsZero() || c.RawExpires != "" || c.MaxAge != 0 {
		bad(".Cookie.MaxAge", c.MaxAge, "the cookie ends with the session of the browser; set TTL for a binding that ends earlier")
	}
	if c.Raw != "" || c.Unparsed != nil {
		bad(".Cookie.Raw", c.Raw, "not for a cookie that is set")
	}
	own := &http.Cookie{
		Name: c.Name, Path: c.Path, Domain: c.Domain, HttpOnly: true, Secure: c.Secure, SameSite: c.SameSite, Partitioned: c.Partitioned,
	}
	if own.Name == "" {
		own.Name = defaultCookieName
	}
	if own.Path == "" {
		own.Path = "/"
	}
	if own.SameSite == 0 {
		own.SameSite = http.SameSiteLaxMode
	}
	isHost := hasPrefixFold(own.Name, "__Host-")
	mustBeSecure := isHost || hasPrefixFold(own.Name, "__Secure-") || own.SameSite == http.SameSiteNoneMode || own.Partitioned
	own.Secure = own.Secure || mustBeSecure
	if err := own.Valid(); err != nil {
		bad(".Cookie", own.Name, strings.TrimPrefix(err.Error(), "http: "))
		return // String would log it
	}
	if own.Path[0] != '/' {
		bad(".Cookie.Path", own.Path, "browsers want one that begins with a slash")
	}
	if isHost && (own.Path != "/" || own.Domain != "") {
		bad(".Cookie", own.Name, `browsers want the path "/" and no Domain`)
	}
	t.name = own.Name
	t.plain = strings.TrimPrefix(own.String(), own.Name+"=")
	own.Secure = true
	t.secure = strings.TrimPrefix(own.String(), own.Name+"=")
}

// hasPrefixFold reports whether s begins with prefix, whatever the case of its letters: browsers
// look at the prefixes of names in this way.
func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
