package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/wsproxy/wsproxy/wsproxyadmin"
)

// adminPath is the path of the admin page, without a slash at its end.
const adminPath = "/admin"

// newAdmin returns the handler of the admin page. Its streams end with ctx, because
// Shutdown of an [http.Server] waits for them.
func (d *demo) newAdmin(ctx context.Context) http.Handler {
	admin := wsproxyadmin.Handler(d.proxy, wsproxyadmin.Options{
		Authorize: authorizeLocal,
		Prefix:    adminPath,
		Instance:  "quickstart",
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reqCtx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		admin.ServeHTTP(w, r.WithContext(reqCtx))
	})
}

// authorizeLocal lets in the browsers of this machine, which is enough for a demo: a
// service asks for a password. The Host is checked as well. Otherwise a page of another
// site could let its name resolve to 127.0.0.1 (DNS rebinding), and would be taken for
// the admin page by the browser.
func authorizeLocal(r *http.Request) (actor string, err error) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().Unmap().IsLoopback() {
		return "", errors.New("the admin page of the quickstart is for this machine only")
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = strings.Trim(r.Host, "[]") // it has no port
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.Unmap().IsLoopback()) {
		return "", errors.New("open the admin page of the quickstart at localhost or 127.0.0.1")
	}
	return "local", nil
}
