package wsproxy

import (
	"fmt"
	"net/http"
)

// The functions of this file call the program's hooks. A panic in a hook is logged and
// becomes an error, so that it ends one upgrade or tunnel only: net/http recovers
// panics only on its own goroutines.

// A hookPanic is a panic in a hook. It has been logged.
type hookPanic struct {
	hook  string
	value any
}

func (e *hookPanic) Error() string { return fmt.Sprintf("wsproxy: panic in %s: %v", e.hook, e.value) }

// catch makes an error of a panic in a hook. It is deferred by the caller of the hook.
func (p *Proxy) catch(hook string, err *error) {
	v := recover()
	if v == nil {
		return
	}
	*err = &hookPanic{hook, v}
	if v != http.ErrAbortHandler { // net/http does not log it either
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

// callHook calls a hook of [Trace], which may be nil. The error is that of a panic.
func callHook[T any](p *Proxy, name string, hook func(T), info T) (err error) {
	if hook == nil {
		return nil
	}
	defer p.catch(name, &err)
	hook(info)
	return nil
}
