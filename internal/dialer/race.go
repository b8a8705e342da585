package dialer

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// attemptDelay is the time between two attempts, if none fails. RFC 8305 recommends it:
// https://www.rfc-editor.org/rfc/rfc8305#section-8
const attemptDelay = 250 * time.Millisecond

// An Error reports that a dial of a name with several addresses failed. It joins one error
// for each address that was dialed, which names the address.
type Error struct{ errs []error }

func (e *Error) Error() string {
	texts := make([]string, len(e.errs))
	for i, err := range e.errs {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns the errors of the addresses.
func (e *Error) Unwrap() []error { return e.errs }

// Timeout reports whether an address did not answer in time.
func (e *Error) Timeout() bool {
	return slices.ContainsFunc(e.errs, func(err error) bool {
		t, ok := errors.AsType[interface {
			error
			Timeout() bool
		}](err)
		return ok && t.Timeout()
	})
}

// A race is one dial of a name with several addresses. One goroutine uses it; attempts
// use its results alone.
type race struct {
	dialer  *Dialer
	ctx     context.Context
	addrs   []netip.AddrPort // that were not dialed yet, in order
	pending []pendingAttempt
	errs    []error
	results chan result // has room for those of all attempts
}

// A pendingAttempt is an attempt that has no result yet.
type pendingAttempt struct {
	addr  netip.AddrPort
	start time.Time
}

// A result is the result of one attempt.
type result struct {
	addr     netip.AddrPort
	conn     net.Conn
	err      error
	panicked any // what the attempt panicked with
}

// run starts attempts until one has connected, or all have failed.
func (r *race) run() (net.Conn, error) {
	r.startNext()
	timer := time.NewTimer(attemptDelay)
	defer timer.Stop()
	for len(r.pending) > 0 {
		select {
		case res := <-r.results:
			r.recordSilent()
			r.remove(res.addr)
			switch {
			case res.panicked != nil:
				panic(res.panicked) // here the caller can recover it
			case res.err == nil:
				r.dialer.recordSuccess(res.addr)
				return res.conn, nil
			}
			r.errs = append(r.errs, res.err)
			if r.ctx.Err() == nil && !IsLocal(res.err) {
				r.dialer.recordFailure(res.addr)
			}
		case <-timer.C:
			r.recordSilent()
		}
		if len(r.addrs) > 0 && r.ctx.Err() == nil {
			r.startNext()
			timer.Reset(attemptDelay)
		}
	}
	return nil, &Error{r.errs}
}

// startNext starts an attempt on the next address.
func (r *race) startNext() {
	a := r.addrs[0]
	r.addrs = r.addrs[1:]
	r.pending = append(r.pending, pendingAttempt{a, time.Now()})
	go r.attempt(a) // ends with the dial: closeLosers waits for it
}

// attempt dials a and sends the result.
func (r *race) attempt(a netip.AddrPort) {
	res := result{addr: a, err: errors.New("a hook has ended the goroutine of a dial")}
	defer func() { // also if a hook of httptrace panics, or ends the goroutine
		res.panicked = recover()
		r.results <- res
	}()
	res.conn, res.err = r.dialer.dial(r.ctx, "tcp", a.String())
}

// remove removes the attempt on a, which has ended, from the pending ones.
func (r *race) remove(a netip.AddrPort) {
	r.pending = slices.DeleteFunc(r.pending, func(p pendingAttempt) bool { return p.addr == a })
}

// recordSilent records a failure for each address that has not connected within the delay,
// however its attempt ends: otherwise other dials would wait for it again. If it connects
// later, the failure is forgotten.
func (r *race) recordSilent() {
	for _, p := range r.pending {
		if time.Since(p.start) >= attemptDelay {
			r.dialer.recordFailure(p.addr)
		}
	}
}

// closeLosers waits until all attempts have ended, which the canceled context makes them
// do at once, and closes their connections.
func (r *race) closeLosers() {
	for range r.pending {
		if res := <-r.results; res.conn != nil {
			r.dialer.recordSuccess(res.addr)
			res.conn.Close()
		}
	}
}

// localFaults are the errors that come from this process or this host: no descriptor, memory
// or port is left, or a firewall rule of the host drops what it sends.
var localFaults = [...]syscall.Errno{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EADDRNOTAVAIL, syscall.EPERM,
}

// IsLocal reports whether err is a fault of this process or this host, which shows nothing
// about the address. The error of a dial of several addresses is local if all its errors
// are: on a host without IPv6, each IPv6 address is EADDRNOTAVAIL.
func IsLocal(err error) bool {
	if all, ok := errors.AsType[*Error](err); ok {
		return !slices.ContainsFunc(all.errs, func(err error) bool { return !IsLocal(err) })
	}
	lookup, isLookup := errors.AsType[*net.DNSError](err)
	return slices.ContainsFunc(localFaults[:], func(f syscall.Errno) bool {
		// A DNSError has only the text of the underlying error.
		return errors.Is(err, f) || isLookup && strings.HasSuffix(lookup.Err, f.Error())
	})
}
