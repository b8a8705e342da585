package wsproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// plainAttemptKey is the context key of the plainAttempt that needs a connection.
type plainAttemptKey struct{}

// An httpTransport has the connections to one address of a backend over which requests are sent
// that are no upgrade.
type httpTransport struct {
	http.Transport
	p      *Proxy
	target *target // of the address; its prefix may be an old one
}

func newHTTPTransport(p *Proxy, t *target) *httpTransport {
	h := &httpTransport{p: p, target: t}
	h.Protocols = new(http.Protocols)
	h.Protocols.SetHTTP1(true)
	h.DialContext = h.dial // over TLS too, so that one deadline bounds the whole
	h.DisableCompression = true
	h.DisableKeepAlives = t.config.ProxyProtocol // its header names one client
	h.MaxIdleConns, h.MaxIdleConnsPerHost, h.IdleConnTimeout = maxIdleConns, maxIdleConns, idleConnTimeout
	h.ExpectContinueTimeout = expectContinueTimeout
	h.MaxResponseHeaderBytes = maxResponseHead
	return h
}

// httpTransport returns the transport for the backend's target, and the target.
func (b *Backend) httpTransport() (*httpTransport, *target) {
	for {
		t, old := b.target.Load(), b.transport.Load()
		if old != nil && old.target.hasSameAddress(t) {
			return old, t
		}
		h := newHTTPTransport(b.p, t)
		if b.transport.CompareAndSwap(old, h) {
			if old != nil {
				old.CloseIdleConnections()
			}
			return h, t
		}
	}
}

// finish is called when a request of b has ended. It closes idle connections that no further
// request will use.
func (h *httpTransport) finish(b *Backend) {
	if b.removed.Load() || b.transport.Load() != h || h.p.registry.hasStopped() {
		h.CloseIdleConnections()
	}
}

// closeIdle closes the idle connections of all backends that are known.
func (p *Proxy) closeIdle() {
	p.mu.Lock()
	var transports []*httpTransport
	for _, b := range p.known {
		if h := b.transport.Load(); h != nil {
			transports = append(transports, h)
		}
	}
	p.mu.Unlock()
	for _, h := range transports {
		h.CloseIdleConnections()
	}
}

// transportHost returns the host in the URL of a request to t. Only the transport sees it.
func (t *target) transportHost() string {
	if t.network == "unix" {
		return "unix"
	}
	return t.addr
}

// dial connects to the target, over TLS if its URL says so, by the time that the attempt has. If
// that fails, the error is a [*BackendError]. The attempt may be over: then the connection is for
// another one.
func (h *httpTransport) dial(ctx context.Context, _, _ string) (conn net.Conn, err error) {
	a, _ := ctx.Value(plainAttemptKey{}).(*plainAttempt)
	if a == nil {
		return nil, errors.New("wsproxy: a dial for no request")
	}
	defer h.p.catch(panicOfProxy, a.q.info.id, &err) // this goroutine is the transport's
	c := new(canceler)
	var deadline time.Time
	if by := a.connectBy.Load(); by != nil {
		deadline = *by
	}
	conn, _, err = h.p.dialTarget(ctx, c, &outboundRequest{target: h.target, requestID: a.q.info.id}, deadline)
	if isHookPanic(err) {
		return nil, err
	}
	op := "dial"
	if err == nil && conn == nil {
		err = errNoConn
	}
	ctx, cancel := c.dialContext(ctx, deadline)
	defer cancel()
	if err == nil && a.proxyHeader != nil {
		op = "handshake"
		err = writeProxyHeader(ctx, conn, a.proxyHeader)
	}
	if err == nil && h.target.isTLS {
		op = "handshake"
		conn, err = h.startTLS(ctx, conn)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || err != nil && errors.Is(contextErr(ctx), context.DeadlineExceeded) {
		err = context.DeadlineExceeded // rather than the connection's error
	}
	if err != nil {
		return nil, &BackendError{ID: h.target.config.ID, Op: op, Err: err}
	}
	return conn, nil
}

// startTLS returns a TLS connection over conn, which it closes if that fails.
func (h *httpTransport) startTLS(ctx context.Context, conn net.Conn) (net.Conn, error) {
	c := tls.Client(conn, h.p.tlsFor(h.target))
	if err := c.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS: %w", h.target.explain(err))
	}
	return c, nil
}

// copyBuffers has the buffers for copying responses. They are small, because a response that is
// streamed has one until it ends.
var copyBuffers = new(bufferPool)

type bufferPool struct{ pool sync.Pool }

const copyBufferSize = 16 << 10

func (p *bufferPool) Get() []byte {
	if b, _ := p.pool.Get().(*[copyBufferSize]byte); b != nil {
		return b[:]
	}
	return make([]byte, copyBufferSize)
}

func (p *bufferPool) Put(b []byte) { p.pool.Put((*[copyBufferSize]byte)(b)) }
