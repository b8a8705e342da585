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

// TunnelInfo tells which tunnel it is. It is a snapshot of the request that
// opened it: nothing in it is shared with the server or a router. Header and URL
// must not be modified.
type TunnelInfo struct {
	ID          uint64 // unique within its Proxy, counted from 1
	Backend     *Backend
	Opened      time.Time
	Attempts    int        // backends tried, the one that answered included
	ClientAddr  netip.Addr // who the client is behind trusted proxies; invalid on a unix socket
	RemoteAddr  string     // the peer's address, as in [http.Request]
	LocalAddr   string     // the address of the server that accepted it
	Engine      Engine     // who moves its bytes; see TunnelEnd for who did
	Method      string
	Host        string
	URL         *url.URL
	Subprotocol string
	Extensions  []string // values of Sec-WebSocket-Extensions, as the backend answered

	// Header is a copy of the request's header. It is nil unless [Trace] has
	// Opened or Closed set: an idle tunnel does not carry what nobody reads.
	Header http.Header
}

// TunnelEnd tells how a tunnel ended. Its Engine is the one that the tunnel had in
// the end: one that was meant for the event loop has become portable if the system had
// no room for it.
type TunnelEnd struct {
	TunnelInfo
	Duration time.Duration

	Side  Side  // who ended it
	Cause Cause // why

	// Code is the status code of the Close frame that ended the tunnel: for
	// CauseClosed that of Side, 1005 if it had none; else the one that the client
	// was sent, or the backend where the client was sent none; 0 if neither was.
	Code int

	// Cut reports that a side that was still there was sent no Close frame, or did
	// not answer in time.
	Cut bool

	Err error // what was wrong with Side's stream; nil after a closing handshake

	ToBackend, ToClient Traffic
}

// A Side is who did something.
type Side uint8

const (
	SideProxy   Side = Side(relay.Proxy)
	SideClient  Side = Side(relay.Client)
	SideBackend Side = Side(relay.Backend)
)

// String returns "proxy", "client" or "backend".
func (s Side) String() string { return relay.Side(s).String() }

// A Cause is why a tunnel ended. What the two sides hear of it is in the package
// documentation.
type Cause uint8

const (
	CauseClosed      Cause = Cause(relay.CauseClosed)   // Side sent a Close frame
	CauseLost        Cause = Cause(relay.CauseLost)     // Side's stream ended, or was reset, without one
	CauseProtocol    Cause = Cause(relay.CauseProtocol) // Side broke the protocol of RFC 6455
	CauseTooBig      Cause = Cause(relay.CauseTooBig)   // Side sent a message larger than Limits.MessageSize
	CauseShutdown    Cause = Cause(relay.CauseShutdown) // Proxy.Shutdown or Proxy.Close
	CauseApplication Cause = Cause(relay.CauseCaller)   // Tunnel.Close
	CausePanic       Cause = Cause(relay.CausePanic)    // the Opened hook panicked
	CauseStalled     Cause = Cause(relay.CauseStalled)  // Side took nothing, and more tunnels than Limits.StalledTunnels were like that
)

// String returns a word or two.
func (c Cause) String() string {
	if c == CauseApplication {
		return "application"
	}
	return relay.Cause(c).String()
}

// An Engine is who moves the bytes of a tunnel.
type Engine uint8

const (
	// EnginePortable is a goroutine for each direction. It takes any connection.
	EnginePortable Engine = Engine(relay.Portable)

	// EngineEventLoop is a few goroutines for all tunnels, which costs less memory
	// and less CPU. A tunnel gets it on Linux where both of its connections are
	// plain: a [*net.TCPConn] or [*net.UnixConn] itself, neither TLS nor wrapped by
	// a listener or a dialer of the program's. The connection is taken over then:
	// what the program holds of it (from [http.Server.ConnState], say) is closed at
	// the upgrade and ends the tunnel no more, and what it has set with
	// [net.TCPConn.SetLinger] does not hold. A File that it has made of the connection
	// must not be made a blocking one after the upgrade, which [os.File.Fd] does.
	//
	// The build tag wsproxy_portable makes all tunnels portable ones.
	EngineEventLoop Engine = Engine(relay.EventLoop)
)

