package wsproxy

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/affinity"
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
	// Zero and negative mean no bound. Lowering it closes no tunnel. Backends that are
	// worse, or of a higher Priority, do not take the place of one that has its MaxTunnels:
	// the upgrade is refused, or waits (see [Limits]).
	MaxTunnels int

	// Priority says which backends are used first: those of a higher number only while
	// each of a lower one has a flag (see [Balancer]). So a backend in another region, or a
	// spare one, gets 1. A response such as 404 or 500 raises no flag, and does not bring a
	// spare one in: see [ErrTryNext]. Zero is the default; negative numbers come before it.
	Priority int

	// Drain keeps the backend in the set without new tunnels. If [Proxy.SetBackends] sets it
	// for a backend that has tunnels, they are closed as by [Proxy.Drain]: in the background,
	// at the pace of a zero [CloseOptions.Over], all within 9 s. That stops if SetBackends sets
	// it to false, and goes on if the backend is removed. A call of [Proxy.Drain] that closes
	// them keeps its own pace, and what it leaves when it ends is closed then.
	Drain bool

	// ProxyProtocol makes each connection to the backend begin with a header of version 2 of
	// the PROXY protocol, before TLS. It has the client's address, which is
	// [TunnelInfo.ClientAddr], and the address at which the server has accepted the
	// connection. The client's port is 0 if a trusted proxy has named the client. If one of
	// the two has no IP address, as on a unix socket, the header is LOCAL and has no addresses;
	// that of a [TCPProbe], [HTTPProbe] or [WebSocketProbe] always is. With [WithHTTP] each
	// request has a connection of its own.
	//
	// The backend must expect the header: another one refuses each upgrade with 400, or closes
	// the connection. It should accept the header from the proxy alone, because the sender
	// chooses the addresses. A change by [Proxy.SetBackends] holds for connections that are
	// dialed afterwards. Default: no header.
	//
	// https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt, section 2.2
	ProxyProtocol bool
}

// A Backend is one backend of a [Proxy], with its live counters. Its methods are
// safe for concurrent use. It stays valid when the backend is removed from the set. If a
// backend with its ID is added again while it still has tunnels, it is used again.
type Backend struct {
	p      *Proxy
	id     string
	idHash uint64          // of id, for rendezvous hashing
	hashes []affinity.Hash // of id, for cookies

	target atomic.Pointer[target]

	moves     atomic.Uint64 // how many new addresses it has got
	movedAt   atomic.Int64  // when it got the last one, a time since the proxy's start
	tunnels   atomic.Int64  // upgrades under way included
	upgrading atomic.Int64  // upgrades under way alone
	removed   atomic.Bool

	// stateSince is the last state that updateState has seen, in the lowest bits, and when it saw
	// it first, since the proxy's start.
	stateSince atomic.Int64

	requests  atomic.Int64                  // in flight, without upgrades: see WithHTTP
	transport atomic.Pointer[httpTransport] // for them; nil before the first one

	health   backendHealth
	refusals refusalCounts
	slowFrom atomic.Int64 // the beginning of the last slow start, since the proxy's start; -1 if there was none

	drain   atomic.Pointer[drain] // until Resume; nil: Drain was not called; changed under Proxy.mu
	closing *closingRun           // nil: none; guarded by Proxy.mu

	counters backendCounters

	open       map[uint64]*Tunnel // by ID; guarded by registry.mu
	ended, cut int                // tunnels that have ended, and those of them that were cut; guarded by registry.mu
}

// newBackend returns the backend of that ID, without a target.
func (p *Proxy) newBackend(id string) *Backend {
	b := &Backend{p: p, id: id, idHash: hashString(id), hashes: p.affinity.hashes(id)}
	b.health.lastOpened.Store(-1)
	b.slowFrom.Store(-1)
	b.stateSince.Store(int64(p.now()) << stateBits)
	b.counters.init()
	return b
}

// A BackendState is the summary of a backend's place in the set and of its [Health]. If
// several apply it is the last one. It does not say whether the backend has its MaxTunnels.
type BackendState uint8

