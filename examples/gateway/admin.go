package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"

	"github.com/wsproxy/wsproxy/wsproxyadmin"
)

// newAdminServer returns the server of -admin: the admin page, where tunnels are closed
// and backends are drained. With -admin-token-file it asks for the token, and uses the
// certificate of -tls-cert if there is one. Without, it is for this machine only.
func (g *gateway) newAdminServer(ctx context.Context) (*opsServer, error) {
	f := g.flags
	o := wsproxyadmin.Options{Authorize: authorizeLocal, Instance: f.name, Logger: g.logger}
	if f.adminTokenFile != "" {
		if _, err := readToken(f.adminTokenFile); err != nil {
			return nil, err
		}
		o.Authorize = authorizeByToken(f.adminTokenFile)
	}
	ln, err := net.Listen("tcp", f.admin)
	if err != nil {
		return nil, err
	}
	if f.adminTokenFile == "" && !isLoopback(ln.Addr().String()) {
		ln.Close()
		return nil, errors.New("without -admin-token-file it must be a loopback address, such as 127.0.0.1:9000")
	}
	handler := wsproxyadmin.Handler(g.proxy, o)
	mux := newOpsMux(ctx)
	s := newOpsServer("admin page", "http://"+ln.Addr().String()+"/", ln, mux)
	if f.adminTokenFile != "" {
		handler = askForPassword(o.Authorize, handler)
		if f.tlsCert != "" {
			s.hasTLS, s.url = true, "https://"+ln.Addr().String()+"/"
		}
	}
	mux.Handle("/", handler)
	return s, nil
}

// authorizeLocal lets in requests of this machine. Its users are trusted, but the pages
// in their browsers are not: the name of another site may resolve to 127.0.0.1 (DNS
// rebinding). The browser then takes the admin page for a page of that site, whose name
// is the Host of the request.
func authorizeLocal(r *http.Request) (actor string, err error) {
	if !isLoopback(r.RemoteAddr) {
		return "", errors.New("without -admin-token-file the page is for this machine only")
	}
	if !isLoopback(r.Host) {
		return "", fmt.Errorf("the host %q is not this machine: use 127.0.0.1 or localhost, or -admin-token-file", r.Host)
	}
	return "local", nil
}

// isLoopback reports whether addr, a host with or without a port, is a loopback address
// or localhost.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = strings.Trim(addr, "[]") // it has no port
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// authorizeByToken lets in requests with the token in file as the password, whatever
// their user name is, which is the actor. The file is read each time, so that a new token
// holds at once.
func authorizeByToken(file string) func(*http.Request) (actor string, err error) {
	return func(r *http.Request) (string, error) {
		user, password, ok := r.BasicAuth()
		if !ok || user == "" {
			return "", errors.New("log in with your name, and the token as the password")
		}
		want, err := readToken(file)
		if err != nil {
			return "", err
		}
		got := sha256.Sum256([]byte(password))
		if subtle.ConstantTimeCompare(got[:], want[:]) == 0 { // of hashes: the time must not tell the length either
			return "", errors.New("the password is not the token")
		}
		return user, nil
	}
}

// readToken returns the hash of the token in file, without the end of the line.
func readToken(file string) (hash [sha256.Size]byte, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return hash, err
	}
	token := strings.TrimRight(string(b), "\r\n")
	if token == "" {
		return hash, fmt.Errorf("%s: no token in it", file)
	}
	return sha256.Sum256([]byte(token)), nil
}

// askForPassword makes a browser ask for a name and a password, for which next itself
// has no response.
func askForPassword(authorize func(*http.Request) (string, error), next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := authorize(r); err != nil {
			w.Header().Set("WWW-Authenticate", `Basic realm="wsproxy", charset="UTF-8"`)
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
