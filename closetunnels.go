package wsproxy

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/wsproxy/wsproxy/internal/frame"
	"github.com/wsproxy/wsproxy/internal/pace"
	"github.com/wsproxy/wsproxy/internal/relay"
)

// CloseOptions say how [Proxy.CloseTunnels] closes tunnels.
type CloseOptions struct {
	// Code is the status code that the clients are sent, with the restrictions of
	// [Tunnel.Close]. Zero means 1012, which asks them to come again. Negative is an error.
	Code int

	// Reason is sent with Code. Default: "reconnect" if Code is zero, else none.
	Reason string

	// Over is the time over which the tunnels are closed, evenly, each at a random point of
	// its share, so that their clients do not all come back at once. If the context ends
	// earlier, the others stay open. Zero means 1,000 a second, but within 60 % of the time
	// that the context has left, so that the last ones have the rest to end; a context without
	// a deadline counts as having 15 s left. Negative means all at once.
	Over time.Duration
}

// CloseTunnels closes the open tunnels that match, or all if match is nil, as [Tunnel.Close]
// does. It waits until all of them have ended; a tunnel that ends by itself meanwhile is skipped.
// It returns how many it has closed. If ctx ends first, the rest stays open, closed tunnels go on
// ending, and the error is that of ctx. If the code or the reason may not be sent, or match
// panics, it returns an error and closes no tunnel.
//
// Match is called once for each tunnel that is open when CloseTunnels begins, before the first
// one is closed. Tunnels that open later stay. A hook of [Trace] that calls CloseTunnels waits
// for itself if its own tunnel is among them.
func (p *Proxy) CloseTunnels(ctx context.Context, match func(*Tunnel) bool, o CloseOptions) (int, error) {
	code, reason := o.Code, o.Reason
	if code == 0 {
		code, reason = frame.StatusServiceRestart, cmp.Or(reason, "reconnect")
	}
	if err := checkClose(code, reason); err != nil {
		return 0, fmt.Errorf("wsproxy: close tunnels: %w", err)
	}
	tunnels, err := p.matchTunnels(match)
	if err != nil {
		return 0, err
	}
	w := p.registry.watch(tunnels)
	defer p.registry.unwatch(w)
	numClosed := p.closePaced(ctx, w.ended, tunnels, o.Over, func(t *Tunnel) bool {
		return t.relay.Close(relay.CauseApplication, code, reason)
	})
	select {
	case <-w.ended:
	case <-ctx.Done():
	}
	if isClosed(w.ended) {
		return numClosed, nil
	}
	return numClosed, ctx.Err()
}

// matchTunnels returns the open tunnels that match.
func (p *Proxy) matchTunnels(match func(*Tunnel) bool) ([]*Tunnel, error) {
	tunnels := p.registry.tunnels()
	if match == nil {
		return tunnels, nil
	}
	matching := tunnels[:0]
	for _, t := range tunnels {
		isMatch, err := p.callMatch(match, t)
		if err != nil {
			return nil, err
		}
		if isMatch {
			matching = append(matching, t)
		}
	}
	return matching, nil
}

// closePaced calls end for each of tunnels, in their order, spread over a time as
// [CloseOptions.Over] says. A tunnel that is ending already is skipped; the others keep the
// time at which they are due. End does not wait, and reports whether it has begun to end the
// tunnel. closePaced returns how many it has begun to end, when none is left, or when ctx ends
// or stop is closed. It does not wait until tunnels have ended.
//
// All that close many tunnels call it: [Proxy.CloseTunnels], [Proxy.Drain],
// [BackendConfig.Drain], [HealthCheck.DrainAfter], [Proxy.Rebalance] and [Proxy.Shutdown].
func (p *Proxy) closePaced(ctx context.Context, stop <-chan struct{}, tunnels []*Tunnel, over time.Duration, end func(*Tunnel) bool) (numClosed int) {
	began, left := p.now(), pace.NoDeadline
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	window := pace.Window(len(tunnels), over, left)
	for i, t := range tunnels {
		if t.relay.IsEnding() {
			continue
		}
		due := began + pace.Due(i, len(tunnels), window, rand.Float64())
		if !sleep(ctx, stop, due-p.now()) {
			break
		}
		if end(t) {
			numClosed++
		}
	}
	return numClosed
}

// sleep waits for d, and reports whether neither ctx has ended nor stop was closed by then.
func sleep(ctx context.Context, stop <-chan struct{}, d time.Duration) bool {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-stop:
		case <-ctx.Done():
		}
	}
	return contextErr(ctx) == nil && !isClosed(stop)
}

// isClosed reports whether c is closed. Nothing is sent on it.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// A watch has the tunnels that a call of CloseTunnels waits for.
type watch struct {
	left  map[*Tunnel]struct{} // guarded by registry.mu
	ended chan struct{}        // closed when none is left
}

// watch returns a watch of those of tunnels that are open. One unwatch follows.
func (r *registry) watch(tunnels []*Tunnel) *watch {
	w := &watch{left: make(map[*Tunnel]struct{}, len(tunnels)), ended: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range tunnels {
		if t.backend.open[t.id] == t {
			w.left[t] = struct{}{}
		}
	}
	if len(w.left) == 0 {
		close(w.ended)
		return w
	}
	r.watches = append(r.watches, w)
	return w
}

func (r *registry) unwatch(w *watch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watches = slices.DeleteFunc(r.watches, func(other *watch) bool { return other == w })
}

// signalWatchesLocked removes t, which has ended, from the watches that have it.
func (r *registry) signalWatchesLocked(t *Tunnel) {
	for _, w := range r.watches {
		if _, isLeft := w.left[t]; isLeft {
			if delete(w.left, t); len(w.left) == 0 {
				close(w.ended)
			}
		}
	}
}
