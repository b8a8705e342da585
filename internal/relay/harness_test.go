package relay

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/internal/netconn"
	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

// An engine is a way to run a relay. The whole suite runs over each of engines.
type engine struct {
	name string

	// open makes a tunnel, which does nothing before Run. It ignores the
	// connections in c.
	open func(client, backend end, c Config) tunnel

	// needsSockets says that it takes no connections but TCP and unix sockets.
	needsSockets bool
}

// A tunnel is what an engine makes; see [Relay].
type tunnel interface {
	Run() End
	Close(Cause, int, string) (hasBegun bool)
	Abort(Cause)
	Counts() (toBackend, toClient Counts)
}

// An end is one connection of a tunnel, with what was read from it before.
type end struct {
	conn  net.Conn
	early []byte
}

var engines = []engine{
	{name: "portable", open: func(client, backend end, c Config) tunnel {
		e := NewEngine(Limits{})
		return &ownTunnel{e.New(between(client, backend, c)), e}
	}},
}

// An ownTunnel has an engine of its own, which ends with it.
type ownTunnel struct {
	*Relay
	engine *Engine
}

func (t *ownTunnel) Run() End {
	defer t.engine.Close()
	return t.Relay.Run()
}

// between returns c with client and backend as its connections.
func between(client, backend end, c Config) Config {
	c.Client = netconn.New(client.conn, client.early)
	c.Backend = netconn.New(backend.conn, backend.early)
	return c
}

func forEachEngine(t *testing.T, test func(t *testing.T, e engine)) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) { test(t, e) })
	}
}

// forEachEngineAtOnce is forEachEngine for a test that waits more than it works.
func forEachEngineAtOnce(t *testing.T, test func(t *testing.T, e engine)) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, e engine) {
		t.Parallel()
		test(t, e)
	})
}

// inBubble runs test over each engine that can run in memory, in a bubble, whose
// time is its own.
func inBubble(t *testing.T, test func(t *testing.T, e engine)) {
	wstest.Certificate() // made outside: it takes sockets
	forEachEngine(t, func(t *testing.T, e engine) {
		if e.needsSockets {
			t.Skip("needs sockets")
		}
		synctest.Test(t, func(t *testing.T) { test(t, e) })
	})
}

// A network connects a tunnel with its two peers.
type network struct {
	name            string
	client, backend func(testing.TB) (near, far net.Conn)
	isSockets       bool
	cannotReset     bool // an end that goes away is an end of stream, always
	cannotHalfClose bool // our stream to a peer can only be ended by closing
}

var networks = []network{
	{name: "TCP", client: tcpPair, backend: tcpPair, isSockets: true},
	{name: "unix", client: unixPair, backend: unixPair, isSockets: true, cannotReset: true},
	{name: "TLS client", client: tlsPair, backend: tcpPair},
	{name: "TLS backend", client: tcpPair, backend: dialedTLSPair},
	{name: "TLS over wrappers", client: wrappedTLSPair, backend: wrappedTLSPair},
	{name: "wrapped", client: wrappedPair, backend: wrappedPair, cannotHalfClose: true},
	memory(64 << 10),
}

// memory is a network in memory; each direction of a connection holds
// bufferBytes.
func memory(bufferBytes int) network {
	pair := func(t testing.TB) (near, far net.Conn) { return memnet.Pipe(bufferBytes) }
	return network{name: "memory", client: pair, backend: pair}
}

func forEachNetwork(t *testing.T, test func(t *testing.T, e engine, n network)) {
	forEachNetworkOf(t, networks, test)
}

func forEachNetworkOf(t *testing.T, networks []network, test func(t *testing.T, e engine, n network)) {
	forEachEngine(t, func(t *testing.T, e engine) {
		for _, n := range networks {
			if n.isSockets || !e.needsSockets {
				t.Run(n.name, func(t *testing.T) { test(t, e, n) })
			}
		}
	})
}

// forEachNetworkAtOnce is forEachNetwork for a test that waits, or fills buffers. It does
// without networks that stall as one of the others does.
func forEachNetworkAtOnce(t *testing.T, test func(t *testing.T, e engine, n network)) {
	t.Parallel()
	few := []network{narrow(networks[0]), narrow(networks[1]), networks[4], networks[6]}
	forEachNetworkOf(t, few, func(t *testing.T, e engine, n network) {
		t.Parallel()
		test(t, e, n)
	})
}

func tcpPair(t testing.TB) (near, far net.Conn) {
	return socketPair(t, "tcp", "127.0.0.1:0")
}