const (
	BackendUp       BackendState = iota // no flag is up, or [FlagFull] alone
	BackendFailing                      // another flag is up; the backend is a candidate again when one is to find out whether it works: see Balancer
	BackendDraining                     // it gets no new tunnels, and the ones that it has are closed: see [Proxy.Drain] and [BackendConfig.Drain]
	BackendRemoved                      // it is not in the set any longer: it gets no new tunnels, and keeps the ones that it has
)

// String returns "up", "failing", "draining" or "removed".
func (s BackendState) String() string {
	switch s {
	case BackendUp:
		return "up"
	case BackendFailing:
		return "failing"
	case BackendDraining:
		return "draining"
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

// Weight returns the backend's weight as it was configured, at least 1.
func (b *Backend) Weight() int { return b.target.Load().config.Weight }

// MaxTunnels returns the limit of the backend's tunnels as it was configured; 0 means none.
func (b *Backend) MaxTunnels() int { return max(b.target.Load().config.MaxTunnels, 0) }

// Priority returns the backend's priority as it was configured.
func (b *Backend) Priority() int { return b.target.Load().config.Priority }

// StateSince returns when [Backend.State] last changed; at first, when the backend came into
// the set.
func (b *Backend) StateSince() time.Time {
	return b.p.start.Add(time.Duration(b.stateSince.Load() >> stateBits))
}

// NumTunnels returns the number of the backend's tunnels, including upgrades under way
// that have picked it.
func (b *Backend) NumTunnels() int { return int(b.tunnels.Load()) }

// numClients returns the number of tunnels, upgrades under way included, and of other requests
// in flight.
func (b *Backend) numClients() int { return int(b.tunnels.Load() + b.requests.Load()) }

// Load returns the number of tunnels by which a balancer should compare the backend with
// others, upgrades under way included. It is NumTunnels, and with [WithHTTP] the number of other
// requests in flight besides, unless the backend refuses more upgrades than it accepts; both
// counts halve each second. To refuse is to respond otherwise than with 101, or to end the
// tunnel within a second, before messages have passed in both directions.
//
// A backend that refuses has few tunnels. A balancer that chooses the fewest tunnels would
// send it all new clients. So it counts as carrying at least as many, in proportion to its
// weight, as the emptiest other backend that can be chosen and does not refuse, plus its
// refusals, a number that halves each second.
//
// While a backend refuses, its Load takes a time linear in the number of backends.
func (b *Backend) Load() int {
	load := b.numClients()
	isRefusing, numRefusals := b.refusing()
	if !isRefusing {
		return load
	}
	now := b.p.now()
	tier, priority := b.tier(now, false), b.target.Load().config.Priority
	least := math.Inf(1) // tunnels per weight that the emptiest other backend would have with one more
	for _, other := range b.p.set.Load().active {
		if other != b && !other.hasMaxTunnels() && !other.refusals.isRefusing.Load() &&
			other.tier(now, false) == tier && other.target.Load().config.Priority == priority {
			least = min(least, float64(other.numClients()+1)/float64(other.Weight()))
		}
	}
	if !math.IsInf(least, 1) {
		const rounding = 1e-6
		load = max(load, int(min(math.Ceil(least*float64(b.Weight())-rounding), math.MaxInt32))-1)
	}
	return load + numRefusals
}

// refusing reports whether the backend refuses more upgrades than it accepts, and how many
// refusals count.
func (b *Backend) refusing() (isRefusing bool, numRefusals int) {
	if !b.refusals.isRefusing.Load() { // the usual case, without a lock
		return false, 0
	}
	return b.countRefusals()
}

// countRefusals is refusing of a backend that was refusing at the last change of its counts.
func (b *Backend) countRefusals() (isRefusing bool, numRefusals int) {
	now := b.p.now()
	c := &b.refusals
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts.IsRefusing(now), c.counts.Count(now)
}

// State returns the summary of the backend's place in the set and of its health.
func (b *Backend) State() BackendState {
	onlyFull := health.Flags(1 << health.Full)
	switch {
	case b.removed.Load():
		return BackendRemoved
	case b.drains():
		return BackendDraining
	case b.health.flags()&^onlyFull != 0:
		return BackendFailing
	}
	return BackendUp
}

// stateBits is how many bits a BackendState needs.
const stateBits = 2

// updateState records since when the backend has its state. It is called after each change of a
// field that State reads.
func (b *Backend) updateState() {
	for { // until the state is the recorded one: another goroutine may change it meanwhile
		last, state := b.stateSince.Load(), int64(b.State())
		if last&(1<<stateBits-1) == state {
			return
		}
		b.stateSince.CompareAndSwap(last, int64(b.p.now())<<stateBits|state)
	}
}

// hasMaxTunnels reports whether the backend has its MaxTunnels.
func (b *Backend) hasMaxTunnels() bool { return b.target.Load().isMax(b.tunnels.Load()) }

// reserve counts one more upgrade, unless the backend has its MaxTunnels. [Proxy.releaseUpgrade]
// undoes it, or newTunnel and then [Proxy.release].
func (b *Backend) reserve() bool {
	t := b.target.Load()
	for {
		n := b.tunnels.Load()
		if t.isMax(n) {
			return false
		}
		if b.tunnels.CompareAndSwap(n, n+1) {
			b.upgrading.Add(1)
			return true
		}
	}
}

// refusalCounts are the counts of one backend's upgrades.
type refusalCounts struct {
	mu         sync.Mutex
	counts     health.Refusals // guarded by mu
	isRefusing atomic.Bool     // as of the last change; a time that passes can only make it false
}

// updateRefusals replaces the counts by the result of event at now.
func (b *Backend) updateRefusals(now time.Duration, event func(health.Refusals) health.Refusals) {
	c := &b.refusals
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts = event(c.counts)
	c.isRefusing.Store(c.counts.IsRefusing(now))
}

// recordRefused records that the backend has responded otherwise than with 101.
func (b *Backend) recordRefused() {
	now := b.p.now()
	b.updateRefusals(now, func(r health.Refusals) health.Refusals { return r.Refused(now) })
}

// recordOpened records that the backend has responded with 101 at now.
func (b *Backend) recordOpened(now time.Duration) {
	b.updateRefusals(now, func(r health.Refusals) health.Refusals { return r.Opened(now) })
}

// recordEnded records that the backend has ended a tunnel at once, whose 101 came at opened.
func (b *Backend) recordEnded(opened time.Duration) {
	now := b.p.now()
	b.updateRefusals(now, func(r health.Refusals) health.Refusals { return r.Ended(now, opened) })
}

// beginTrial records that an upgrade begins, if the backend is refusing. Then one endTrial
// follows.
func (b *Backend) beginTrial() (hasBegun bool) {
	if !b.refusals.isRefusing.Load() {
		return false
	}
	b.updateRefusals(b.p.now(), health.Refusals.BeginTrial)
	return true
}

func (b *Backend) endTrial() { b.updateRefusals(b.p.now(), health.Refusals.EndTrial) }

// forgetFaults records that the backend has a new address. It returns what has changed.
func (b *Backend) forgetFaults() health.Change {
	b.moves.Add(1) // first: what an attempt on the old address shows is not recorded
	b.movedAt.Store(int64(b.p.now()))
	b.updateRefusals(b.p.now(), health.Refusals.Forget)
	b.counters.lastProbe.Store(uint32(ProbeNone))
	return b.health.update((*health.Backend).Forget)
}

// hasMovedSince reports whether the backend has got a new address since the time t. What a
// tunnel of before shows is about the old address, and not recorded.
func (b *Backend) hasMovedSince(t time.Duration) bool { return b.movedAt.Load() > int64(t) }

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

// isMax reports whether n tunnels are MaxTunnels or more.
func (t *target) isMax(n int64) bool {
	limit := t.config.MaxTunnels
	return limit > 0 && n >= int64(limit)
}

// hasSameAddress reports whether t and u are dialed in the same way.
func (t *target) hasSameAddress(u *target) bool {
	return t.network == u.network && t.addr == u.addr && t.isTLS == u.isTLS && t.config.ServerName == u.config.ServerName &&
		t.config.ProxyProtocol == u.config.ProxyProtocol
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
