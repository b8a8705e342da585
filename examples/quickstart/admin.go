package main

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/wsproxyadmin"
)

const adminPath = "/admin/"

// newAdmin returns the handler of the admin page.
func (d *demo) newAdmin() http.Handler {
	return wsproxyadmin.Handler(d.proxy, wsproxyadmin.Options{
		Authorize: authorizeLocal,
		Prefix:    adminPath,
		Instance:  "quickstart",
	})
}

// authorizeLocal lets in the browsers of this machine, which is enough for a demo: a
// service asks for a password. The Host is checked as well. Otherwise a page of another
// site could let its name resolve to 127.0.0.1 (DNS rebinding), and would be taken for
// the admin page by the browser.
func authorizeLocal(r *http.Request) (actor string, err error) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().Unmap().IsLoopback() {
		return "", errNotLocal
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = strings.Trim(r.Host, "[]") // it has no port
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.Unmap().IsLoopback()) {
		return "", errNotLocal
	}
	return "local", nil
}

var errNotLocal = &wsproxy.StatusError{
	Status: http.StatusForbidden,
	Err:    errors.New("the admin page of the quickstart is for this machine only, at localhost or 127.0.0.1"),
}