func unixPair(t testing.TB) (near, far net.Conn) {
	dir, err := os.MkdirTemp("", "") // t.TempDir is too long: a socket's name has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	return socketPair(t, "unix", filepath.Join(dir, "socket"))
}

// socketPair dials the far end, as a proxy does to a backend.
func socketPair(t testing.TB, network, addr string) (near, far net.Conn) {
	t.Helper()
	return wstest.SocketPair(t, network, addr)
}

// wrappedPair hides all of a connection but what [net.Conn] has, as a listener
// does that counts its connections.
func wrappedPair(t testing.TB) (near, far net.Conn) {
	near, far = tcpPair(t)
	return &wrapper{Conn: near}, far
}

type wrapper struct {
	net.Conn
	closes atomic.Int64
}

func (w *wrapper) Close() error {
	w.closes.Add(1)
	return w.Conn.Close()
}

func (w *wrapper) NumCloses() int { return int(w.closes.Load()) }

func tlsPair(t testing.TB) (near, far net.Conn) {
	near, far = tcpPair(t)
	return wstest.ShakeHands(t, near, far)
}

func wrappedTLSPair(t testing.TB) (near, far net.Conn) {
	near, far = wrappedPair(t)
	return wstest.ShakeHands(t, near, far)
}

// dialedTLSPair is TLS as a proxy speaks it to a backend.
func dialedTLSPair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	near, far = tcpPair(t)
	client := netconn.TLSClient(near, &tls.Config{InsecureSkipVerify: true})
	server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{wstest.Certificate()}})
	errc := make(chan error, 1)
	go func() { errc <- server.Handshake() }() // ends with the handshake
	if err := errors.Join(client.Handshake(), <-errc); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// A scene is a tunnel and the two peers that it connects.
type scene struct {
	tunnel
	t                       *testing.T
	client, backend         *wstest.Peer
	nearClient, nearBackend net.Conn
	cannotHalfClose         bool // see network

	isRunning bool
	done      chan struct{} // closed when Run has returned
	end       End           // valid then
}

// A setup is what a scene begins with.
type setup struct {
	Config
	fromClient, fromBackend []byte // read already
}

// start returns a scene whose tunnel runs.
func (e engine) start(t *testing.T, n network, s setup) *scene {
	t.Helper()
	scene := e.prepare(t, n, s)
	scene.begin()
	return scene
}

// prepare returns a scene whose tunnel does not run yet, but ends with the test.
func (e engine) prepare(t *testing.T, n network, s setup) *scene {
	t.Helper()
	nearClient, farClient := n.client(t)
	nearBackend, farBackend := n.backend(t)
	scene := &scene{
		tunnel: e.open(end{nearClient, s.fromClient}, end{nearBackend, s.fromBackend}, s.Config),
		t:      t,
		client: wstest.NewClient(t, farClient), backend: wstest.NewBackend(t, farBackend),
		nearClient: nearClient, nearBackend: nearBackend, cannotHalfClose: n.cannotHalfClose,
		done: make(chan struct{}),
	}
	t.Cleanup(func() {
		if !scene.isRunning {
			scene.begin()
		}
		scene.Abort(CauseShutdown)
		<-scene.done
	})
	return scene
}

// begin runs the tunnel.
func (s *scene) begin() {
	s.isRunning = true
	go func() {
		s.end = s.Run()
		close(s.done)
	}()
}

// peers returns who sends and who receives in the direction from side.
func (s *scene) peers(from Side) (src, dst *wstest.Peer) {
	if from == Client {
		return s.client, s.backend
	}
	return s.backend, s.client
}

// wantEnd waits until the tunnel has ended, looks whether both connections were
// closed once, and compares all of the End but its error, which it returns.
func (s *scene) wantEnd(want End) error {
	s.t.Helper()
	got := s.wait()
	err := got.Err
	got.Err = nil
	if got != want {
		s.t.Errorf("ended with %+v (%v); want %+v", got, err, want)
	}
	return err
}

