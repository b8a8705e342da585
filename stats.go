package wsproxy

// Stats are counters of a [Proxy] since [New], and gauges.
type Stats struct {
	Upgrading int // upgrades under way
	Tunnels   int // open tunnels

	// Requests, by what came of them. Refused are those that got no tunnel because of
	// a check, a policy, a limit, a hook, a shutdown, a client that left, a deadline of
	// a middleware, or the backend's own answer.
	Opened  uint64 // a tunnel opened
	Refused uint64
	Failed  uint64 // no backend answered properly, or there was none

	// Traffic of all tunnels, open ones included, frames of the proxy's own
	// not included.
	ToBackend, ToClient Traffic
}

// Traffic counts what passed in one direction.
type Traffic struct {
	Bytes    uint64 // on the wire, frame headers included
	Messages uint64 // data messages that passed to their end; where a tunnel was cut, perhaps some that did not
}

func (t *Traffic) add(u Traffic) {
	t.Bytes += u.Bytes
	t.Messages += u.Messages
}

// Stats returns the current counters.
func (p *Proxy) Stats() Stats { return p.registry.stats() }

func (r *registry) stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Stats{
		Upgrading: len(r.upgrades), Tunnels: len(r.tunnels),
		Opened: r.opened.Load(), Refused: r.refused.Load(), Failed: r.failed.Load(),
		ToBackend: r.toBackend, ToClient: r.toClient,
	}
	for t := range r.tunnels {
		toBackend, toClient := t.relay.Counts()
		s.ToBackend.add(Traffic(toBackend))
		s.ToClient.add(Traffic(toClient))
	}
	return s
}
