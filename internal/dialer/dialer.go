// Package dialer connects to a host name that may have several addresses: with staggered
// attempts, as in RFC 8305, on addresses in an order that balances them.
//
// The order, and the failures that are remembered for it, are in memory.go, which is pure.
// The attempts of one dial are in race.go. The package does not know what the connections
// are for.
package dialer

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// A Dialer resolves host names and connects to their addresses. It remembers which
// addresses have failed. Its methods are safe for concurrent use.
type Dialer struct {
	lookup func(ctx context.Context, host string) ([]net.IPAddr, error)
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)

	mu     sync.Mutex // held for the fields below alone: no function is called under it
	memory memory
}

// New returns a Dialer that uses [net.DefaultResolver], and a [net.Dialer] for each
// address.
func New() *Dialer {
	return &Dialer{
		lookup: lookup,
		dial:   new(net.Dialer).DialContext,
		memory: newMemory(rand.Uint64()),
	}
}

// lookup asks the resolver that is the default at the time of the call, as a net.Dialer
// does.
func lookup(ctx context.Context, host string) ([]net.IPAddr, error) {
	return net.DefaultResolver.LookupIPAddr(ctx, host)
}

// Resolve returns the addresses of host, at least one, each with port. Nothing is cached.
// The error is that of a [net.Dialer].
func (d *Dialer) Resolve(ctx context.Context, host string, port uint16) ([]netip.AddrPort, error) {
	found, err := d.lookup(ctx, host)
	var addrs []netip.AddrPort
	for _, ip := range found {
		addr, _ := netip.AddrFromSlice(ip.IP)
		a := netip.AddrPortFrom(addr.Unmap().WithZone(ip.Zone), port)
		if addr.IsValid() && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	if err == nil && len(addrs) == 0 {
		err = &net.DNSError{Err: "no suitable address", Name: host, IsNotFound: true}
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	return addrs, nil
}

// Dial connects to one of addrs, which are what Resolve returned for one name. It begins
// with one address. The next one follows after 250 ms, or at once when an attempt fails;
// earlier attempts go on. The first connection is returned. All attempts end by ctx, and
// have ended when Dial returns: no other connection is left.
//
// The error is that of a [net.Dialer] if there is one address, otherwise an [*Error].
func (d *Dialer) Dial(ctx context.Context, addrs []netip.AddrPort) (net.Conn, error) {
	if len(addrs) == 1 {
		return d.dial(ctx, "tcp", addrs[0].String())
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &race{dialer: d, ctx: ctx, addrs: d.order(addrs), results: make(chan result, len(addrs))}
	defer r.closeLosers()
	defer cancel()
	return r.run()
}

// order is that of the memory, now.
func (d *Dialer) order(addrs []netip.AddrPort) []netip.AddrPort {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.memory.order(addrs, now)
}

func (d *Dialer) recordFailure(a netip.AddrPort) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.memory.recordFailure(a, now)
}

func (d *Dialer) recordSuccess(a netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.memory.recordSuccess(a)
}
