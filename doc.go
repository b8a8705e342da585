// Package wsproxy balances WebSocket connections over several backends, inside a
// program that has an [http.Server] already.
//
//	package main
//
//	import (
//		"log"
//		"net/http"
//
//		"github.com/wsproxy/wsproxy"
//	)
//
//	func main() {
//		proxy, err := wsproxy.New(
//			wsproxy.WithBackends("http://127.0.0.1:8080", "http://127.0.0.1:8081"),
//		)
//		if err != nil {
//			log.Fatal(err)
//		}
//		http.Handle("/ws", proxy)
//		log.Fatal(http.ListenAndServe(":8000", nil))
//	}
//
// A [Proxy] is a handler. With [Proxy.Wrap] it is middleware: upgrades of a route
// are proxied, any other request goes to the handler that was there before. It
// knows where WebSocket frames begin and end, so that it can refuse what breaks
// the protocol, and say goodbye instead of cutting a connection. Its tunnels live
// in the program, and end with it: see the Limitations below first.
//
// # Limitations
//
//   - Every tunnel ends when the program ends that carries it. Where that is often,
//     a small program of its own that is deployed rarely carries the tunnels: see
//     docs/production.md.
//   - What else the program computes competes with the relaying: on cores that
//     are all busy, messages wait for their turn.
//   - A peer that does not read keeps data in the kernel's socket buffers. With
//     Linux defaults this can be several MB for one connection, which no figure of
//     the Go runtime shows. [Limits.SocketBuffer] and [Limits.StalledTunnels] bound it.
//   - A peer that vanishes without a word is found by TCP keepalive, after about
//     two and a half minutes with the defaults of package [net]; when data was
//     under way to it, by the kernel's limit of retransmissions, on Linux after
//     about 15 minutes.
//   - Upgrades are relayed over HTTP/1.1 only. A WebSocket over HTTP/2 (RFC 8441),
//     which [http.Server] does not offer by default, is refused with 501.
//
// # Choosing a backend
//
// A [Balancer] picks one of the backends that may be chosen: in the set, below
// [BackendConfig.MaxTunnels], not yet tried for this request. [LeastTunnels] is
// the default; [RoundRobin], [Random], [Hash] and [BoundedHash] are built in, and
// a [BalancerFunc] is a few lines. Backends share no memory: where two clients
// must meet on one backend, route them by what they have in common, for instance
// with [Hash] and [ByQuery], or have the backends talk to each other.
//
// If a backend cannot be reached, takes too long, answers with 502, 503 or 504, or
// with something that is no proper answer, another one is tried: at most three for
// one upgrade, all within [Timeouts.Handshake]. A backend whose last attempt failed
// is offered only when no other is left, for 1 s; that doubles up to 30 s while it
// cannot be reached or takes too long. Then one upgrade at a time is tried on it,
// until one succeeds. A new address is tried at once.
// [Proxy.SetBackends] changes the set at any time and closes no tunnel.
//
// # Handshake
//
// An upgrade is a GET over HTTP/1.1 whose Upgrade names websocket and nothing else
// and whose Connection names upgrade. It is checked against RFC 6455 before any
// backend is dialed; a request that fails is answered with a status and a body
// that names the check. Then the request goes to the backend with its Host, path,
// query, Origin, cookies, subprotocols and extensions. Hop-by-hop fields are
// removed, X-Forwarded-For, -Host and -Proto are set, and what an untrusted peer
// says in such fields is dropped: see [WithTrustedProxies]. [WithRewrite] has the
// last word.
//
// The backend's 101 is verified, its Sec-WebSocket-Accept included; none of a wrong
// one, or of what follows it, reaches the client. An answer that is not 101 is passed
// on to the client within 10 s, and both connections are closed after it. The header
// of an answer may have 64 KiB. [WithResponse] sees it, whatever its status. What
// either side sent early is passed on, the client's not before the 101.
//
// # Tunnels
//
// An open tunnel has no time limit and no idle timeout: the server's timeouts and
// the request's context end with the 101. Payloads are neither unmasked nor
// buffered as a whole. The first of the following events ends a tunnel; the client
// and the backend then get a Close frame with these codes, at a frame boundary:
//
//	Cause                           client            backend
//	CauseClosed       either side   the frame is passed on and answered
//	CauseLost         client        -                 1001
//	CauseLost         backend       1012              -
//	CauseProtocol     client        1002              1001
//	CauseProtocol     backend       1012              1002
//	CauseTooBig       client        1009              1001
//	CauseTooBig       backend       1011              1009
//	CauseShutdown     proxy         1001              1001
//	CauseApplication  proxy         Tunnel.Close's    1001
//	CausePanic        proxy         1011              1001
//	CauseStalled      client        -                 1001
//	CauseStalled      backend       1012              -
//
// A side that does not answer within 5 s is cut: within 1 s after CauseStalled, and
// during a shutdown when the context of [Proxy.Shutdown] ends. So is one that cannot
// be sent a Close frame because the other was lost inside a frame, or because it is
// stalled. [Proxy.Close] sends none at all. [Proxy.Tunnels] lists open tunnels;
// [Tunnel.Close] ends one.
//
// # Shutdown
//
// [http.Server.Shutdown] neither closes nor waits for connections that have been
// upgraded. [Proxy.Shutdown] does: it refuses new upgrades with 503 and
// Retry-After, sends Close 1001 to both sides of every tunnel, waits for their
// answers, and cuts what is left when its context ends. Run both side by side
// under one deadline, and wait for both before main returns, as in the example of
// [Proxy.Shutdown]. [Proxy.Close] cuts all tunnels at once.
//
// # Errors
//
// [New] and [Proxy.SetBackends] report every mistake, each as a [*ConfigError].
// The error handler ([WithErrorHandler]) answers for upgrades that fail before
// their 101: it gets a [*StatusError] for a request that was refused,
// [ErrNoBackend], [ErrLimit] or [ErrShutdown], or a join of one [*BackendError]
// for each attempt. The default one answers with 4xx, 502, 503 or 504 as fits, and
// tells the client nothing about backends. How a tunnel ended is in [TunnelEnd]:
// the side, the cause, the code, and what was wrong.
//
// # Observability
//
// [Trace] has hooks for each pick, each attempt, and each tunnel that opens or
// ends; [Proxy.Stats] has counters. The logger ([WithLogger], else [slog.Default])
// gets a line at Debug for each upgrade that is refused or fails and for each tunnel
// that opens or ends, one at Warn when a backend begins to fail, and one at Error for
// a fault of the program: a middleware that hides the connection, a hook that panics.
// A line and a hook name the tunnel by the same ID. Payloads, queries, cookies,
// Authorization and Sec-WebSocket-Protocol are never logged.
//
// # Security
//
// Browsers let any page open a WebSocket to any host, with cookies. By default
// Host and Origin reach the backend unchanged, for its own check; a backend that
// has none needs [WithOriginPatterns]. X-Forwarded-For is believed only from peers
// that [WithTrustedProxies] names. Only a verified 101 opens a tunnel, and
// only WebSocket frames pass through it, so that a faked upgrade does not smuggle
// requests to a backend. Messages have no size limit unless [Limits.MessageSize]
// sets one. Give the server a ReadHeaderTimeout: what precedes the handler is the
// server's.
//
// # Platforms
//
// All platforms of Go have the same behaviour and the same exported names. A
// tunnel takes two descriptors. What else it takes depends on who moves its bytes,
// which [TunnelInfo.Engine] tells:
//
//   - [EngineEventLoop]: one goroutine for every two of GOMAXPROCS, at least one,
//     moves the bytes of all tunnels. It takes over connections that are plain TCP or
//     unix sockets on both sides, on Linux. An idle tunnel takes less than 1 KB of the
//     heap. What the server keeps for the request adds about 12 KB, or nothing with
//     [WithDetached].
//   - [EnginePortable]: a goroutine for each direction, on every platform and over
//     any connection, of which one is the server's. On Unix and Windows no buffer is
//     held while a plain TCP or unix connection is idle, nor, on Unix, while one to
//     a backend over TLS is. A client's over TLS holds 512 bytes. One that a listener
//     or a dialer has wrapped holds 4 KiB, or 32 KiB after a large read. What
//     crypto/tls keeps for a connection comes on top.
//
// The build tag wsproxy_portable makes all tunnels portable ones.
//
// [Proxy.ServeHTTP] returns when the tunnel has ended, so that access logs and
// in-flight counters of middleware see its whole life; with [WithDetached] it
// returns at the upgrade.
package wsproxy
