package wsproxy

import (
	"encoding/binary"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/wsproxy/wsproxy/internal/handshake"
	"github.com/wsproxy/wsproxy/internal/relay"
)

// A TunnelInfo describes a tunnel by the request that opened it. It shares nothing with
// the server or a router. URL must not be modified.
type TunnelInfo struct {
	ID      uint64 // unique within its Proxy, counted from 1
	Backend *Backend

	// RequestID is the ID of the request: its X-Request-Id, if it came from one of
	// [WithTrustedProxies] with a single one of 1 to 128 visible ASCII characters, else
	// 128 random bits in hexadecimal. The backend gets it as X-Request-Id, and so does a
	// client that gets no tunnel. Every line of the log that is about one request or
	// tunnel has it.
	RequestID string

	Opened      time.Time
	Attempts    int        // including the one that succeeded; with Limits.Queue one backend may count several times
	ClientAddr  netip.Addr // the client's behind trusted proxies; invalid on a unix socket
	RemoteAddr  string     // the peer's address, as in [http.Request]
	LocalAddr   string     // the address of the server that accepted it
	Engine      Engine     // what relays its bytes; TunnelEnd has what relayed them in the end
	Method      string     // GET, or CONNECT over HTTP/2 (RFC 8441)
	Host        string
	URL         *url.URL
	Subprotocol string
	Extensions  []string // values of Sec-WebSocket-Extensions, as the backend answered

	// Value is what the hook of [WithAdmit] returned, such as the user. Nil without it.
	Value any
}

// A TunnelEnd describes how a tunnel ended. Its Engine is the last one of the tunnel: a
// tunnel moves from the event loop to the portable engine if the system has no descriptor
// for it.
type TunnelEnd struct {
	TunnelInfo
	Duration time.Duration

	Side  Side  // the side that ended it
	Cause Cause // the reason

	// Code is the status code of the Close frame that ended the tunnel: for
	// CauseClosed that of Side, or 1005 if it had none; otherwise the code that the
	// client was sent, or the backend if the client was sent none; 0 if neither was
	// sent one.
	Code int

	// Cut reports that bytes were dropped, that a Close frame was not written, or that a
	// limit of time closed a side: it made no progress, or [Timeouts.Close] had passed.
	// Bytes count as dropped if they waited for a side that had not left, or if a part of
	// their frame had been passed already. What comes for a side after its Close frame does
	// not count. [Proxy.Close], the end of the context of [Proxy.Shutdown],
	// [Timeouts.WriteStall] and [Limits.StalledTunnels] cut the tunnels that they end, and so
	// does a peer that answers neither a ping nor the Close frame that follows. A side that
	// does not answer the Close frame of a shutdown, of a drain, of [Tunnel.Close] or of a
	// violation is no cut.
	Cut bool

	Err error // the error of Side's stream; nil after a closing handshake

	ToBackend, ToClient Traffic
}

// A Side is one of the parties of a tunnel.
type Side uint8

const (
	SideProxy   Side = Side(relay.Proxy)
	SideClient  Side = Side(relay.Client)
	SideBackend Side = Side(relay.Backend)
)

// String returns "proxy", "client" or "backend".
func (s Side) String() string { return relay.Side(s).String() }

// A Cause is the reason why a tunnel ended. The codes that the two sides are sent are in
// the package documentation.
type Cause uint8

const (
	CauseClosed       Cause = Cause(relay.CauseClosed)       // Side sent a Close frame
	CauseLost         Cause = Cause(relay.CauseLost)         // Side's stream ended, or was reset, without one
	CauseProtocol     Cause = Cause(relay.CauseProtocol)     // Side broke the protocol of RFC 6455
	CauseTooBig       Cause = Cause(relay.CauseTooBig)       // Side sent a message larger than Limits.MessageSize
	CauseShutdown     Cause = Cause(relay.CauseShutdown)     // Proxy.Shutdown or Proxy.Close
	CauseApplication  Cause = Cause(relay.CauseApplication)  // Tunnel.Close
	CausePanic        Cause = Cause(relay.CausePanic)        // the Opened hook panicked
	CauseStalled      Cause = Cause(relay.CauseStalled)      // Side accepted no bytes for Timeouts.WriteStall, or more tunnels than Limits.StalledTunnels were stalled; Err says for how long
	CauseControlFlood Cause = Cause(relay.CauseControlFlood) // Side, the client, sent more control frames than 100 at once and 100 a second
	CauseIdle         Cause = Cause(relay.CauseIdle)         // Timeouts.Idle
	CauseLifetime     Cause = Cause(relay.CauseLifetime)     // Timeouts.Lifetime
	CauseDrain        Cause = Cause(relay.CauseDrain)        // Proxy.Drain or BackendConfig.Drain
	CauseRebalance    Cause = Cause(relay.CauseRebalance)    // Proxy.Rebalance
	CauseBackendDown  Cause = Cause(relay.CauseBackendDown)  // HealthCheck.DrainAfter
	CausePingTimeout  Cause = Cause(relay.CausePingTimeout)  // Side did not answer a ping: see WithPing
)

// String returns one or two words.
func (c Cause) String() string {
	return relay.Cause(c).String()
}

// An Engine is the way in which the bytes of a tunnel are relayed.
type Engine uint8

