package wsproxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/wsproxy/wsproxy/internal/frame"
	"github.com/wsproxy/wsproxy/internal/handshake"
)

// A HealthCheck probes the backends at an interval, whether clients use them or not. See
// [WithHealthCheck].
//
// A backend that has failed its check gets no new tunnels while another one is left, and keeps
// its open tunnels, unless DrainAfter is set. A backend that was not probed yet is a candidate.
// If its first probe fails, it has failed its check; afterwards Fall and Rise decide. A backend
// with a new address begins anew.
//
// The first probe of a backend begins within a second, or within the interval, if that is
// shorter. The next ones are spread over the interval. At most a quarter of the set is probed
// at once, or 16 backends, if that is more.
//
// A probe is no upgrade: it counts for no limit and as no tunnel, no hook but the Probe sees
// it, and it says nothing of the client's address to the backend.
type HealthCheck struct {
	// Probe tests a backend. Nil as its result means that the backend works; any other error is
	// the reason why it does not. It is called concurrently, at most once at a time for one
	// backend. A panic is logged, and is a failed probe. [TCPProbe], [HTTPProbe] and
	// [WebSocketProbe] return one. Default: that of TCPProbe.
	//
	// A Probe must return when its context ends. If it has not returned a second later, it has
	// failed, and fails again after each further interval; the backend is not probed again
	// before it returns, unless the backend's address changes.
	Probe func(context.Context, *Backend) error

	// Interval is the time from the beginning of a probe of a backend to that of the next one,
	// with a jitter of 10 %. If the probe takes longer, the next one follows at once. Zero
	// means 10 s, negative is an error.
	Interval time.Duration

	// Timeout bounds one probe: its context ends then, and it has failed. It may be longer
	// than Interval. Zero means 3 s, negative is an error.
	Timeout time.Duration

	// Fall is how many probes in a row must fail until a backend has failed its check. Zero
	// means 3, negative is an error.
	Fall int

	// Rise is how many probes in a row must succeed until a backend that has failed its check
	// works again. Zero means 2, negative is an error.
	Rise int

	// DrainAfter is for how long a backend must have failed its check until its tunnels are
	// closed: a process that is stuck, but keeps its connections, keeps no clients. The
	// clients get Close 1012, which asks them to come again (see [CauseBackendDown]), at the
	// pace of a zero [CloseOptions.Over]. It begins with the first probe that fails after that
	// time, and stops if the backend works again. Tunnels that open later stay. It does not
	// look at the other backends: a check that fails everywhere closes all tunnels. Zero means
	// never, negative is an error.
	DrainAfter time.Duration
}

// An HTTPProbeConfig configures an [HTTPProbe].
type HTTPProbeConfig struct {
	// Port is the port of the request, on the host of the backend's URL. Zero means the port of
	// the URL. Another port gets no header of [BackendConfig.ProxyProtocol]. A unix socket has no
	// other port. Negative and above 65535, each probe fails.
	Port int

	// Path is the path of the request, with a query if there is a "?" in it. As for upgrades, the
	// path of the backend's URL comes before it. Default: "/".
	Path string

	// Host is the Host field. Default: the host of the backend's URL, with the port if it is
	// not the scheme's default; "localhost" for a unix socket.
	Host string

	// Header has further fields. User-Agent is wsproxy-probe, unless Header has another one.
	Header http.Header

	// Status is the status code that the response must have, from 200 to 599. Zero means any
	// from 200 to 299. With any other number, and a negative one, each probe fails.
	Status int
}

// A WebSocketProbeConfig configures a [WebSocketProbe].
type WebSocketProbeConfig struct {
	// Path is the path of the request, with a query if there is a "?" in it. As for upgrades, the
	// path of the backend's URL comes before it. Default: "/".
	Path string

	// Host is the Host field. Default: the host of the backend's URL, with the port if it is
	// not the scheme's default; "localhost" for a unix socket.
	Host string

	// Header has further fields: an Origin, a subprotocol or credentials that the backend
	// asks for. User-Agent is wsproxy-probe, unless Header has another one.
	Header http.Header
}

// TCPProbe returns a Probe that connects to the backend and closes the connection. If the
// scheme of the backend's URL is https or wss, it performs the TLS handshake too: so it finds a
// certificate that is not valid, and the backend logs no handshake that was cut off. It finds
// a process that does not run. It does not find a process that accepts connections and does
// not answer.
//
// The probes connect as an upgrade does: see [WithDialer], [WithTLSConfig] and
// [BackendConfig.ServerName].
func TCPProbe() func(context.Context, *Backend) error {
	return func(ctx context.Context, b *Backend) error { return runProbe(ctx, b, (*probe).connect) }
}

