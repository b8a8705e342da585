package wsproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/wsproxy/wsproxy/internal/health"
	"github.com/wsproxy/wsproxy/internal/rebalance"
	"github.com/wsproxy/wsproxy/internal/relay"
)

// A RebalanceConfig says how [Proxy.Rebalance] moves clients. The zero value has the defaults.
// Negative values are errors.
type RebalanceConfig struct {
	// Tolerance is how far a backend may be above its share before its tunnels are closed, as a
	// part of the share. Zero means 0.2.
	Tolerance float64

	// MinSurplus is how many tunnels it may have above its share before that. Zero means 10.
	MinSurplus int

	// Rate is the largest part of a backend's tunnels that is closed in a second. Zero means
	// 0.01; more than 1 is an error.
	Rate float64
}

const (
	defaultTolerance  = 0.2
	defaultMinSurplus = 10
	defaultRate       = 0.01 // of a backend's tunnels, a second

	rebalanceStep = time.Second
	settleTime    = 2 * time.Minute // after a change: see recordStateChange
)

// Rebalance closes tunnels of backends that have more than their share, so that their clients
// come again and go to backends that have less: after a backend was added, for instance, or
// has recovered. The client is sent 1012, and the cause is [CauseRebalance]. A backend's share
// is its part, by weight, of the tunnels of all backends that may get new ones: those of the
// set that neither drain nor are avoided because of a flag, of the lowest
// [BackendConfig.Priority] among them. One whose flag only waits for an upgrade to try it is
// among them: a client that is moved does that. If
// a backend exceeds its share by more than Tolerance and MinSurplus, its tunnels are closed
// until it has its share, the quietest first, at most Rate of them in a second. No tunnel is
// closed that opened after the first one was closed, so that a client is moved once at most.
//
// Rebalance waits while a backend is in its slow start, and for 2 minutes after a backend was
// added or removed, has begun or ceased to drain, or got its first flag or lost its last one.
//
// After each batch it waits until enough clients have gone to other backends, at most for 15
// s; clients that stay away longer decide nothing. If more than half of the last 100 clients
// come back to the backend that they were moved from, it stops with [ErrNotMoving]; of fewer
// than 30 it must be four in five, and fewer than 10 are judged with the next batch, or when
// there is none. Clients whose tunnels were closed before a change that it waits for decide
// nothing. With [Hash] it always stops in this way, after it has closed some tunnels in
// vain, and with [BoundedHash] mostly: there use [Proxy.CloseTunnels] with a function that
// chooses. With [WithAffinity] it stops too, because bound clients come back to their backend: only
// [Proxy.Drain] moves them. A client is recognised by its address, as by [ByClientIP], or by the
// key of [Limits.ClientKey] where [Limits.PerClient] is set; among clients with the same one by
// host, path and query. If new clients come from the same address meanwhile, some are taken
// for those that come back.
//
// Rebalance returns how many tunnels it has closed; some of them may still be ending then. The
// error is nil when no backend has too many tunnels. Otherwise it is
//
//   - an error that wraps [ErrNotMoving], and says how many clients came back;
//   - the error of ctx, or [ErrShutdown];
//   - a join of [*ConfigError], if c is invalid;
//   - another error, if a call of Rebalance is under way already.
//
// The proxy never calls Rebalance by itself: call it after a change, or at intervals.
func (p *Proxy) Rebalance(ctx context.Context, c RebalanceConfig) (int, error) {
	config, err := c.compile()
	if err != nil {
		return 0, err
	}
	r := &rebalancing{p: p, config: config, states: make(map[*Backend]rebalance.State), changed: make(chan struct{}, 1)}
	if !p.rebalancing.CompareAndSwap(nil, r) {
		return 0, errRebalancing
	}
	defer p.rebalancing.Store(nil)
	err = r.run(ctx)
	p.logRebalanced(r.numClosed, err)
	return r.numClosed, err
}

var errRebalancing = errors.New("wsproxy: rebalance: another call is under way")

// compile checks c and fills its defaults in.
func (c RebalanceConfig) compile() (rebalance.Config, error) {
	var errs []error
	bad := func(field string, value any, text string) {
		errs = append(errs, &ConfigError{Option: "Rebalance." + field, Value: value, Err: errors.New(text)})
	}
	if !(c.Tolerance >= 0) { // NaN too
		bad("Tolerance", c.Tolerance, "want at least 0")
	}
	if c.MinSurplus < 0 {
		bad("MinSurplus", c.MinSurplus, "want at least 0")
	}
	if !(c.Rate >= 0 && c.Rate <= 1) {
		bad("Rate", c.Rate, "want 0 to 1")
	}
	return rebalance.Config{
		Tolerance:  cmp.Or(c.Tolerance, defaultTolerance),
		MinSurplus: cmp.Or(c.MinSurplus, defaultMinSurplus),
		Rate:       cmp.Or(c.Rate, defaultRate),
	}, errors.Join(errs...)
}

