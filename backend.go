package wsproxy

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A BackendConfig is what the user says about one backend.
type BackendConfig struct {
	// ID is the backend's identity: its counters live as long as the ID is in
	// the set or has tunnels, whatever else changes. Default: the URL.
	ID string

	// URL says where the backend is. Schemes: http and ws; https and wss, over
	// TLS (see [WithTLSConfig]); unix, with the path of the socket
	// (unix:///run/chat.sock). A path of an http, ws, https or wss URL is a
	// prefix of every request's path. User information, a query and a fragment
	// are errors. A host name is resolved at each dial and never cached.
	URL string

	// ServerName is the name that the backend's TLS certificate must have, and
	// that SNI asks for. Default: the URL's host. An error unless the scheme is
	// https or wss.
	ServerName string

	// Weight is the backend's share of new tunnels, relative to the others.
	// Zero means 1. Negative is an error: leave the backend out instead.
	Weight int

	// MaxTunnels bounds the backend's tunnels, upgrades under way included.
	// Zero and negative mean no bound. Lowering it closes no tunnel.
	MaxTunnels int
}

// A Backend is one backend of a [Proxy], with its live counters. Its methods are
// safe for concurrent use. It stays valid when the backend is removed from the
// set, and while it still has tunnels it is the same one when a backend of that ID
// comes back.
type Backend struct {
	id     string
	idHash uint64 // of id, for rendezvous hashing

	target atomic.Pointer[target]

	tunnels      atomic.Int64 // upgrades under way included
	removed      atomic.Bool
	failures     atomic.Int32 // in a row; see failed
	ejectedUntil atomic.Int64 // until then only when no other is left; a [time.Duration] since the proxy's start
	probing      atomic.Int32 // attempts under way that find out whether it works again
}

// newBackend returns the backend of that ID, without a target.
func newBackend(id string) *Backend {
	return &Backend{id: id, idHash: hashString(id)}
}

// A BackendState tells whether a backend is in the set, and what became of the last
// attempt to reach it. It does not tell whether the backend is full.
type BackendState uint8

const (
	BackendUp      BackendState = iota // its last attempt succeeded, or there was none
	BackendFailing                     // its last attempt failed: for a while offered only when no other is left
	BackendRemoved                     // no longer in the set: takes no new tunnels, keeps those that it has
)

// String returns "up", "failing" or "removed".
func (s BackendState) String() string {
	switch s {
	case BackendUp:
		return "up"
	case BackendFailing:
		return "failing"
	case BackendRemoved:
		return "removed"
	}
	return fmt.Sprintf("BackendState(%d)", uint8(s))
}

// ID returns the backend's identity.
func (b *Backend) ID() string { return b.id }

// URL returns the backend's URL as it was configured.
func (b *Backend) URL() string { return b.target.Load().config.URL }

// Weight returns the backend's weight, at least 1.
func (b *Backend) Weight() int { return b.target.Load().config.Weight }

// NumTunnels returns the number of the backend's tunnels. It counts from the
// pick: upgrades under way are included.
func (b *Backend) NumTunnels() int { return int(b.tunnels.Load()) }

// State tells whether the backend is in the set, and whether its last attempt failed.
func (b *Backend) State() BackendState {
	switch {
	case b.removed.Load():
		return BackendRemoved
	case b.isFailing():
		return BackendFailing
	}
	return BackendUp
}

// isFull reports whether the backend's limit is reached.
func (b *Backend) isFull() bool {
	limit := b.target.Load().config.MaxTunnels
	return limit > 0 && b.tunnels.Load() >= int64(limit)
}