const (
	// EnginePortable is a goroutine for each direction. It works over any connection.
	EnginePortable Engine = Engine(relay.Portable)

	// EngineEventLoop is a few goroutines for all tunnels. It needs less memory and
	// less CPU. A tunnel gets it on Linux if both of its connections are plain: each is
	// a [*net.TCPConn] or [*net.UnixConn] itself, neither TLS nor wrapped by a listener
	// or a dialer of the program.
	//
	// The event loop takes over the connection's descriptor. A reference of the program
	// to the connection (from [http.Server.ConnState], for instance) is then closed and
	// cannot end the tunnel, and the effect of [net.TCPConn.SetLinger] is lost. A File
	// that the program has made of the connection must not be made blocking after the
	// upgrade, which [os.File.Fd] does.
	//
	// The build tag wsproxy_portable gives all tunnels the portable engine.
	EngineEventLoop Engine = Engine(relay.EventLoop)
)

// String returns "portable" or "event loop".
func (e Engine) String() string { return relay.EngineKind(e).String() }

// Info returns a description of the tunnel.
func (t *Tunnel) Info() TunnelInfo {
	i := TunnelInfo{
		ID: t.id, Backend: t.backend, Opened: t.p.start.Add(t.opened), Attempts: 1,
		Engine: Engine(t.relay.Engine()),
	}
	s := t.request.decode()
	s.addTo(&i)
	if t.more != nil {
		i.Attempts += t.more.retries
		i.Value = t.more.value
		if t.more.url != nil {
			i.URL = t.more.url
		}
	}
	return i
}

// extras are fields that most tunnels do not need.
type extras struct {
	retries int      // backends tried before the one that answered
	value   any      // of the Admit hook
	url     *url.URL // if it has more than a path and a query

	clientKey clientKey // for Limits.PerClient
}

// extras returns the fields that the tunnel needs besides its snapshot, or nil.
func (u *upgrade) extras() *extras {
	e := extras{retries: u.numAttempts - 1, value: u.info.value}
	if u.p.admission.perClient != nil {
		e.clientKey = u.clientKey
	}
	isPlain := *u.r.URL == *plainURL(u.r.URL.Path, u.r.URL.RawPath, u.r.URL.RawQuery)
	if isPlain && e.value == nil && e.retries == 0 && e.clientKey == 0 {
		return nil
	}
	if !isPlain {
		target := *u.r.URL
		e.url = &target
	}
	return &e
}

// plainURL returns the URL of a request that has only a path and a query in it.
func plainURL(path, rawPath, rawQuery string) *url.URL {
	return &url.URL{Path: path, RawPath: rawPath, RawQuery: rawQuery}
}

// A requestSnapshot has the parts of a request that its tunnel keeps, as strings.
type requestSnapshot struct {
	id          string
	forwarded   string // the client's address behind proxies; empty where it is the peer's
	remoteAddr  string
	localAddr   string
	method      string
	host        string
	path        string
	rawPath     string
	rawQuery    string
	subprotocol string
	extensions  []string
}

// newRequestSnapshot returns the snapshot of r.
func newRequestSnapshot(r *http.Request, info *requestInfo, local net.Addr, a handshake.Agreement) requestSnapshot {
	s := requestSnapshot{
		id: info.id, remoteAddr: r.RemoteAddr, method: r.Method, host: r.Host,
		path: r.URL.Path, rawPath: r.URL.RawPath, rawQuery: r.URL.RawQuery,
		subprotocol: a.Subprotocol, extensions: a.Extensions,
	}
	if r.ProtoMajor == 2 {
		s.method = http.MethodConnect // handlers and hooks see a GET: see connectWriter
	}
	if client := info.clientAddr; client != handshake.PeerAddr(r.RemoteAddr) {
		s.forwarded = client.String()
	}
	if local != nil { // a listener's own connection may have none
		s.localAddr = local.String()
	}
	return s
}

// addTo sets the fields of i that the snapshot has.
func (s *requestSnapshot) addTo(i *TunnelInfo) {
	i.ClientAddr = s.clientAddr()
	i.RequestID, i.RemoteAddr, i.LocalAddr = s.id, s.remoteAddr, s.localAddr
	i.Method, i.Host, i.URL = s.method, s.host, plainURL(s.path, s.rawPath, s.rawQuery)
	i.Subprotocol, i.Extensions = s.subprotocol, s.extensions
}

// clientAddr returns the address of the client behind trusted proxies.
func (s *requestSnapshot) clientAddr() netip.Addr {
	if s.forwarded != "" {
		return netip.MustParseAddr(s.forwarded)
	}
	return handshake.PeerAddr(s.remoteAddr)
}

// fields are the strings of s in the order in which encode and decode go through them,
// without the extensions, which come after them.
func (s *requestSnapshot) fields() [10]*string {
	return [...]*string{
		&s.id, &s.forwarded, &s.remoteAddr, &s.localAddr, &s.method, &s.host,
		&s.path, &s.rawPath, &s.rawQuery, &s.subprotocol,
	}
}

// An encodedSnapshot is a snapshot in one string: each of its strings after its length.
// It is one allocation of the size that is needed. The request's own strings would keep
// the memory of its whole header alive.
type encodedSnapshot string

func (s *requestSnapshot) encode() encodedSnapshot {
	b := make([]byte, 0, 512) // usually enough, and on the stack
	appendField := func(f string) {
		b = binary.AppendUvarint(b, uint64(len(f)))
		b = append(b, f...)
	}
	for _, f := range s.fields() {
		appendField(*f)
	}
	for _, e := range s.extensions {
		appendField(e)
	}
	return encodedSnapshot(b)
}

func (e encodedSnapshot) decode() requestSnapshot {
	var s requestSnapshot
	next := func() string {
		var length [binary.MaxVarintLen64]byte
		copy(length[:], e)
		n, size := binary.Uvarint(length[:])
		end := size + int(n)
		f := e[size:end]
		e = e[end:]
		return string(f)
	}
	for _, f := range s.fields() {
		*f = next()
	}
	for len(e) > 0 {
		s.extensions = append(s.extensions, next())
	}
	return s
}
