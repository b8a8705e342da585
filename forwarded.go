package wsproxy

import (
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
)

// maxForwarded is the number of upgrades in a row, from one untrusted peer and with
// forwarding fields, after which the peer is taken for a proxy that [WithTrustedProxies]
// should name: see logUntrusted.
const maxForwarded = 100

// A forwardedCount counts upgrades in a row that came from one untrusted peer with
// forwarding fields. Its zero value is ready for use, and add is safe for concurrent use.
type forwardedCount struct {
	n    atomic.Int32 // changed under mu; it stays at maxForwarded
	mu   sync.Mutex
	peer netip.Addr // of the last n upgrades; invalid for a unix socket
}

// add counts an upgrade from peer. It returns true once: for the upgrade that is the
// hundredth in a row. An upgrade that is not isForwarded, or comes from another peer, ends
// the row. The lock is not held for upgrades without the fields while there is no row, nor
// after the hundredth.
func (c *forwardedCount) add(peer netip.Addr, isForwarded bool) bool {
	if n := c.n.Load(); n == maxForwarded || n == 0 && !isForwarded {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n.Load()
	switch {
	case n == maxForwarded:
		return false
	case !isForwarded:
		n = 0
	case n > 0 && peer == c.peer:
		n++
	default:
		c.peer, n = peer, 1
	}
	c.n.Store(n)
	return n == maxForwarded
}

// checkForwarded logs a line if the peers of many upgrades seem to be one proxy that is not
// trusted.
func (in *inbound) checkForwarded() {
	isForwarded := !in.info.isTrusted && hasForwarded(in.r.Header)
	if in.p.forwarded.add(in.info.clientAddr, isForwarded) {
		in.p.logUntrusted(in.info.clientAddr)
	}
}

// hasForwarded reports whether h says for which client a proxy has sent the request.
func hasForwarded(h http.Header) bool {
	return len(h["X-Forwarded-For"]) > 0 || len(h["Forwarded"]) > 0
}
