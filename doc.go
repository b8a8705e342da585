// Package wsproxy balances WebSocket connections over several backends, inside a
// program that already has an [http.Server].
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
//		// Front lets middleware see the 101 of a tunnel.
//		log.Fatal(http.ListenAndServe(":8000", wsproxy.Front(http.DefaultServeMux)))
//	}
//
// A [Proxy] is a handler. With [Proxy.Wrap] it is middleware: upgrades of a route
// are proxied, and any other request goes to the handler that was there before. It
// knows where WebSocket frames begin and end. So it can refuse frames that break the
// protocol, and close a tunnel with a Close frame instead of cutting it. The tunnels
// are part of the program and end with it: read the Limitations below first.
//
// # Limitations
//
//   - All tunnels end when your program exits. If you deploy it often, run the proxy
//     in a small program of its own that you deploy rarely: see docs/production.md.
//   - The relaying competes with the other work of the program: if all cores are busy,
//     messages are delayed.
//   - A peer that does not read keeps data in the kernel's socket buffers. With
//     Linux defaults this can be several MB for one connection, which no figure of
//     the Go runtime shows. [Limits.SocketBuffer] and [Limits.StalledTunnels] bound it, and
//     [Timeouts] for how long.
//   - A peer that disappears without closing its connection is detected by TCP
//     keepalive, on Linux within about two minutes, and so is one to which data was under
//     way: see [Timeouts]. On other systems the kernel's limit of retransmissions detects the
//     latter, unless so much waits for it that the proxy holds a part.
//   - A WebSocket over HTTP/2 needs a setting of the program: see the section HTTP/2.
//     Backends are always asked over HTTP/1.1.
//
// # Middleware
//
// [Front] is mounted once, around all handlers and middleware of a server. With it,
// middleware that records the status of a response sees 101 for a tunnel. Without it,
// middleware sees no status, because the proxy writes the 101 to the connection. In both
// cases the ResponseWriter of a middleware must have a Hijack or an Unwrap method: the
// incorrect example of [Proxy.Wrap] has neither.
//
// # HTTP/2
//
// By default [http.Server] does not accept a WebSocket over HTTP/2 (RFC 8441), and a browser
// that is connected over HTTP/2 opens its WebSockets over another connection. With
// GODEBUG=http2xconnect=1 in the environment, or with
//
//	import _ "github.com/wsproxy/wsproxy/http2ws"
//
// it does, and browsers use it: a WebSocket is one more stream of the connection that the page
// came over. This is experimental in Go. It holds for the whole process, and its child processes
// inherit it. WebSocket handlers that do not know it cannot serve those clients, so that all
// WebSocket routes of a host must be those of a [Proxy].
//
// The request is an extended CONNECT, and [Proxy.ServeHTTP] and [Proxy.Wrap] serve it as an
// upgrade. Mount [Front], so that it is a GET for the router, and one without a body: otherwise a
// middleware that limits bodies, such as [http.MaxBytesHandler], counts the frames of the client
// and ends the tunnel. Hooks get a GET in any case, whose ProtoMajor is 2; [TunnelInfo.Method] is
// CONNECT. It has no Sec-WebSocket-Key; the backend gets an ordinary upgrade over HTTP/1.1. The
// client gets a 200, of which middleware is told by WriteHeader. A backend's 2xx, which would
// open a WebSocket, becomes 502. No connection is closed because of a refusal.
//
// Such a tunnel differs in this from one over HTTP/1.1:
//
//   - It is relayed by [EnginePortable], [WithDetached] has no effect, and an idle one takes
//     22 KB, with a share of its connection.
//   - The ResponseWriter of a middleware must have Unwrap, or Flush, SetReadDeadline and
//     SetWriteDeadline.
//   - The client's END_STREAM is the end of its stream, and RST_STREAM a reset. The stream to the
//     client ends when ServeHTTP returns, and so cannot be ended while the client is read on. A
//     tunnel that is cut is reset: ServeHTTP panics with [http.ErrAbortHandler], or the handler
//     of [Front] does.
//   - [Limits.SocketBuffer] does not apply to the client, nor TCP's part of [Timeouts.WriteStall].
//     A connection that takes nothing at all is the server's to close: see
//     [http.HTTP2Config.WriteByteTimeout] and [http.HTTP2Config.SendPingTimeout].
//   - What a client has sent and its backend does not take stays in the server's buffer, by
//     default up to 1 MiB for a stream, and 1 MiB for all streams of a connection: then all
//     uploads of that browser wait. Set [http.HTTP2Config.MaxReceiveBufferPerConnection] to more,
//     or MaxReceiveBufferPerStream to less.
//   - [http.Server.Shutdown] waits for its stream, so that [Proxy.Shutdown] must be called at the
//     same time and not after it.
//
// # Choosing a backend
//
// A [Balancer] picks one of the candidates: the best backends of the set, by their flags and
// [BackendConfig.Priority], that are below [BackendConfig.MaxTunnels] and were not yet tried for
// this request. [LeastTunnels] is the default; [RoundRobin], [Random], [Hash] and [BoundedHash]
// are built in, and a [BalancerFunc] is a few lines. Backends share no memory: if two clients
// must be connected to the same backend, route them by a common value, for instance with [Hash]
// and [ByQuery], or connect the backends to each other.
//
// If a backend cannot be reached, takes too long, answers with 502, 503 or 504, or sends a
// malformed response, another one is tried: at most three for one upgrade before it waits,
// all within [Timeouts.Handshake]. Second and third attempts have a budget: in 10 s a fifth
// of the upgrades of these 10 s, and 100 more. If no other backend is left, the client gets
// the last of these answers; else 502 if the last backend closed the connection or sent a
// malformed response, or 503 with Retry-After. With [Limits.Queue] it waits where no backend
// has a place or can be reached.
//
// A backend whose attempt failed in this way has a [Flag], which says why, and for how long
// the backend is avoided: 1 s, or up to 30 s if it cannot be reached, is ejected, or asks for
// it with Retry-After. A 404 or a 500 raises none. Afterwards one upgrade at a time is tried
// on it, until one succeeds. A backend that is reached, but fails for several clients, is
// ejected: see [Ejection]. A backend that is avoided is used where no better one is left. No
// tunnel ends because of a flag, unless [HealthCheck.DrainAfter] is set. [Backend.Health] has
// all flags. A backend with a new address has none, and is tried at once. [Proxy.SetBackends]
// changes the set at any time and closes no tunnel, unless it sets [BackendConfig.Drain].
//
// [WithHealthCheck] probes the backends, also those that no client uses: see [HealthCheck].
// It is the only option with which [New] starts a goroutine.
//
// A backend whose URL has a host name with several addresses is one backend: its addresses are
// dialed in random order, the next one after 250 ms, those that failed in the last 30 s last (see
// [WithDialer]).
//
// To refuse upgrades raises no flag by itself: a backend that responds with 404, or ends its
// tunnels at once with a Close frame, stays [BackendUp]. It has few tunnels, but
// [LeastTunnels] gives it no more than its even share: see [Backend.Load].
//
// [WithAffinity] brings a client back to the backend where it was before, by a signed cookie or by
// a key in its requests: the balancer is then asked for new clients, and for those whose backend
// cannot be used.
//
// A tunnel stays on its backend. After a backend was added, or has recovered, the others carry
// what they had: [Proxy.Rebalance] moves clients, a few at a time.
//
// # Handshake
//
// An upgrade is a GET over HTTP/1.1 whose Upgrade names websocket and nothing else
// and whose Connection names upgrade, or an extended CONNECT over HTTP/2. It is checked
// against RFC 6455 before any backend is dialed. A request that fails a check is answered
// with a status and a body that names the check. [WithOriginPatterns] is checked next. Then
// [Limits] and [WithAdmit] decide who gets in, before a backend is picked: what the hook returns stays with the tunnel
// as [TunnelInfo.Value]. Then the request goes to the backend with its Host, path,
// query, Origin, cookies, subprotocols and extensions. Hop-by-hop fields are
// removed, X-Forwarded-For, -Host and -Proto and X-Request-Id are set, and such fields of
// an untrusted peer are dropped: see [WithTrustedProxies]. [WithRewrite] runs last.
//
// The backend's 101 is verified, its Sec-WebSocket-Accept included. If the 101 is
// wrong, no byte of it reaches the client. A response that is not 101 is passed on to
// the client, and then both connections are closed. The head of a response may have
// 64 KiB. [WithResponse] is called for every status, and may have another backend tried:
// see [ErrTryNext]. Bytes that a peer sent early are relayed, the client's after the 101.
//
// The path and the query go to the backend byte for byte: escapes stay as they are, "%2F"
// is no slash, and only bytes that a request line must not have are encoded, "#" among
// them. Query parameters that net/url cannot parse are cut out, because the backend might
// read them in another way than the balancer did.
//
// A backend's response other than 101 goes to the client as it comes: its head at once,
// and each part of its body. It is ended as incomplete after 10 s in which the backend
// sends nothing, or the client takes nothing. Interim responses (100, 103) are dropped, in
// deviation from RFC 9110 §15.2: several clients fail at them, and so do ResponseWriters
// that middleware wraps.
//
// # Plain HTTP
//
// With [WithHTTP], requests that are no upgrade go to the backends too, instead of being refused
// with 426: SockJS, Socket.IO and SignalR send them before a WebSocket, or instead of one. They are
// identified, checked, let in and balanced as upgrades are, by the same options and hooks, and
// their header, path and query follow the same rules. Bodies, trailers and interim responses are
// streamed both ways. The option's documentation has the differences. Their number in flight is in
// [Stats] and [BackendStats].
//
// # Tunnels
//
// By default an open tunnel has no time limit and no idle timeout: see [Timeouts]. The
// server's timeouts and the request's context do not apply after the 101. A side that takes
// nothing of what waits for it for [Timeouts.WriteStall], 2 min by default, is cut, and
// [WithPing] makes the proxy ping quiet peers. Payloads are neither unmasked nor
// buffered as a whole. A client may send 100 control frames at once, and 100 a second. More
// end the tunnel, because they cost the backend work that [Limits.ClientMessages] does not
// count. The first of the following events ends a tunnel; the client and the backend then
// get a Close frame with these codes, at a frame boundary:
//
//	Cause                           client            backend
//	CauseClosed       either side   the frame is passed on and answered
//	CauseLost         client        -                 end of stream
//	CauseLost         backend       1012              -
//	CauseProtocol     client        1002              1001
//	CauseProtocol     backend       1012              1002
//	CauseTooBig       client        1009              1001
//	CauseTooBig       backend       1011              1009
//	CauseShutdown     proxy         1001              1001
//	CauseApplication  proxy         Tunnel.Close's    1001
//	CausePanic        proxy         1011              1001
//	CauseStalled      client        reset             end of stream
//	CauseStalled      backend       1012              reset
//	CauseControlFlood client        1008              1001
//	CauseIdle         proxy         1001              1001
//	CauseLifetime     proxy         1012              1001
//	CauseDrain        proxy         1012              1001
//	CauseRebalance    proxy         1012              1001
//	CauseBackendDown  proxy         1012              1001
//	CausePingTimeout  client        1001              end of stream
//	CausePingTimeout  backend       1012              1001
//
// Closing loses nothing that a peer still takes, but for the two cases below. Where the
// proxy ends a tunnel, and where the client broke a rule, the backend is asked first: it
// gets its Close frame, all that it still sends is relayed, and the client gets its own
// Close frame behind that, after 1 s in which the backend sends nothing or after 5 s in
// which it goes on. A Close frame of the backend with a code of the application's own
// (3000 to 4999) goes to the client instead, unless the client broke a rule.
// [Tunnel.Close] with 1008 does not wait. A client that was lost is lost to the backend
// too: it gets no Close frame, because services that resume sessions after an abnormal end
// forget them at 1001.
//
// Where the proxy ends a tunnel, and where a side broke a rule, the proxy waits for the
// answer to its own Close frame for about 1 s on each side. No answer is no cut. A client
// that does not answer is closed 1 to 1.5 s after it has taken its Close frame. If the
// backend is asked first and does not answer, the tunnel ends 2 to 3 s after the backend
// was sent its Close frame; 6 to 7 s after that, if it goes on sending messages instead.
// On systems other than Linux, and if the listener wraps its connections, the proxy does
// not know what a client over HTTP/1.1 has taken: one that does not answer is then closed
// after 5 to 5.5 s.
//
// A side that makes no progress is cut: after 5 s in which nothing comes from it that
// must come, after 15 s in which it takes nothing of what waits for it, and after
// [Timeouts.Close] in any case. What must come is the answer to a Close frame of the other
// side, the Close frame or the end of the stream where the other side's stream has ended
// without a reset, and the rest of a frame under way. [TunnelEnd.Cut] reports a cut. A side
// that is gone, while the other takes nothing of what it has sent, ends the tunnel after
// 5 s, or after 15 s if only its stream has ended.
//
// Bytes may be lost in two cases, without a cut. If a backend sends its Close frame and
// ends its stream at once, but still reads, it may not get what a client sends after it has
// been quiet for a moment, 250 ms at least: most backends take nothing more then, and the
// proxy closes the connection. A part of a TLS record does not count as sent. If a
// connection of your own listener or dialer has no CloseWrite method, its stream cannot be
// ended alone: the connection is closed where another one is half-closed, a backend's when
// it has sent nothing for such a moment, and bytes on the way to a peer that sends on may
// be lost.
//
// [Proxy.Close] sends no Close frames. [Proxy.Tunnels] lists open tunnels, [Proxy.Tunnel]
// finds one by its ID, [Tunnel.Close] ends one, and [Proxy.CloseTunnels] many.
//
// # Draining
//
// [Proxy.Drain] empties a backend before it is stopped: it gets no new tunnels, and those that
// it has are closed over a time of your choice with 1012, so that their clients come again one
// after the other, to another backend. [Proxy.Resume] ends that. [BackendConfig.Drain] is the
// same for programs that configure their backends as a whole, and [HealthCheck.DrainAfter] for
// a backend that fails its check. [Proxy.CloseTunnels] closes any other set of tunnels at a
// pace.
//
// # Shutdown
//
// [http.Server.Shutdown] neither closes nor waits for connections that have been
// upgraded. [Proxy.Shutdown] does: it refuses new upgrades with 503 and
// Retry-After, ends every tunnel with Close 1001, the backend first, at 1,000 a second but
// within 60 % of the time that its context has left, waits until all have ended, and cuts
// what is left when its context ends. Run both side by side under one deadline, and wait for
// both before main returns, as in the example of [Proxy.Shutdown]. [Proxy.Close] cuts all
// tunnels at once.
//
// # Errors
//
// [New] and [Proxy.SetBackends] report all mistakes at once, each as a [*ConfigError].
// The error handler ([WithErrorHandler]) answers upgrades that fail before their 101.
// It gets a [*StatusError] for a request that was refused, [ErrNoBackend], [ErrLimit] or
// [ErrShutdown], or a join of one [*BackendError] for each attempt. The default handler
// answers with 4xx, 502, 503 or 504, and its text says nothing about backends.
// [TunnelEnd] says how a tunnel ended: the side, the cause, the code and the error.
//
// # Observability
//
// [Trace] has hooks for each pick, each attempt, each change of a backend's flags, each
// request that gets no tunnel, with its [Reason], and each tunnel that opens or ends.
// [Proxy.Observe] adds hooks to a running Proxy. [Proxy.Stats] has counters: refusals by reason,
// retries, traffic, ends by side, cause and code, panics by hook, and histograms of the phases of
// upgrades, of opening handshakes and of how long tunnels lived. [Backend.Stats] has those of one
// backend: attempts by outcome, ejections, probes, drains, traffic, ends and the last two
// histograms. [Tunnel.Traffic] has that of one tunnel. Package wsproxymetrics makes metrics of the
// counters, and package wsproxyadmin a page.
//
// The logger ([WithLogger], otherwise [slog.Default]) gets a line at Debug for each upgrade that
// is refused or fails, and for each tunnel that opens or ends; with [WithAccessLog] those of
// tunnels are at Info. It gets one at Warn when a flag of a backend is raised, one at Info when it
// is cleared, and nothing in between; one at Warn when backends with a flag or of a higher
// [BackendConfig.Priority] begin to be used, and one at Info when that is over; one at Info when
// [Proxy.Drain] begins, when its backend is empty and when it is resumed, and one at Warn when it
// ends early or when all backends drain; one when [Proxy.Rebalance] has closed tunnels, at Info,
// or at Warn if it ends early; one at Warn when [HealthCheck.DrainAfter] closes tunnels; one at
// Warn if a proxy in front seems to be missing in [WithTrustedProxies]; and one at Error for a
// fault of the program: a middleware that hides the connection, a hook that panics. The line for a
// backend's refusal has its reason phrase, at most 256 bytes. Lines and hooks have the same ID for
// a tunnel, and the same request ID, which the backend gets too: see [TunnelInfo.RequestID].
// Payloads, queries, cookies, Authorization and Sec-WebSocket-Protocol are never logged: a reason
// phrase that repeats one of their values of 4 bytes or more is redacted.
//
// # Security
//
// Browsers let any page open a WebSocket to any host, with cookies. By default
// Host and Origin reach the backend unchanged, for its own check. If the backend does
// not check the origin, set [WithOriginPatterns]. X-Forwarded-For is believed only from
// peers that [WithTrustedProxies] names. Only a verified 101 opens a tunnel, and only
// WebSocket frames pass through it, so that a fake upgrade cannot smuggle requests to a
// backend. Messages have no size limit unless [Limits.MessageSize] sets one, and clients no
// rate unless [Limits.ClientMessages] or [Limits.ClientBytes] does. Give the
// server a ReadHeaderTimeout: the time before the handler is called is the server's to
// limit.
//
// # Platforms
//
// All platforms of Go have the same behaviour and the same exported names. A
// tunnel takes two descriptors. Its other costs depend on its engine, which is in
// [TunnelInfo.Engine]:
//
//   - [EngineEventLoop]: one goroutine for every two of GOMAXPROCS, at least one,
//     moves the bytes of all tunnels. It is used on Linux, where both connections are
//     plain TCP or unix sockets. An idle tunnel takes less than 1 KB of the heap. The
//     server's memory for the request adds about 12 KB, or nothing with [WithDetached].
//   - [EnginePortable]: a goroutine for each direction; one of them is the server's. It
//     works on every platform and over any connection. On Unix and Windows an idle
//     plain TCP or unix connection holds no buffer; on Unix this also holds for a
//     connection to a backend over TLS. A client's connection over TLS holds 512 bytes.
//     A connection that a listener or a dialer has wrapped holds 4 KiB, or 32 KiB after
//     a large read. The memory of crypto/tls for a connection is not included.
//
// The build tag wsproxy_portable makes all tunnels portable ones.
//
// [Proxy.ServeHTTP] returns when the tunnel has ended, so that access logs and
// in-flight counters of middleware see its whole life; with [WithDetached] it
// returns at the upgrade.
package wsproxy
