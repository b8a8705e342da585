package wsproxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/health"
)

// A BackendConfig configures one backend.
type BackendConfig struct {
	// ID is the backend's identity: its counters are kept as long as the ID is in the
	// set or has tunnels, even if its other fields change. Default: the URL.
	ID string

	// URL is the backend's address. Schemes: http and ws; https and wss, over
	// TLS (see [WithTLSConfig]); unix, with the path of the socket
	// (unix:///run/chat.sock). A path of an http, ws, https or wss URL is a
	// prefix of every request's path. User information, a query and a fragment
	// are errors. A host name is resolved at each dial and never cached. If it has
	// several addresses, they are balanced, and those that failed in the last 30 s are
	// dialed last: see [WithDialer]. For the balancer they are one backend.
	URL string

	// ServerName is the name that the backend's TLS certificate must have, and that
	// is sent as SNI. Default: the URL's host. It is an error unless the scheme is
	// https or wss.
	ServerName string

	// Weight is the backend's share of new tunnels, relative to the others. Zero
	// means 1. A negative weight is an error: remove the backend from the set
	// instead.
	Weight int

	// MaxTunnels bounds the backend's tunnels, upgrades under way included.
	// Zero and negative mean no bound. Lowering it closes no tunnel.
	MaxTunnels int
}

// A Backend is one backend of a [Proxy], with its live counters. Its methods are
// safe for concurrent use. It stays valid when the backend is removed from the set. If a
// backend with its ID is added again while it still has tunnels, it is used again.
type Backend struct {
	p      *Proxy
	id     string
	idHash uint64 // of id, for rendezvous hashing

	target atomic.Pointer[target]

	tunnels atomic.Int64 // upgrades under way included
	removed atomic.Bool
	health  atomic.Pointer[health.State] // never nil; the State does not change

	open map[uint64]*Tunnel // by ID; guarded by registry.mu
}

// healthy is the State of most backends. They share it, so that candidates reads little
// memory.
var healthy health.State

// newBackend returns the backend of that ID, without a target.
func (p *Proxy) newBackend(id string) *Backend {
	b := &Backend{p: p, id: id, idHash: hashString(id)}
	b.health.Store(&healthy)
	return b
}

// A BackendState says whether a backend is in the set, and whether the last attempt on it
// succeeded. It does not say whether the backend has its MaxTunnels.
type BackendState uint8

