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
	i.unpack(t.texts)
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

// packTexts copies what a [TunnelInfo] tells in words. The request's own strings
// are parts of its whole header, which a tunnel would keep alive. The client's address
// is left out where it is the peer's.
func packTexts(r *http.Request, client netip.Addr, local string, a handshake.Agreement) packed {
	var behindProxies string
	if client != handshake.PeerAddr(r.RemoteAddr) {
		behindProxies = client.String()
	}
	texts := []string{behindProxies, r.RemoteAddr, local, r.Method, r.Host, r.URL.Path, r.URL.RawPath, r.URL.RawQuery, a.Subprotocol}
	return pack(append(texts, a.Extensions...))
}

// unpack fills in what was packed.
func (i *TunnelInfo) unpack(p packed) {
	var behindProxies, path, rawPath, rawQuery string
	for _, s := range []*string{&behindProxies, &i.RemoteAddr, &i.LocalAddr, &i.Method, &i.Host, &path, &rawPath, &rawQuery, &i.Subprotocol} {
		*s, p = p.next()
	}
	if i.ClientAddr = handshake.PeerAddr(i.RemoteAddr); behindProxies != "" {
		i.ClientAddr = netip.MustParseAddr(behindProxies)
	}
	i.URL = plainURL(path, rawPath, rawQuery)
	for len(p) > 0 {
		var s string
		s, p = p.next()
		i.Extensions = append(i.Extensions, s)
	}
}

// packed are strings in one: each after its length.
type packed string

func pack(texts []string) packed {
	b := make([]byte, 0, 512) // usually enough, and on the stack
	for _, s := range texts {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return packed(b)
}

// next returns the first string and what follows.
func (p packed) next() (string, packed) {
	var head [binary.MaxVarintLen64]byte
	copy(head[:], p)
	n, size := binary.Uvarint(head[:])
	end := size + int(n)
	return string(p[size:end]), p[end:]
}

// addrString returns a's text; a connection of somebody else's may have no address.
func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}
