package wsproxy

// Stats are gauges of a [Proxy], and counters since [New].
type Stats struct {
	Upgrading int // upgrades under way
	Waiting   int // those of them that wait for a backend: see Limits.Queue
	Tunnels   int // open tunnels

	// Requests by their result. A request is refused if it got no tunnel because of a
	// check, a policy, a limit, a hook, a shutdown, a client that disconnected, a
	// deadline of a middleware, or the backend's own response.
	Opened  uint64 // a tunnel opened
	Refused uint64
	Failed  uint64 // no backend gave a proper response, there was no backend, or it waited for one in vain

	// Traffic of all tunnels, open ones included, without frames that the proxy itself
	// sent.
	ToBackend, ToClient Traffic
}

// Traffic counts bytes and messages in one direction.
type Traffic struct {
	Bytes    uint64 // on the wire, frame headers included
	Messages uint64 // data messages that were relayed to their end; if a tunnel was cut, some may not have been
}

func (t *Traffic) add(u Traffic) {
	t.Bytes += u.Bytes
	t.Messages += u.Messages
}

// Stats returns the current counters. It adds up the traffic of all open tunnels, which
// delays no upgrade.
func (p *Proxy) Stats() Stats {
	r := &p.registry
	s, tunnels := r.snapshot()
	s.Waiting = int(p.queue.numWaiting.Load())
	// Without the lock. A tunnel that ends meanwhile is not counted twice: the totals in
	// s are those of the moment at which it was still open.
	for _, t := range tunnels {
		toBackend, toClient := t.traffic()
		s.ToBackend.add(toBackend)
		s.ToClient.add(toClient)
	}
	return s
}

// snapshot returns the counters without the traffic of open tunnels, and these tunnels.
func (r *registry) snapshot() (Stats, []*Tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Stats{
		Upgrading: len(r.upgrades), Tunnels: r.numTunnels,
		Opened: r.opened.Load(), Refused: r.refused.Load(), Failed: r.failed.Load(),
		ToBackend: r.toBackend, ToClient: r.toClient,
	}, r.tunnelsLocked()
}