// String returns "portable" or "event loop".
func (e Engine) String() string { return relay.Engine(e).String() }

// Info returns what is known about the tunnel.
func (t *Tunnel) Info() TunnelInfo {
	i := TunnelInfo{
		ID: t.id, Backend: t.backend, Opened: t.p.start.Add(t.opened), Attempts: 1,
		Engine: Engine(t.relay.Engine()),
	}
	s := t.request.decode()
	s.addTo(&i)
	if t.more != nil {
		i.Attempts += t.more.retries
		i.Header = t.more.header
		if t.more.url != nil {
			i.URL = t.more.url
		}
	}
	return i
}

// extras are what most tunnels do not carry.
type extras struct {
	retries int // backends tried before the one that answered
	header  http.Header
	url     *url.URL // if it has more than a path and a query
}

// extras returns what a tunnel carries of the request only if it must.
func (u *upgrade) extras() *extras {
	e := extras{retries: len(u.tried) - 1}
	isPlain := *u.r.URL == *plainURL(u.r.URL.Path, u.r.URL.RawPath, u.r.URL.RawQuery)
	hasTrace := u.p.trace.Opened != nil || u.p.trace.Closed != nil
	if isPlain && !hasTrace && e.retries == 0 {
		return nil
	}
	if hasTrace {
		e.header = u.r.Header.Clone()
	}
	if !isPlain {
		target := *u.r.URL
		e.url = &target
	}
	return &e
}

// plainURL returns what the usual request asks for.
func plainURL(path, rawPath, rawQuery string) *url.URL {
	return &url.URL{Path: path, RawPath: rawPath, RawQuery: rawQuery}
}

// A snapshot is what a tunnel knows of the request that opened it, in strings.
type snapshot struct {
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

// newSnapshot returns the snapshot of r.
func newSnapshot(r *http.Request, client netip.Addr, local net.Addr, a handshake.Agreement) snapshot {
	s := snapshot{
		remoteAddr: r.RemoteAddr, method: r.Method, host: r.Host,
		path: r.URL.Path, rawPath: r.URL.RawPath, rawQuery: r.URL.RawQuery,
		subprotocol: a.Subprotocol, extensions: a.Extensions,
	}
	if client != handshake.PeerAddr(r.RemoteAddr) {
		s.forwarded = client.String()
	}
	if local != nil { // a listener's own connection may have none
		s.localAddr = local.String()
	}
	return s
}

// addTo sets the fields of i that the snapshot has.
func (s *snapshot) addTo(i *TunnelInfo) {
	if i.ClientAddr = handshake.PeerAddr(s.remoteAddr); s.forwarded != "" {
		i.ClientAddr = netip.MustParseAddr(s.forwarded)
	}
	i.RemoteAddr, i.LocalAddr = s.remoteAddr, s.localAddr
	i.Method, i.Host, i.URL = s.method, s.host, plainURL(s.path, s.rawPath, s.rawQuery)
	i.Subprotocol, i.Extensions = s.subprotocol, s.extensions
}

// fields are the strings of s in the order in which encode and decode go through them,
// without the extensions, which come after them.
func (s *snapshot) fields() [9]*string {
	return [...]*string{
		&s.forwarded, &s.remoteAddr, &s.localAddr, &s.method, &s.host,
		&s.path, &s.rawPath, &s.rawQuery, &s.subprotocol,
	}
}

// An encodedSnapshot is a snapshot in one string: each of its strings after its length.
// It is one allocation of the size that is needed, and does not keep the header of the
// request alive, which the request's own strings are parts of.
type encodedSnapshot string

func (s *snapshot) encode() encodedSnapshot {
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

func (e encodedSnapshot) decode() snapshot {
	var s snapshot
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