// wait waits until the tunnel has ended, and looks whether both connections were
// closed once.
func (s *scene) wait() End {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(30 * time.Second): // a stuck leg, and a silent one behind it, take 20
		s.t.Fatal("the tunnel has not ended")
	}
	if own, ok := s.tunnel.(*ownTunnel); ok {
		if x := own.engine.Stats(); x.EventLoopTunnels != 0 || x.Stalled != 0 || x.Buffered != 0 {
			s.t.Errorf("the engine still has %d tunnels on loops, %d stalled, and %d bytes buffered; want none", x.EventLoopTunnels, x.Stalled, x.Buffered)
		}
	}
	for side, conn := range map[Side]net.Conn{Client: s.nearClient, Backend: s.nearBackend} {
		if n, ok := numCloses(conn); ok && n != 1 {
			s.t.Errorf("connection with the %v was closed %d times; want 1", side, n)
		}
		if err := conn.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			s.t.Errorf("connection with the %v is open: %v", side, err)
		}
	}
	return s.end
}

// numCloses returns how often c was closed, if that can be known.
func numCloses(c net.Conn) (n int, ok bool) {
	if c, isTLS := c.(*tls.Conn); isTLS {
		return numCloses(c.NetConn())
	}
	if c, counts := c.(interface{ NumCloses() int }); counts {
		return c.NumCloses(), true
	}
	return 0, false
}

// wantRunning looks whether the tunnel still runs.
func (s *scene) wantRunning() {
	s.t.Helper()
	select {
	case <-s.done:
		s.t.Fatalf("ended with %+v; want it to run", s.end)
	default:
	}
}

// hangUp ends both connections as peers do that have exchanged Close frames. It wants
// nothing to come before the ends of their streams.
func (s *scene) hangUp() {
	s.t.Helper()
	s.backend.CloseWrite()
	s.wantEOFs()
}

// hangUpLate is hangUp of a client that may have sent its Close frame, or what was before it, too
// late.
func (s *scene) hangUpLate() {
	s.t.Helper()
	s.backend.CloseWrite()
	s.endClient()
	s.client.WantEOFOrReset()
	s.client.Close()
	s.backend.WantEOF()
	s.backend.Close()
}

// endShutdown lets both peers answer the Close frames of a shutdown that has begun.
func (s *scene) endShutdown() {
	s.t.Helper()
	s.backend.WantClose(1001)
	s.backend.Send(wstest.Close(1001, ""))
	s.client.WantClose(1001)
	s.client.Send(wstest.Close(1001, ""))
	s.hangUp()
	s.wantEnd(End{Side: Proxy, Cause: CauseShutdown, Code: 1001})
}

// wantEOFs is hangUp after the backend has ended its stream.
func (s *scene) wantEOFs() {
	s.t.Helper()
	s.endClient()
	s.client.WantEOF()
	s.client.Close()
	s.backend.WantEOF()
	s.backend.Close()
}

// endClient ends the client's stream, if the proxy waits for that: it cannot end its own alone.
func (s *scene) endClient() {
	if s.cannotHalfClose {
		s.client.Conn().(interface{ CloseWrite() error }).CloseWrite()
	}
}

// wantShutdown wants both sides to get the Close frame of a shutdown, the client after
// the backend's answer. It answers, and wants the end.
func (s *scene) wantShutdown() {
	s.t.Helper()
	s.backend.WantClose(1001)
	s.answerShutdown()
}

// answerShutdown is wantShutdown after the backend has got its Close frame.
//
// On a machine with much to do an answer may come too late.
func (s *scene) answerShutdown() {
	s.t.Helper()
	s.backend.WriteFrames(wstest.Close(1001, ""))
	s.client.WantClose(1001)
	s.client.WriteFrames(wstest.Close(1001, ""))
	s.hangUpLate()
	s.wantEnd(End{Side: Proxy, Cause: CauseShutdown, Code: 1001})
}

// masked returns frames as a client sends them, for scripts that send bytes.
func masked(frames ...wstest.Frame) []byte {
	var b []byte
	for _, f := range frames {
		b = wstest.AppendFrame(b, f, &[4]byte{0x11, 0x22, 0x33, 0x44})
	}
	return b
}

// unmasked returns frames as a backend sends them.
func unmasked(frames ...wstest.Frame) []byte {
	var b []byte
	for _, f := range frames {
		b = wstest.AppendFrame(b, f, nil)
	}
	return b
}

// wire returns frames as side sends them.
func wire(side Side, frames ...wstest.Frame) []byte {
	if side == Client {
		return masked(frames...)
	}
	return unmasked(frames...)
}

// reset ends a peer's connection with a reset.
func reset(t *testing.T, p *wstest.Peer) {
	t.Helper()
	c, ok := p.Conn().(*tls.Conn)
	if !ok {
		p.Reset()
		return
	}
	tcp := c.NetConn().(*net.TCPConn)
	tcp.SetLinger(0)
	tcp.Close()
}