// HTTPProbe returns a Probe that sends a GET request, and checks the status of the response.
// It follows no redirect. Of the body it reads 64 KiB at most, which must arrive in time, and
// does not look at them.
//
// A mistake in the config is the error of each probe.
func HTTPProbe(c HTTPProbeConfig) func(context.Context, *Backend) error {
	q := newProbeRequest(c.Path, c.Host, c.Header)
	if c.Port < 0 || c.Port > 65535 {
		q.bad("HTTPProbeConfig.Port %d; want 0 to 65535", c.Port)
	}
	if c.Status != 0 && (c.Status < 200 || c.Status > 599) {
		q.bad("HTTPProbeConfig.Status %d; want 200 to 599", c.Status)
	}
	return func(ctx context.Context, b *Backend) error {
		return runProbe(ctx, b, func(pr *probe) error { return pr.get(q, c.Port, c.Status) })
	}
}

// WebSocketProbe returns a Probe that opens a WebSocket as a client does, and verifies the
// backend's 101. It sends a ping and waits for its pong: so it finds a backend that opens
// WebSockets and does not read from them. Then it closes the WebSocket with 1000.
//
// Before the pong, the backend may send 1 MiB of other frames, but no Close frame. The backend
// sees a client that comes and goes: choose a path without consequences for others.
//
// A mistake in the config is the error of each probe.
func WebSocketProbe(c WebSocketProbeConfig) func(context.Context, *Backend) error {
	q := newProbeRequest(c.Path, c.Host, c.Header)
	return func(ctx context.Context, b *Backend) error {
		return runProbe(ctx, b, func(pr *probe) error { return pr.openAndPing(q) })
	}
}

// A probe is one call of a Probe of this file.
type probe struct {
	p        *Proxy
	target   *target
	ctx      context.Context // of the call
	deadline time.Time       // of ctx; zero: none
	canceler canceler        // canceled by ctx
}

// runProbe probes b by the steps. The error names b.
func runProbe(ctx context.Context, b *Backend, steps func(*probe) error) error {
	pr := &probe{p: b.p, target: b.target.Load(), ctx: ctx}
	pr.deadline, _ = ctx.Deadline()
	stop := context.AfterFunc(ctx, func() { pr.canceler.cancel(ctx.Err()) })
	defer stop()
	err := contextErr(ctx)
	if err == nil {
		err = steps(pr)
	}
	if err != nil {
		return fmt.Errorf("wsproxy: probe of backend %s: %w", b.id, err)
	}
	return nil
}

// connect performs the steps of [TCPProbe].
func (pr *probe) connect() error {
	conn, _, err := pr.p.dialTarget(pr.ctx, &pr.canceler, &outboundRequest{target: pr.target}, pr.deadline)
	if err == nil && conn == nil {
		err = errNoConn
	}
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	if header := pr.target.localHeader(); header != nil { // a server that expects it would log its absence
		err := pr.bound(conn, pr.deadline, func() error {
			_, err := conn.Write(header)
			return err
		})
		if err != nil {
			conn.Close()
			return fmt.Errorf("PROXY header: %w", err)
		}
	}
	if !pr.target.isTLS {
		conn.Close()
		return nil
	}
	c := tls.Client(conn, pr.p.tlsFor(pr.target))
	defer c.Close()
	if err := pr.bound(conn, pr.deadline, c.Handshake); err != nil { // not HandshakeContext, which closes the connection itself
		return fmt.Errorf("TLS: %w", pr.target.explain(err))
	}
	return nil
}

