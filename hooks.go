package wsproxy

import (
	"fmt"
	"net/http"
)

// Everything here calls code of the user's. A panic in it is logged and becomes
// an error, so that it ends the one upgrade or tunnel that it belongs to, whose
// goroutine net/http may know nothing of.

// A hookPanic is a panic of a hook, which has been logged.
type hookPanic struct {
	hook  string
	value any
}

func (e *hookPanic) Error() string { return fmt.Sprintf("wsproxy: panic in %s: %v", e.hook, e.value) }

// catch is deferred around the call of a hook.
func (p *Proxy) catch(hook string, err *error) {
	v := recover()
	if v == nil {
		return
	}
	*err = &hookPanic{hook, v}
	if v != http.ErrAbortHandler { // which net/http does not log either
		p.logPanic(hook, v)
	}
}

func (p *Proxy) callPick(r *http.Request, candidates []*Backend) (b *Backend, err error) {
	defer p.catch("Balancer.Pick", &err)
	return p.balancer.Pick(r, candidates)
}

func (p *Proxy) callRewrite(r *ProxyRequest) (err error) {
	defer p.catch("the Rewrite hook", &err)
	return p.rewrite(r)
}

func (p *Proxy) callResponse(r *ProxyResponse) (err error) {
	defer p.catch("the Response hook", &err)
	return p.response(r)
}

// callHook calls a hook that observes; it may be nil. The error is a panic.
func callHook[T any](p *Proxy, name string, hook func(T), info T) (err error) {
	if hook == nil {
		return nil
	}
	defer p.catch(name, &err)
	hook(info)
	return nil
}