// A rebalancing is a call of Rebalance.
type rebalancing struct {
	p      *Proxy
	config rebalance.Config

	// Owned by the call.
	states    map[*Backend]rebalance.State
	began     time.Duration // of the first batch, since the proxy's start; 0 before it
	numClosed int

	changed chan struct{} // a client may have come back; capacity 1

	mu         sync.Mutex
	reconnects rebalance.Reconnects // guarded by mu
}

// run closes the batches of a step each second, as long as a backend has too many tunnels.
func (r *rebalancing) run(ctx context.Context) error {
	for {
		if err := r.interrupted(ctx); err != nil {
			return err
		}
		batches, wait := r.nextStep(), r.p.settlesIn()
		if len(batches) == 0 && (wait <= 0 || r.began == 0) {
			return r.judge(ctx, true)
		}
		if wait > 0 { // a backend with too few tunnels may have failed for a moment
			clear(r.states)
			r.discard()
			r.sleep(ctx, wait)
			continue
		}
		next := r.p.now() + rebalanceStep
		r.close(ctx, batches)
		if err := r.judge(ctx, false); err != nil {
			return err
		}
		r.sleep(ctx, next-r.p.now())
	}
}

// judge waits until it is known where the clients of the last batches went. It returns an error
// that wraps [ErrNotMoving] if too many of them came back to their backend.
func (r *rebalancing) judge(ctx context.Context, isLast bool) error {
	for r.p.settlesIn() <= 0 {
		r.mu.Lock()
		now := r.p.now()
		verdict, same, back := r.reconnects.Judge(now, isLast)
		deadline := r.reconnects.Deadline(now)
		r.mu.Unlock()
		switch verdict {
		case rebalance.GoOn:
			return nil
		case rebalance.Stop:
			return fmt.Errorf("%w: %d of %d clients came back to the backend that they were moved from", ErrNotMoving, same, back)
		}
		timer := time.NewTimer(deadline - now)
		select {
		case <-timer.C:
		case <-r.changed:
		case <-ctx.Done():
		case <-r.p.registry.stopped:
		}
		timer.Stop()
		if err := r.interrupted(ctx); err != nil {
			return err
		}
	}
	return nil
}

// interrupted returns why the call ends early, or nil.
func (r *rebalancing) interrupted(ctx context.Context) error {
	if isClosed(r.p.registry.stopped) {
		return ErrShutdown
	}
	return contextErr(ctx)
}

// sleep waits for d, or until the call is interrupted.
func (r *rebalancing) sleep(ctx context.Context, d time.Duration) {
	sleep(ctx, r.p.registry.stopped, d)
}

// settlesIn returns the time until the shares of backends are stable: see Rebalance.
func (p *Proxy) settlesIn() time.Duration {
	settled := time.Duration(p.slowUntil.Load())
	if changed := time.Duration(p.stateChanged.Load()); changed > 0 {
		settled = max(settled, changed+settleTime)
	}
	return settled - p.now()
}

// recordStateChange records that a backend has changed between those that may get new tunnels
// and the others, or that the set has changed.
func (p *Proxy) recordStateChange() { p.stateChanged.Store(max(int64(p.now()), 1)) }

// recordFlagChange is recordStateChange, if c has raised the first flag of b or cleared the last
// one.
func (b *Backend) recordFlagChange(c health.Change) {
	after := b.health.flags()
	before := after&^c.Raised | c.Cleared
	if (before == 0) != (after == 0) {
		b.p.recordStateChange()
	}
}

// A batch is the tunnels of one backend that are closed in a step.
type batch []*Tunnel

// nextStep returns the batches of the next step, one for each backend that has too many
// tunnels. Some may be empty: then no tunnel's turn has come. There are none when no backend has
// too many, or none of those has a tunnel that may be closed.
func (r *rebalancing) nextStep() []batch {
	backends := r.p.set.Load().balanced(r.p.now())
	open := r.p.registry.openByBackend()
	loads, states := make([]rebalance.Load, len(backends)), make([]rebalance.State, len(backends))
	for i, b := range backends {
		loads[i] = rebalance.Load{Tunnels: len(open[b]), Weight: b.Weight(), Max: b.MaxTunnels()}
		states[i] = r.states[b]
	}
	clear(r.states)
	var batches []batch
	for i, s := range r.config.Steps(loads, states, r.away()) {
		if !s.Next.IsMoving {
			continue
		}
		b := backends[i]
		if movable := r.movable(open[b]); len(movable) > 0 {
			r.states[b] = s.Next
			batches = append(batches, quietest(movable, s.Close))
		}
	}
	return batches
}

