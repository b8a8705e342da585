package wsproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"github.com/wsproxy/wsproxy/internal/proxyproto"
)

// This file makes the PROXY header of a connection: see [BackendConfig.ProxyProtocol]. An
// upgrade writes it in roundtrip.go, another request in http_transport.go, a probe in probe.go.

// proxyHeader returns the PROXY header of a connection to t that is made for r, or nil if t
// expects none. It has the client's address of i.
func (t *target) proxyHeader(r *http.Request, i *requestInfo) []byte {
	if !t.config.ProxyProtocol {
		return nil
	}
	return proxyproto.Append(nil, netip.AddrPortFrom(i.clientAddr, clientPort(r, i.isTrusted)), serverAddr(r))
}

// localHeader returns the PROXY header of a connection to t that is made for no client, or nil
// if t expects none.
func (t *target) localHeader() []byte {
	if !t.config.ProxyProtocol {
		return nil
	}
	return proxyproto.AppendLocal(nil)
}

// clientPort returns the port of the client that sent r, or 0: X-Forwarded-For of a trusted
// proxy has addresses alone.
func clientPort(r *http.Request, isTrusted bool) uint16 {
	if isTrusted && len(r.Header["X-Forwarded-For"]) > 0 {
		return 0
	}
	peer, _ := netip.ParseAddrPort(r.RemoteAddr) // some middleware removes the port
	return peer.Port()
}

// serverAddr returns the address at which the server has accepted the connection of r. It is
// invalid if that is a unix socket, or if r comes from no [http.Server].
func serverAddr(r *http.Request) netip.AddrPort {
	switch a := r.Context().Value(http.LocalAddrContextKey).(type) {
	case *net.TCPAddr:
		return a.AddrPort()
	case net.Addr: // of a listener or a server of the program's own
		addr, _ := netip.ParseAddrPort(a.String())
		return addr
	}
	return netip.AddrPort{}
}

// writeProxyHeader writes a header to conn, until ctx ends. If it fails, it closes conn.
func writeProxyHeader(ctx context.Context, conn net.Conn, header []byte) error {
	stop := context.AfterFunc(ctx, func() { interrupt(conn) })
	_, err := conn.Write(header)
	if !stop() && err == nil {
		err = ctx.Err() // conn is interrupted
	}
	if err != nil {
		conn.Close()
		return fmt.Errorf("PROXY header: %w", err)
	}
	return nil
}

const proxyHeaderHint = "does the backend expect the PROXY header?"

// explain returns err, which has ended an exchange with t before a response, with a hint if t may
// not have expected a PROXY header.
func (t *target) explain(err error) error {
	if !t.config.ProxyProtocol {
		return err
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return err // TLS works
	}
	return fmt.Errorf("%w (%s)", err, proxyHeaderHint)
}

// hintFor returns a hint for the report of a response with that status, or "". HTTP servers that
// expect no PROXY header respond to it with 400.
func (t *target) hintFor(status int) string {
	if !t.config.ProxyProtocol || status != http.StatusBadRequest {
		return ""
	}
	return " (" + proxyHeaderHint + ")"
}