// reserve counts one more tunnel, unless the backend's limit is reached. It is
// undone by [Proxy.release].
func (b *Backend) reserve() bool {
	limit := int64(b.target.Load().config.MaxTunnels)
	for {
		n := b.tunnels.Load()
		if limit > 0 && n >= limit {
			return false
		}
		if b.tunnels.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// How long a backend whose last attempt failed is offered only when no other is
// left: it doubles with each further failure to reach it.
const (
	firstBackoff = 1 * time.Second
	maxBackoff   = 30 * time.Second
)

// recordFailure notes that an attempt failed at now, a duration since the proxy's start,
// and reports whether the backend rests from now on.
// Attempts that fail while the backend is waiting already count for nothing: a
// restart under a hundred upgrades is one failure.
//
// A backend that was reached rests for firstBackoff only. That it has refused in a
// wrong way, or closed the connection, may be due to the request, which any client
// can send; and to find out how it does now costs no more than a short attempt.
func (b *Backend) recordFailure(now time.Duration, isReached bool) bool {
	until := b.ejectedUntil.Load()
	if until > int64(now) {
		return false
	}
	n := int32(1)
	if !isReached {
		n = b.failures.Load() + 1
	}
	if !b.ejectedUntil.CompareAndSwap(until, int64(now+backoff(int(n)))) {
		return false
	}
	b.failures.Store(n)
	return true
}

// isFailing reports whether the last attempt failed.
func (b *Backend) isFailing() bool { return b.failures.Load() > 0 }

// recordSuccess notes that an attempt succeeded.
func (b *Backend) recordSuccess() {
	if b.isFailing() {
		b.failures.Store(0)
		b.ejectedUntil.Store(0)
	}
}

// isEjected reports whether others are to be tried before this one: it has failed a
// moment ago, or one upgrade is finding out whether it works again, for which the
// others need not wait. isRetry is for an upgrade that an attempt has failed already.
func (b *Backend) isEjected(now time.Duration, isRetry bool) bool {
	return b.ejectedUntil.Load() > int64(now) || b.isFailing() && (isRetry || b.probing.Load() > 0)
}

// backoff returns how long to wait after the nth failure in a row.
func backoff(n int) time.Duration {
	if n > 5 {
		return maxBackoff
	}
	return min(firstBackoff<<(n-1), maxBackoff)
}

// A target is a compiled BackendConfig.
type target struct {
	config  BackendConfig // defaults filled in
	network string        // "tcp" or "unix"
	addr    string        // for the dialer
	host    string        // without the port; what TLS verifies by default
	isTLS   bool
	prefix  string // escaped path put before every request's, without a slash at its end
}

// isAt reports whether t and u are reached in the same way.
func (t *target) isAt(u *target) bool {
	return t.network == u.network && t.addr == u.addr && t.isTLS == u.isTLS
}

// compileTarget checks c and fills its defaults in. Errors name their field
// within option.
func compileTarget(option string, c BackendConfig) (*target, []error) {
	var errs []error
	bad := func(field string, value any, format string, args ...any) {
		errs = append(errs, &ConfigError{Option: option + field, Value: value, Err: fmt.Errorf(format, args...)})
	}
	t := &target{config: c}
	if err := t.parse(c.URL); err != nil {
		bad(".URL", c.URL, "%w", err)
	}
	if c.ID == "" {
		t.config.ID = c.URL
	}
	if c.Weight < 0 {
		bad(".Weight", c.Weight, "negative; leave a backend that shall take no tunnels out of the set")
	}
	if c.Weight == 0 {
		t.config.Weight = 1
	}
	if c.ServerName != "" && len(errs) == 0 && !t.isTLS {
		bad(".ServerName", c.ServerName, "the URL's scheme does not use TLS")
	}
	return t, errs
}

// parse fills in what the URL says.
func (t *target) parse(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return err
	}
	if u.User != nil {
		return errors.New("user information is never sent; set what the backend expects with WithRewrite")
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return errors.New("a query or fragment has no meaning here")
	}
	if u.Opaque != "" {
		return fmt.Errorf("no host; did you mean %s://%s?", u.Scheme, u.Opaque)
	}
	switch u.Scheme {
	case "http", "ws":
		return t.parseTCP(u, "80")
	case "https", "wss":
		t.isTLS = true
		return t.parseTCP(u, "443")
	case "unix":
		if u.Host != "" || u.Path == "" {
			return errors.New("want unix:///path/of/socket")
		}
		t.network, t.addr = "unix", u.Path
		return nil
	case "":
		return errors.New("no scheme; want http, https, ws, wss or unix")
	}
	return fmt.Errorf("scheme %q; want http, https, ws, wss or unix", u.Scheme)
}

func (t *target) parseTCP(u *url.URL, port string) error {
	if u.Hostname() == "" {
		return errors.New("no host")
	}
	if u.Port() != "" {
		port = u.Port()
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("port %s; want 1 to 65535", port)
		}
	}
	t.network, t.host = "tcp", u.Hostname()
	t.addr = net.JoinHostPort(t.host, port)
	t.prefix = strings.TrimRight(u.EscapedPath(), "/")
	return nil
}

// A backendSet is one configuration of backends, never changed once it is in use.
type backendSet struct {
	all []*Backend // in configuration order
}

// candidates appends to dst what may be chosen now: not tried yet and below its
// limit, first choice those that are not waiting after a failure, and only if
// there are none, those that are (see isEjected). If nothing is left, it tells why.
func (s *backendSet) candidates(dst, tried []*Backend, now time.Duration) ([]*Backend, error) {
	ejected, full := 0, 0
	for _, b := range s.all {
		isFull, isEjected := b.isFull(), b.isEjected(now, len(tried) > 0)
		switch { // the usual case first: a set may be large
		case !isFull && !isEjected && (len(tried) == 0 || !slices.Contains(tried, b)):
			dst = append(dst, b)
		case slices.Contains(tried, b):
		case isFull:
			full++
		default:
			ejected++
		}
	}
	if len(dst) == 0 && ejected > 0 {
		dst = s.appendOthers(dst, tried)
	}
	switch {
	case len(dst) > 0:
		return dst, nil
	case full > 0:
		return nil, fmt.Errorf("%w: every backend carries its MaxTunnels", ErrLimit)
	}
	return nil, ErrNoBackend
}

// appendOthers appends what was not tried and is not full, waiting or not.
func (s *backendSet) appendOthers(dst, tried []*Backend) []*Backend {
	for _, b := range s.all {
		if !b.isFull() && !slices.Contains(tried, b) {
			dst = append(dst, b)
		}
	}
	return dst
}

// hasOther reports whether a backend is left that was not tried and is not full.
func (s *backendSet) hasOther(tried []*Backend) bool {
	return slices.ContainsFunc(s.all, func(b *Backend) bool {
		return !slices.Contains(tried, b) && !b.isFull()
	})
}