// balanced returns the backends whose tunnels are compared: those that upgrades get at now, or
// would without their MaxTunnels.
func (s *backendSet) balanced(now time.Duration) []*Backend {
	var balanced []*Backend
	for _, b := range s.active {
		if b.tier(now, false) != health.TierGood {
			continue
		}
		if len(balanced) > 0 {
			c := cmp.Compare(b.Priority(), balanced[0].Priority())
			if c > 0 {
				continue
			}
			if c < 0 {
				balanced = balanced[:0]
			}
		}
		balanced = append(balanced, b)
	}
	return balanced
}

// openByBackend returns the tunnels that have not begun to end.
func (r *registry) openByBackend() map[*Backend][]*Tunnel {
	open := make(map[*Backend][]*Tunnel)
	for _, t := range r.tunnels() {
		if !t.relay.IsEnding() {
			open[t.backend] = append(open[t.backend], t)
		}
	}
	return open
}

// away returns how many clients are expected to come back.
func (r *rebalancing) away() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reconnects.Away()
}

// movable returns the tunnels that opened before the first batch. The others may be those of
// clients that were moved.
func (r *rebalancing) movable(tunnels []*Tunnel) []*Tunnel {
	if r.began == 0 {
		return tunnels
	}
	return slices.DeleteFunc(tunnels, func(t *Tunnel) bool { return t.opened >= r.began })
}

// quietest returns the n tunnels that have been quiet for longest.
func quietest(tunnels []*Tunnel, n int) batch {
	if n == 0 {
		return nil
	}
	type quietTunnel struct {
		*Tunnel
		since time.Time
	}
	all := make([]quietTunnel, len(tunnels))
	for i, t := range tunnels {
		all[i] = quietTunnel{t, t.LastActive()}
	}
	slices.SortFunc(all, func(a, b quietTunnel) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.id, b.id))
	})
	first := make(batch, min(n, len(all)))
	for i := range first {
		first[i] = all[i].Tunnel
	}
	return first
}

// close closes the tunnels of all batches, spread over a step.
func (r *rebalancing) close(ctx context.Context, batches []batch) {
	if r.began == 0 {
		r.began = r.p.now()
	}
	tunnels := interleave(batches)
	r.numClosed += r.p.closePaced(ctx, r.p.registry.stopped, tunnels, rebalanceStep, r.move)
}

// interleave returns the tunnels of all batches in an order in which each batch is spread evenly.
func interleave(batches []batch) []*Tunnel {
	type place struct {
		*Tunnel
		at float64 // in its batch, from 0 to 1
	}
	var all []place
	for _, b := range batches {
		for i, t := range b {
			all = append(all, place{t, (float64(i) + 0.5) / float64(len(b))})
		}
	}
	slices.SortStableFunc(all, func(a, b place) int { return cmp.Compare(a.at, b.at) })
	tunnels := make([]*Tunnel, len(all))
	for i, p := range all {
		tunnels[i] = p.Tunnel
	}
	return tunnels
}

// move closes t. Its client is recorded before that: it may come back at once.
func (r *rebalancing) move(t *Tunnel) (hasBegun bool) {
	client, target := t.clientAndTarget()
	r.mu.Lock()
	undo := r.reconnects.Closed(r.p.now(), client, target, t.backend.id)
	r.mu.Unlock()
	if t.closeFor(relay.CauseRebalance) {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	undo() // it has begun to end for another reason
	return false
}

// recordOpened records that t has opened: its client may have been moved.
func (r *rebalancing) recordOpened(t *Tunnel) {
	client, target := t.clientAndTarget()
	r.mu.Lock()
	r.reconnects.Opened(r.p.now(), client, target, t.backend.id)
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default: // it will look anyway
	}
}

// clientAndTarget returns the hashes that a client is recognised by: see Rebalance.
func (t *Tunnel) clientAndTarget() (client, target uint64) {
	s := t.request.decode()
	if t.more != nil && t.more.clientKey != 0 {
		client = uint64(t.more.clientKey)
	} else {
		client = hashString(addrKey(s.clientAddr()))
	}
	return client, hashString(s.host + " " + s.path + "?" + s.rawQuery)
}

// discard forgets where the clients of the last batches went.
func (r *rebalancing) discard() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reconnects.Discard()
}