// get performs the steps of [HTTPProbe].
func (pr *probe) get(q *probeRequest, port, status int) error {
	if port != 0 {
		t, err := pr.target.withPort(port)
		if err != nil {
			return err
		}
		pr.target = t
	}
	req, err := q.forTarget(pr.target)
	if err != nil {
		return err
	}
	req.Close = true
	var head bytes.Buffer
	if err := req.Write(&head); err != nil {
		return err
	}
	step := "GET " + req.URL.EscapedPath() // without the query, which may have a token
	r, err := pr.roundTrip(step, &outboundRequest{target: pr.target, out: req, head: head.Bytes(), proxyHeader: pr.target.localHeader()})
	if err != nil {
		return err
	}
	defer r.close()
	got := r.resp.StatusCode
	switch {
	case status == 0 && (got < 200 || got > 299):
		return fmt.Errorf("%s: status %d; want 2xx%s", step, got, pr.target.hintFor(got))
	case status != 0 && got != status:
		return fmt.Errorf("%s: status %d; want %d%s", step, got, status, pr.target.hintFor(got))
	}
	err = pr.bound(r.conn, pr.deadline, func() error {
		_, err := io.CopyN(io.Discard, r.resp.Body, maxProbeBody)
		if err == io.EOF {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: body of the response: %w", step, err)
	}
	return nil
}

// openAndPing performs the steps of [WebSocketProbe].
func (pr *probe) openAndPing(q *probeRequest) error {
	req, err := q.forTarget(pr.target)
	if err != nil {
		return err
	}
	out := &outboundRequest{target: pr.target, out: req, offer: req.Header, proxyHeader: pr.target.localHeader()}
	var head headBuffer
	defer head.free()
	if err := out.encode(&head); err != nil {
		return err
	}
	r, err := pr.roundTrip("opening handshake", out)
	if err != nil {
		return err
	}
	defer r.close()
	if !r.isSwitch() {
		return fmt.Errorf("opening handshake: status %d; want 101%s", r.resp.StatusCode, pr.target.hintFor(r.resp.StatusCode))
	}
	if err := pr.bound(r.conn, pr.deadline, func() error { return ping(&r) }); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	pr.closeWebSocket(r.conn)
	return nil
}

// roundTrip sends out and returns the response. The error names the step, unless it is that of
// the dial.
func (pr *probe) roundTrip(step string, out *outboundRequest) (backendResponse, error) {
	r, err := pr.p.roundTrip(pr.ctx, &pr.canceler, out, pr.deadline)
	if e, ok := err.(*BackendError); ok {
		if e.Op == "dial" {
			step = e.Op
		}
		err = fmt.Errorf("%s: %w", step, e.Err)
	}
	return r, err
}

// bound calls f. Meanwhile reads and writes of conn are bounded by the deadline and by the
// probe's context.
func (pr *probe) bound(conn net.Conn, deadline time.Time, f func() error) error {
	if err := pr.canceler.bind(conn, deadline); err != nil {
		return err
	}
	err := f()
	if cause := pr.canceler.unbind(); cause != nil {
		return cause
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.DeadlineExceeded
	}
	return err
}

// closeWebSocket performs the closing handshake, for half of the time that is left, and 1 s at
// most. The probe has passed: a backend that does not answer is no fault any longer.
func (pr *probe) closeWebSocket(conn net.Conn) {
	now := time.Now()
	deadline := now.Add(probeCloseTimeout)
	if half := now.Add(pr.deadline.Sub(now) / 2); !pr.deadline.IsZero() && half.Before(deadline) {
		deadline = half
	}
	pr.bound(conn, deadline, func() error {
		err := writeControl(conn, frame.Close, frame.ClosePayload(frame.StatusNormal, ""))
		if err == nil {
			io.Copy(io.Discard, conn) // with unread input, the Close of conn is a reset
		}
		return err
	})
}

// ping sends a ping and reads until its pong.
func ping(r *backendResponse) error {
	payload := make([]byte, 8)
	rand.Read(payload) // never fails
	if err := writeControl(r.conn, frame.Ping, payload); err != nil {
		return err
	}
	rules := frame.Rules{Deflate: r.agreement.Deflate, Unknown: r.agreement.Unknown}
	return readPong(io.MultiReader(bytes.NewReader(r.early), r.conn), rules, payload)
}

// writeControl writes a control frame to a backend.
func writeControl(conn net.Conn, op frame.Opcode, payload []byte) error {
	var key [4]byte
	rand.Read(key[:]) // never fails
	_, err := conn.Write(frame.AppendControl(nil, op, payload, &key))
	return err
}

// readPong reads frames of a backend until a pong with that payload. Other frames are skipped,
// maxBeforePong bytes at most; a Close frame is an error.
func readPong(r io.Reader, rules frame.Rules, payload []byte) error {
	tracker := frame.Tracker{Rules: rules}
	buf := make([]byte, 4<<10) // more than the tracker needs at once
	held := 0                  // bytes in buf that the tracker has not consumed
	for total := 0; total < maxBeforePong; {
		n, readErr := r.Read(buf[held:])
		total += n
		rest, isFound, err := findPong(&tracker, buf[:held+n], payload)
		switch {
		case isFound || err != nil:
			return err
		case readErr == io.EOF:
			return io.ErrUnexpectedEOF
		case readErr != nil:
			return readErr
		}
		held = copy(buf, rest)
	}
	return fmt.Errorf("no pong in %d KiB of other frames", maxBeforePong>>10)
}

// findPong reports whether the pong is in p, which continues the stream. Rest has the
// bytes that the tracker has not consumed yet.
func findPong(tracker *frame.Tracker, p, payload []byte) (rest []byte, isFound bool, err error) {
	for len(p) > 0 {
		step, err := tracker.Next(p)
		if err != nil {
			return nil, false, fmt.Errorf("the backend broke the protocol: %w", err)
		}
		if step.Len == 0 {
			break
		}
		whole := p[:step.Len]
		p = p[step.Len:]
		switch step.Control {
		case frame.Pong:
			if _, size, _ := frame.ParseHeader(whole); bytes.Equal(whole[size:], payload) {
				return p, true, nil
			}
		case frame.Close:
			return nil, false, fmt.Errorf("the backend closed the WebSocket with %d before its pong", frame.CloseCode(whole))
		}
	}
	return p, false, nil
}

// A probeRequest is the request of a probe, for any backend. It does not change.
type probeRequest struct {
	url    *url.URL // path and query; the prefix of the backend's URL is missing
	host   string   // empty: that of the backend's URL
	header http.Header
	err    error // why there is no request: all mistakes of the config
}

// bad records a mistake of the config.
func (q *probeRequest) bad(format string, args ...any) {
	q.err = errors.Join(q.err, fmt.Errorf(format, args...))
}

// newProbeRequest returns the request of a config.
func newProbeRequest(path, host string, header http.Header) *probeRequest {
	q := &probeRequest{host: host, header: header.Clone()}
	if q.header == nil {
		q.header = make(http.Header)
	}
	if q.header.Get("User-Agent") == "" {
		q.header.Set("User-Agent", "wsproxy-probe")
	}
	if path == "" {
		path = "/"
	}
	var err error
	if q.url, err = url.ParseRequestURI(path); err != nil || path[0] != '/' {
		q.bad("the config's Path %q is not valid; want /healthz, for example", path)
	}
	if !httpguts.ValidHostHeader(host) {
		q.bad("the config's Host %q is not valid", host)
	}
	for name, values := range header {
		if !httpguts.ValidHeaderFieldName(name) {
			q.bad("the config's Header has the name %q, which is not valid", name)
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) { // not quoted: it may be a credential
				q.bad("the config's Header has a value for %s that is not valid", name)
			}
		}
	}
	return q
}

// forTarget returns the request for t.
func (q *probeRequest) forTarget(t *target) (*http.Request, error) {
	if q.err != nil {
		return nil, q.err
	}
	u, refusal := handshake.OutboundURL(q.url, t.prefix)
	if refusal != nil {
		return nil, fmt.Errorf("the config's Path %q: %s", q.url, refusal.Reason)
	}
	host := q.host
	if host == "" {
		host = t.hostField()
	}
	return &http.Request{
		Method: http.MethodGet, URL: u, Host: host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: q.header,
	}, nil
}

// hostField returns the Host field for a request to t that no client has sent.
func (t *target) hostField() string {
	if t.network == "unix" {
		return "localhost"
	}
	host, _, _ := strings.Cut(t.host, "%") // a zone is for this host alone
	defaultPort := uint16(80)
	if t.isTLS {
		defaultPort = 443
	}
	field := net.JoinHostPort(host, strconv.Itoa(int(t.port)))
	if t.port == defaultPort {
		field = strings.TrimSuffix(field, ":"+strconv.Itoa(int(t.port)))
	}
	return field
}

// withPort returns t with a port. On another one than that of t no PROXY header is expected: it
// is another listener, mostly one for health checks alone.
func (t *target) withPort(port int) (*target, error) {
	if t.network == "unix" {
		return nil, fmt.Errorf("HTTPProbeConfig.Port %d: a unix socket has no port", port)
	}
	u := *t
	u.config.ProxyProtocol = t.config.ProxyProtocol && u.port == uint16(port)
	u.port = uint16(port)
	u.addr = net.JoinHostPort(t.host, strconv.Itoa(port))
	return &u, nil
}