const (
	BackendUp      BackendState = iota // its last attempt succeeded, or there was none
	BackendFailing                     // its last attempt failed; it is a candidate again when one is to find out whether it works: see Balancer
	BackendRemoved                     // not in the set any longer: it gets no new tunnels, and keeps the ones that it has
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

// String returns the ID, so that a Backend can be printed.
func (b *Backend) String() string { return b.id }

// URL returns the backend's URL as it was configured.
func (b *Backend) URL() string { return b.target.Load().config.URL }

// Weight returns the backend's weight, at least 1.
func (b *Backend) Weight() int { return b.target.Load().config.Weight }

// NumTunnels returns the number of the backend's tunnels, including upgrades under way
// that have picked it.
func (b *Backend) NumTunnels() int { return int(b.tunnels.Load()) }

// Load returns the number of tunnels by which [LeastTunnels] compares the backend with
// others, upgrades under way included. It is NumTunnels, unless the backend refused its last upgrade: it answered
// otherwise than with 101, or ended the tunnel within a second, before something had passed
// in both directions. Such a backend counts as carrying as many tunnels, in
// proportion to its weight, as the fullest one that can be chosen, plus its refusals since
// its last good opening, a number that halves each second. Without this rule a backend
// that refuses would have the fewest tunnels, and get all new clients.
//
// While a backend refuses, its Load takes a time linear in the number of backends.
func (b *Backend) Load() int {
	c := comparison{candidates: b.p.set.Load().all}
	load, _ := c.load(b)
	return int(load)
}

// State returns whether the backend is in the set, and whether its last attempt failed.
func (b *Backend) State() BackendState {
	switch {
	case b.removed.Load():
		return BackendRemoved
	case b.isFailing():
		return BackendFailing
	}
	return BackendUp
}

// isFull reports whether the backend has its MaxTunnels.
func (b *Backend) isFull() bool {
	limit := b.target.Load().config.MaxTunnels
	return limit > 0 && b.tunnels.Load() >= int64(limit)
}

// reserve counts one more tunnel, unless the backend has its MaxTunnels. [Proxy.release]
// undoes it.
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

// recordRefusal records that the backend refused an upgrade: see [Backend.Load].
func (b *Backend) recordRefusal() {
	now := b.p.now()
	b.updateRefusals(func(r health.Refusals) health.Refusals { return r.Refused(now) })
}

// recordOpened records that the backend has answered with 101.
func (b *Backend) recordOpened() {
	if b.health.Load().Refusals == (health.Refusals{}) {
		return
	}
	now := b.p.now()
	b.updateRefusals(func(r health.Refusals) health.Refusals { return r.Opened(now) })
}

// beginTrial records that an upgrade begins, if the backend is refusing. Then one endTrial
// follows.
func (b *Backend) beginTrial() (hasBegun bool) {
	if !b.health.Load().Refusals.IsRefusing(b.p.now()) {
		return false
	}
	b.updateRefusals(health.Refusals.BeginTrial)
	return true
}

func (b *Backend) endTrial() { b.updateRefusals(health.Refusals.EndTrial) }

func (b *Backend) updateRefusals(next func(health.Refusals) health.Refusals) {
	b.updateHealth(func(s health.State) health.State {
		s.Refusals = next(s.Refusals)
		return s
	})
}

// recordFailure records that an attempt failed at now, a time since the proxy's start. It
// reports whether the backend was not failing before.
func (b *Backend) recordFailure(now time.Duration, o health.Outcome, reason error) (hasBegun bool) {
	text := reason.Error()
	old := b.updateHealth(func(s health.State) health.State { return s.Record(now, o, text) })
	return !old.IsFailing()
}

// recordSuccess records that an attempt succeeded. It reports whether the backend was
// failing before.
func (b *Backend) recordSuccess() (hasEnded bool) {
	if !b.isFailing() {
		return false
	}
	old := b.updateHealth(func(s health.State) health.State { return s.Record(0, health.OK, "") })
	return old.IsFailing()
}

// beginProbe records that an attempt begins to find out whether the backend works again, if
// the backend is failing. Then one endProbe follows.
func (b *Backend) beginProbe() (hasBegun bool) {
	if !b.isFailing() {
		return false
	}
	b.updateHealth(health.State.BeginProbe)
	return true
}

func (b *Backend) endProbe() { b.updateHealth(health.State.EndProbe) }

// updateHealth replaces the State by the result of next, which is called again if
// another goroutine has replaced the State meanwhile. It returns the State before.
func (b *Backend) updateHealth(next func(health.State) health.State) (old *health.State) {
	for {
		old = b.health.Load()
		s := next(*old)
		if s == *old {
			return old
		}
		p := &s
		if s == healthy {
			p = &healthy
		}
		if b.health.CompareAndSwap(old, p) {
			return old
		}
	}
}

// isFailing reports whether the last attempt failed.
func (b *Backend) isFailing() bool { return b.health.Load().IsFailing() }

// isAvoided reports whether other backends are to be tried before this one: see
// [health.State.IsAvoided].
func (b *Backend) isAvoided(now time.Duration, isRetry bool) bool {
	return b.health.Load().IsAvoided(now, isRetry)
}

// A target is a compiled BackendConfig.
type target struct {
	config  BackendConfig // defaults filled in
	network string        // "tcp" or "unix"
	addr    string        // for the dialer
	host    string        // without the port; the default ServerName
	port    uint16        // 0 for "unix"
	isName  bool          // host is a name, and not an IP address
	isTLS   bool
	prefix  string // escaped path before the path of each request, without a slash at its end
}

// hasSameAddress reports whether t and u are dialed in the same way.
func (t *target) hasSameAddress(u *target) bool {
	return t.network == u.network && t.addr == u.addr && t.isTLS == u.isTLS
}

// compileTarget checks c and fills its defaults in. Errors name the field of option.
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
		bad(".Weight", c.Weight, "negative; to give a backend no tunnels, remove it from the set")
	}
	if c.Weight == 0 {
		t.config.Weight = 1
	}
	if c.ServerName != "" && len(errs) == 0 && !t.isTLS {
		bad(".ServerName", c.ServerName, "the URL's scheme does not use TLS")
	}
	return t, errs
}

// parse sets the fields of t from the URL.
func (t *target) parse(raw string) error {
	u, err := url.Parse(raw)
	if !strings.Contains(raw, ":/") { // localhost:8080 is parsed as a scheme, 127.0.0.1:8080 not at all
		return errors.New("no scheme; want http://localhost:8080, for example")
	}
	if parseErr, ok := errors.AsType[*url.Error](err); ok {
		return parseErr.Err // without raw, which the caller tells
	}
	if err != nil {
		return err
	}
	if u.User != nil {
		return errors.New("user information is never sent; set the header that the backend expects with WithRewrite")
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return errors.New("a query or fragment has no meaning here")
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
	}
	return errors.New("want the scheme http, https, ws, wss or unix")
}

func (t *target) parseTCP(u *url.URL, port string) error {
	if u.Hostname() == "" {
		return errors.New("no host")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return errors.New("want a port from 1 to 65535")
	}
	t.network, t.host, t.port = "tcp", u.Hostname(), uint16(n)
	_, err = netip.ParseAddr(t.host)
	t.isName = err != nil
	t.addr = net.JoinHostPort(t.host, port)
	t.prefix = strings.TrimRight(u.EscapedPath(), "/")
	return nil
}
