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
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/wsproxyadmin"
)

// newAdminServer returns the server of -admin: the admin page, where tunnels are closed
// and backends are drained. With -admin-token-file it asks for the token, and uses the
// certificate of -tls-cert if there is one. Without, it is for this machine only.
func (g *gateway) newAdminServer(ctx context.Context) (*opsServer, error) {
	hasToken := g.flags.adminTokenFile != ""
	authorize := authorizeLocal
	if hasToken {
		if _, err := readToken(g.flags.adminTokenFile); err != nil {
			return nil, err
		}
		authorize = g.authorizeByToken
	}
	ln, err := net.Listen("tcp", g.flags.admin)
	if err != nil {
		return nil, err
	}
	addr := ln.Addr().String()
	if !hasToken && !isLoopback(addr) {
		ln.Close()
		return nil, errors.New("without -admin-token-file it must be a loopback address, such as 127.0.0.1:9000")
	}
	mux := newOpsMux(ctx)
	mux.Handle("/", wsproxyadmin.Handler(g.proxy, wsproxyadmin.Options{
		Authorize: authorize,
		Instance:  g.flags.name,
		Logger:    g.logger,
	}))
	s := newOpsServer("admin page", "http://"+addr+"/", ln, mux)
	if hasToken && g.flags.tlsCert != "" {
		s.hasTLS, s.url = true, "https://"+addr+"/"
	}
	return s, nil
}

// authorizeLocal lets in requests of this machine. Its users are trusted, but the pages
// in their browsers are not: the name of another site may resolve to 127.0.0.1 (DNS
// rebinding). The browser then takes the admin page for a page of that site, whose name
// is the Host of the request.
func authorizeLocal(r *http.Request) (actor string, err error) {
	if !isLoopback(r.RemoteAddr) {
		return "", refuse(http.StatusForbidden, "without -admin-token-file the page is for this machine only")
	}
	if !isLoopback(r.Host) {
		return "", refuse(http.StatusForbidden, "without -admin-token-file the page is at 127.0.0.1 or localhost only")
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

// authorizeByToken lets in requests with the token as the password, whatever their user
// name is: that is the actor. The file is read each time, so that a new token holds at
// once.
func (g *gateway) authorizeByToken(r *http.Request) (actor string, err error) {
	want, err := readToken(g.flags.adminTokenFile)
	if err != nil {
		g.logTokenError(err, time.Now())
		return "", refuse(http.StatusInternalServerError, "the token cannot be read: see the log")
	}
	user, password, _ := r.BasicAuth()
	got := sha256.Sum256([]byte(password))
	// Hashes are compared, so that the time does not depend on the length either.
	if subtle.ConstantTimeCompare(got[:], want[:]) == 0 || user == "" {
		return "", refuse(http.StatusUnauthorized, "log in with your name, and the token as the password")
	}
	return user, nil
}

// logTokenError logs err once a minute: clients without a token could fill the log.
func (g *gateway) logTokenError(err error, now time.Time) {
	last := g.tokenErrorAt.Load()
	if second := now.Unix(); second-last >= 60 && g.tokenErrorAt.CompareAndSwap(last, second) {
		g.logger.Error("the admin page lets nobody in", "err", err)
	}
}

// refuse returns an error that gives the client that status and text. With 401 a browser
// asks for a name and a password.
func refuse(status int, text string) error {
	err := &wsproxy.StatusError{Status: status, Err: errors.New(text)}
	if status == http.StatusUnauthorized {
		err.Header = http.Header{"Www-Authenticate": {`Basic realm="wsproxy", charset="UTF-8"`}}
	}
	return err
}

// maxToken bounds what is read at each request.
const maxToken = 4 << 10

// readToken returns the hash of the token in file, without the end of the line.
func readToken(file string) (hash [sha256.Size]byte, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return hash, err
	}
	// A pipe could be read once, and a terminal would be waited for.
	if !info.Mode().IsRegular() || info.Size() > maxToken {
		return hash, fmt.Errorf("%s: not a regular file of at most %d bytes", file, maxToken)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return hash, err
	}
	token := strings.TrimRight(string(b), "\r\n")
	if strings.TrimSpace(token) == "" {
		return hash, fmt.Errorf("%s: no token in it", file)
	}
	return sha256.Sum256([]byte(token)), nil
}
