// Package standard is the proxy that the standard library has.
package standard

import (
	"net/http/httputil"
	"net/url"
	"sync/atomic"
)

// NewProxy returns a proxy that takes backends, given by address, in turn.
func NewProxy(backends []string) *httputil.ReverseProxy {
	var next atomic.Uint64
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: backends[next.Add(1)%uint64(len(backends))]})
	}}
}
