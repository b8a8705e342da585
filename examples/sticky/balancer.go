package main

import (
	"net/http"
	"strings"

	"github.com/wsproxy/wsproxy"
)

// A regional is a balancer that sends a client to a backend of its region, if one is a
// candidate. It is asked only about clients that are not bound to a backend yet.
type regional struct {
	within wsproxy.Balancer // chooses one of several
}

func newRegional() *regional { return &regional{within: wsproxy.LeastTunnels()} }

// Pick implements [wsproxy.Balancer]. The parameter region of the URL is the client's region,
// and the ID of a backend begins with that of the backend.
func (r *regional) Pick(req *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
	region := req.URL.Query().Get("region")
	var near []*wsproxy.Backend // candidates must not be modified
	for _, b := range candidates {
		if strings.HasPrefix(b.ID(), region+"-") {
			near = append(near, b)
		}
	}
	if len(near) == 0 {
		near = candidates
	}
	return r.within.Pick(req, near)
}
