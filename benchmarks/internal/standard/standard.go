// Package standard provides the proxy of the standard library.
package standard

import (
	"net/http/httputil"
	"net/url"
	"sync/atomic"
)

// NewProxy returns a proxy that uses backends, which are addresses, in turn.
func NewProxy(backends []string) *httputil.ReverseProxy {
	var next atomic.Uint64
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: backends[next.Add(1)%uint64(len(backends))]})
	}}
}
