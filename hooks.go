package wsproxy

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
)

// The functions of this file call the program's hooks. A panic in a hook is logged and
// becomes an error, so that it ends one upgrade or tunnel only: net/http recovers
// panics only on its own goroutines.

// A hookPanic is a panic in a hook. It has been logged.
type hookPanic struct {
	hook  string // as a program names it: see [PanicCount]
	value any
}

func (e *hookPanic) Error() string { return fmt.Sprintf("wsproxy: panic in %s: %v", e.hook, e.value) }

// isHookPanic reports whether err itself is a panic in a hook.
func isHookPanic(err error) bool {
	_, ok := err.(*hookPanic)
	return ok
}

// panicOfProxy stands for a panic outside all hooks, in a method of a connection for
// instance.
const panicOfProxy = "Proxy.ServeHTTP"

// catch makes an error of a panic in a hook. It is deferred by the caller of the hook.
func (p *Proxy) catch(hook, requestID string, err *error) {
	if v := recover(); v != nil {
		*err = p.newHookPanic(hook, requestID, v)
	}
}

// newHookPanic counts and logs a panic with that value, and returns it as an error.
func (p *Proxy) newHookPanic(hook, requestID string, value any) error {
	if value != http.ErrAbortHandler { // net/http does not log it either
		p.panics.add(hook)
		p.logPanic(hook, requestID, value)
	}
	return &hookPanic{hook, value}
}

// callClientKey returns the key by which r's client is bounded, if any is.
func (p *Proxy) callClientKey(r *http.Request) (key clientKey, err error) {
	a := p.admission
	if !a.boundsClients() {
		return 0, nil
	}
	defer p.catch("Limits.ClientKey", RequestID(r), &err)
	return a.keyOf(a.limits.ClientKey(r)), nil
}

// callAffinityKey returns the key of r that binds it, if r has one.
func (p *Proxy) callAffinityKey(r *http.Request) (key string, err error) {
	defer p.catch("Affinity.Key", RequestID(r), &err)
	return p.affinity.key(r), nil
}

func (p *Proxy) callAdmit(r *http.Request) (value any, err error) {
	defer p.catch("WithAdmit", RequestID(r), &err)
	return p.admit(r)
}

func (p *Proxy) callPick(r *http.Request, candidates []*Backend) (b *Backend, err error) {
	defer p.catch("Balancer.Pick", RequestID(r), &err)
	return p.balancer.Pick(r, candidates)
}

// callDial calls the dialer of [WithDialer], or the default one.
func (p *Proxy) callDial(ctx context.Context, network, addr, requestID string) (conn net.Conn, err error) {
	defer p.catch("WithDialer", requestID, &err)
	return p.dial(ctx, network, addr)
}

func (p *Proxy) callRewrite(r *ProxyRequest) (err error) {
	defer p.catch("WithRewrite", r.RequestID, &err)
	return p.rewrite(r)
}

func (p *Proxy) callResponse(r *ProxyResponse) (err error) {
	defer p.catch("WithResponse", r.RequestID, &err)
	return p.response(r)
}

// callProbe calls the Probe of [HealthCheck].
func (p *Proxy) callProbe(ctx context.Context, b *Backend) (err error) {
	defer p.catch("HealthCheck.Probe", "", &err)
	return p.healthCheck.Probe(ctx, b)
}

// callMatch calls the function that [Proxy.CloseTunnels] was given.
func (p *Proxy) callMatch(match func(*Tunnel) bool, t *Tunnel) (isMatch bool, err error) {
	defer p.catch("CloseTunnels", "", &err)
	return match(t), nil
}

// callHooks calls the hooks that several traces have for one event, all of them: also if one
// panics or ends its goroutine. The error is that of the first panic.
func callHooks[T any](p *Proxy, name, requestID string, hooks []func(T), info T) error {
	if len(hooks) == 0 {
		return nil
	}
	hasReturned := false
	defer func() {
		if !hasReturned {
			callHooks(p, name, requestID, hooks[1:], info)
		}
	}()
	err := callHook(p, name, requestID, hooks[0], info)
	hasReturned = true
	return cmp.Or(err, callHooks(p, name, requestID, hooks[1:], info))
}

// callHook calls a hook of [Trace]. The error is that of a panic.
func callHook[T any](p *Proxy, name, requestID string, hook func(T), info T) (err error) {
	defer p.catch(name, requestID, &err)
	hook(info)
	return nil
}
