package wsproxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"
)

// Defaults, and bounds that no option changes.
const (
	defaultHandshakeTimeout = 10 * time.Second // all attempts of one upgrade together
	defaultCloseTimeout     = 1 * time.Minute  // the end of a tunnel
	defaultWriteStall       = 2 * time.Minute  // see Timeouts

	maxResponseHead   = 64 << 10               // head of a backend's response; more is an attack on memory
	typicalHead       = 1 << 10                // bytes, enough for the head of most messages: a capacity, not a bound
	responseTimeout   = 10 * time.Second       // to write a response to the client, 101 or not
	drainTimeout      = 1 * time.Second        // for a client to end its stream after a response
	goingAwayTimeout  = 100 * time.Millisecond // for a backend whose 101 was dropped to close the connection
	abortTimeout      = 1 * time.Second        // for hooks of tunnels that were cut, and for probes, to return
	defaultRetryAfter = 2 * time.Second        // see Refusal
	maxRetryAfter     = 1 * time.Hour          // for a client that exceeds a rate
	lingerTimeout     = 2 * time.Second        // for a client that was refused by a Close frame
	closeFrameTimeout = 100 * time.Millisecond // for that frame over HTTP/2, once the proxy is closed
	maxLingering      = 1000                   // such clients, without Limits.Tunnels

	maxIdleConns          = 256             // of each backend, for requests that are no upgrade
	idleConnTimeout       = 4 * time.Second // for such a connection: Node closes it after 5 s
	expectContinueTimeout = 1 * time.Second // for a backend to ask for the body of a request with Expect

	defaultFailures   = 5 // see Ejection
	defaultBackoff    = 1 * time.Second
	defaultMaxBackoff = 30 * time.Second
	defaultMaxShare   = 0.5

	defaultProbeInterval = 10 * time.Second // see HealthCheck
	defaultProbeTimeout  = 3 * time.Second
	defaultFall          = 3               // probes
	defaultRise          = 2               // probes
	probeGrace           = 1 * time.Second // for a Probe to return after its timeout
	probeCloseTimeout    = 1 * time.Second // for a backend to answer the Close frame of a probe
	maxProbeBody         = 64 << 10        // bytes of a response to a probe that are read
	maxBeforePong        = 1 << 20         // bytes that a backend may send before the pong of a probe
)

// An Option configures a [Proxy]. An option only records its arguments; [New] checks
// all options together. If an option is given twice, the second one replaces the first
// one as a whole. A nil function, interface or pointer means the default.
type Option interface {
	apply(*settings)
}

type optionFunc func(*settings)

func (f optionFunc) apply(s *settings) { f(s) }

// A DialFunc connects to a backend: network is "tcp" or "unix". It has the
// contract of [net.Dialer.DialContext], and must not return a connection that
// speaks TLS already: the proxy adds TLS where the backend's URL asks for it. The
// proxy owns the connection from then on: it closes it, and may take over its
// descriptor if the connection is plain (see [EngineEventLoop]). The methods of the
// connection must not panic: once the tunnel is open, a panic ends the program.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Timeouts are time limits. By default a tunnel stays open even if it is idle, and for as long
// as its two sides want and take what waits for them.
type Timeouts struct {
	// Handshake bounds an upgrade, once it is admitted, until the backend's response, all
	// attempts together: name resolution, dial, TLS, request and response, and the time
	// for which it waits (see [Limits.Queue]). While another backend is left to try, an
	// attempt gets at most half of the remaining time. Of a request that is no upgrade
	// ([WithHTTP]) it bounds the time until the connection is made. Zero means 10 s, negative
	// means no bound.
	Handshake time.Duration

	// Close bounds the end of a tunnel, from its cause until both connections are
	// closed. Within it, each side is waited for as long as it makes progress: a client
	// that reads slowly gets all that its backend has sent. Zero means 1 min, negative
	// means no bound.
	Close time.Duration

	// WriteStall bounds how long a side of an open tunnel may take nothing of what waits for
	// it: a frozen page that does not read, or a client that has vanished while data was
	// under way to it. Such a side is reset, and the other is ended as if that side were
	// lost: see [CauseStalled]. A side that takes something within the time is not cut. What
	// counts is what its kernel takes, which may be nothing for a while from a peer that
	// reads very slowly: see [Limits.StalledTunnels]. Zero means 2 min: a phone may be in a
	// tunnel for as long. Negative means no bound.
	//
	// The proxy looks four times a second at the bytes that it holds for a side. On Linux
	// it also sets the socket option TCP_USER_TIMEOUT of both connections when the tunnel
	// opens, beneath TLS too, but not beneath a wrapper: so a side is found as well for which
	// only the kernel holds bytes. An option that a listener or a dialer has set is replaced;
	// if WriteStall is negative, it stays. TCP_USER_TIMEOUT changes two more things:
	//
	//   - TCP keepalive finds a peer that has vanished from an idle tunnel when WriteStall has
	//     passed, not after its own number of probes: with the defaults after 2 min instead
	//     of 2 min 30 s, and after 10 min with a WriteStall of 10 min. At least one probe
	//     must have had its interval for an answer: 30 s with the defaults.
	//   - Linux counts the time in which a peer has no room for more from the first moment of
	//     it, and in some cases goes on after the peer has taken a part. This was measured
	//     for peers with a receive buffer of 16 KiB and less that let it become full again
	//     and again for WriteStall: they are cut though they read. With 64 KiB it was seen
	//     once, with 128 KiB and more never.
	WriteStall time.Duration

	// Idle ends a tunnel in which no byte of either side was passed to the other for that
	// long: see [CauseIdle]. The pings of [WithPing] and their pongs do not count, but those of
	// the two sides do. Without it a dead peer is still found: see [WithPing] and TCP
	// keepalive. It is exact to half a second. Zero and negative mean no limit.
	Idle time.Duration

	// Lifetime is the longest time for which a tunnel is open before it begins to end: see
	// [CauseLifetime]. Each tunnel ends at a random point of the last fifth, so that tunnels
	// that were opened together do not come back together. Its client is asked to connect
	// again, by Close 1012; so clients spread over backends that came later. It is exact to
	// half a second, but never exceeded. Zero and negative mean no limit.
	Lifetime time.Duration
}

// A Ping says which quiet peers are pinged: see [WithPing].
type Ping struct {
	// Client and Backend are the intervals: a client from which no frame has come for Client is
	// pinged, and a backend from which none has come for Backend. Zero and negative mean that
	// this side is not pinged.
	Client, Backend time.Duration

	// Timeout is how long a peer may take to answer. If no byte has come from it by then, the
	// tunnel ends: see [CausePingTimeout]. The time does not run while the peer is not read,
	// and begins anew while the peer takes what waits for it in front of the ping. Zero means
	// the interval of the side, negative means that no answer is wanted.
	Timeout time.Duration
}

// WithBackends sets the backends by their URLs: weight 1, no limits, the URL as
// ID. See [BackendConfig] for the schemes. Without URLs the set is empty, which is
// allowed: upgrades get 503 until [Proxy.SetBackends] adds backends.
func WithBackends(urls ...string) Option {
	configs := make([]BackendConfig, len(urls))
	for i, u := range urls {
		configs[i].URL = u
	}
	return optionFunc(func(s *settings) {
		s.backends, s.backendsOption = configs, "WithBackends"
	})
}

// WithBackendConfigs sets the backends, instead of [WithBackends]. The default of each field
// is in [BackendConfig].
func WithBackendConfigs(configs ...BackendConfig) Option {
	configs = append([]BackendConfig{}, configs...)
	return optionFunc(func(s *settings) {
		s.backends, s.backendsOption = configs, "WithBackendConfigs"
	})
}

// WithBalancer sets the balancer, which chooses the backend of each upgrade, unless
// [WithAffinity] does. Default: [LeastTunnels].
func WithBalancer(b Balancer) Option {
	return optionFunc(func(s *settings) { s.balancer = b })
}

// WithDialer sets the function that connects to backends. It gets the host name of the
// backend's URL, and resolves it itself.
//
// Default: a [net.Dialer] with its default TCP keepalive. A host name is resolved at each
// dial, by [net.DefaultResolver]. If it has several addresses, they are dialed in random
// order, so that each gets an equal share of the tunnels. The next address is dialed after
// 250 ms, or at once when an attempt fails. The first connection is used; the other
// attempts end. An address is dialed after the others for 30 s after it failed or did not
// connect within 250 ms, unless it connects meanwhile. A proxy remembers 1,024 such
// addresses. All attempts end with the deadline of the dial. If none succeeds, the error
// names each address that was dialed.
func WithDialer(dial DialFunc) Option {
	return optionFunc(func(s *settings) { s.dial = dial })
}

// WithTLSConfig sets the TLS configuration for backends with the scheme https or
// wss: root certificates, a client certificate, versions. The configuration is
// cloned; its ServerName is ignored (see [BackendConfig]), and so is NextProtos:
// the only protocol offered is http/1.1, because an Upgrade is impossible in
// HTTP/2. Default: the host's root certificates.
func WithTLSConfig(c *tls.Config) Option {
	return optionFunc(func(s *settings) { s.tls = c })
}

// WithTrustedProxies names the proxies in front of this one by address or prefix
// ("10.0.0.0/8", "::1"). The forwarding fields of a trusted peer are believed and
// passed on: the client's address is found by reading X-Forwarded-For from the right
// up to the first address that is not trusted; X-Forwarded-Host, X-Forwarded-Proto,
// Forwarded and X-Real-Ip stay. From any other peer all of these fields are removed.
// A peer on a unix socket has no address: it is trusted if "unix" is among the
// prefixes. Default: no peer is trusted.
func WithTrustedProxies(prefixes ...string) Option {
	prefixes = append([]string{}, prefixes...)
	return optionFunc(func(s *settings) { s.trusted = prefixes })
}

// WithOriginPatterns refuses, with 403 and before any dial, an upgrade whose
// Origin is neither the request's Host nor matched by one of the patterns. This is
// the protection against cross-site WebSocket hijacking. A pattern is matched, as by
// [path.Match] and without regard to case, against the origin's host and, if the
// origin names one, port ("chat.example:8443"); a pattern that contains "://" is
// matched against the scheme as well. A request without an Origin header does not
// come from a browser and passes. Without patterns only the request's own Host passes.
// Behind a peer of [WithTrustedProxies], an X-Forwarded-Host with exactly one value takes
// the place of Host. The default port of the origin's scheme makes no difference:
// https://chat.example is the origin of host chat.example:443.
//
// Default: the proxy does not check the origin. Host and Origin reach the backend
// unchanged, so that the backend's own check goes on working.
func WithOriginPatterns(patterns ...string) Option {
	patterns = append([]string{}, patterns...)
	return optionFunc(func(s *settings) { s.origins = patterns })
}

// WithAdmit sets a hook that decides who gets in: the place to authenticate clients. It is
// called once for each upgrade, when the request has passed the checks of RFC 6455 and of
// [WithOriginPatterns], and before a backend is picked. What it returns is
// [TunnelInfo.Value], and the Value of [ProxyRequest] and [RefusedInfo]; for other hooks,
// balancers and KeyFuncs [Admitted] returns it.
//
// An error refuses the upgrade. The error handler gets it as it is, so that a [*StatusError]
// chooses the client's status; [ErrLimit] is answered with 503 and Retry-After, any other
// error with 500. The hook has no time limit but its own: [Timeouts.Handshake] begins after
// it, the request's context ends when the client leaves, and [Proxy.Shutdown] waits for it.
// It must be safe for concurrent use, and must not modify or retain the request. Default:
// every client is admitted.
//
// What allowed a client in may end while its upgrade is under way. See the example of
// [Tunnel.Close], which signs a user out.
func WithAdmit(hook func(*http.Request) (value any, err error)) Option {
	return optionFunc(func(s *settings) { s.admit = hook })
}

// WithAffinity brings a client back to the backend where it was before, by a signed cookie or
// by a key in its requests: for services that keep sessions in memory, and for SockJS, Socket.IO
// and SignalR. Default: none, the balancer chooses a backend for each upgrade. See [Affinity].
//
// A request with a valid cookie, or with a key, is bound. It goes to its backend though that one
// has [FlagResting], [FlagFull] or [FlagEjected], is in its slow start, or has a higher
// [BackendConfig.Priority] than others. It gets another backend if its own one has
// [FlagUnreachable] or [FlagCheckFailed], has its MaxTunnels, drains or was removed, and also if
// the attempt on its own one fails; with [Affinity.Refuse] only if it drains or was removed.
// FlagCheckFailed does not move it while no other backend does better: a check that fails
// everywhere ends no session. A backend whose flag has had its time is tried by bound requests
// too. The balancer is not asked where a bound request goes to its own backend.
//
// A request that is no upgrade ([WithHTTP]) is bound in the same way, so that a session may change
// from one kind to the other. Such a request needs no place among MaxTunnels, and still goes to
// its backend while that drains; upgrades are moved then, because all clients whose tunnels the
// drain has closed would come back. A client with a cookie is also moved by the first request of
// a session: one of Socket.IO with transport=polling and no sid, /info of SockJS, and /negotiate
// of SignalR. Without [Affinity.Refuse] such a request also leaves a backend that has
// [FlagEjected].
//
// By cookie: the response of a backend, a 101 or any other below 500, sets a cookie,
// unless the client has that of this backend already. The hook of [WithResponse] sees it. It has a
// keyed hash of the backend's ID, and not the ID. Replicas of the program that have the same Keys
// agree about it without communication, whatever the order of their backends. A cookie that was
// changed, has expired or was set by another program is ignored, and replaced. If a client has
// several cookies of that name, the first valid one counts. A client that gets another backend is
// bound to that one from then on. The backend does not get the cookie.
//
// By key: the backend depends on the key and on the IDs and weights of the set, as with [Hash].
// If the first backend in the order of the key cannot be used, the next one is, and the client
// comes back when the first one can be used again. The order is by [BackendConfig.Priority] first.
// When a backend is added or removed, the keys of its share move, those of live sessions too. By
// cookie, only the clients of a removed backend move.
func WithAffinity(a Affinity) Option {
	a.Keys = slices.Clone(a.Keys)
	return optionFunc(func(s *settings) { s.affinity = &a })
}

// WithEjection sets the rule by which backends are ejected that are reached, but fail. The
// default of each field is in [Ejection].
func WithEjection(e Ejection) Option {
	return optionFunc(func(s *settings) { s.ejection = e })
}

// WithSlowStart lets a backend that comes into the set after [New], or is no longer
// unreachable, ejected, draining or with a failed check, or has a new address, begin with a tenth of
// its weight, which rises linearly to the whole within d. It works only for [LeastTunnels],
// [RoundRobin] and [Random]; for [Hash] and [BoundedHash] keys would move all the time.
// [Backend.Weight] stays the configured one. 30 s is a good value for backends that are slow
// at first. Zero, the default, and negative mean no slow start.
func WithSlowStart(d time.Duration) Option {
	return optionFunc(func(s *settings) { s.slowStart = d })
}

// WithRewrite sets a hook that changes, or refuses, the request that a backend
// gets. It runs after each pick, before the dial: see [ProxyRequest]. An error ends the
// upgrade. The error handler gets it as it is, so that a [*StatusError] chooses the
// client's status; any other error is answered with 500.
//
// Set fields for the backend here and not in a middleware: a client can remove a field
// that a middleware has set in the request, by naming it in Connection (RFC 9110,
// section 7.6.1).
func WithRewrite(hook func(*ProxyRequest) error) Option {
	return optionFunc(func(s *settings) { s.rewrite = hook })
}

// WithResponse sets a hook that changes, or refuses, the backend's response before the
// client gets it: a 101, or the response with which the backend refused the upgrade. See
// [ProxyResponse]. An error ends the upgrade, and the backend's connection is closed. A
// [*StatusError] chooses the client's status; with [ErrTryNext] another backend is tried;
// any other error is answered with 502. Default: the response is not changed.
func WithResponse(hook func(*ProxyResponse) error) Option {
	return optionFunc(func(s *settings) { s.response = hook })
}

// WithRefusal says what clients get that are refused. See [Refusal].
func WithRefusal(r Refusal) Option {
	return optionFunc(func(s *settings) { s.refusal = r })
}

// WithErrorHandler sets the function that answers a request that gets neither a tunnel
// nor a backend's response: the request is no upgrade, or the upgrade failed before its
// 101. Headers that the answer needs (Upgrade, Sec-WebSocket-Version, Retry-After,
// X-Request-Id, Connection: close) are set already. The error is one of
//
//   - a [*StatusError]: the request failed a check or a policy, or a hook
//     refused it;
//   - [ErrNoBackend], [ErrLimit], [ErrShutdown]; an error that wraps ErrNoBackend says that
//     the upgrade has waited for a backend in vain (see [Limits.Queue]), or that the client is
//     bound to a backend that fails (see [Affinity.Refuse]);
//   - a join of [*BackendError], one for each attempt;
//   - [context.Canceled]: the client has disconnected;
//   - [context.DeadlineExceeded]: a middleware's deadline has passed, or
//     [Timeouts.Handshake] while no backend was being tried;
//   - any other error: a hook or the balancer returned it, or it is a fault of the
//     program, such as a panic in a hook, a request or a response that a hook made
//     invalid, a pick that is no candidate, a connection that cannot be hijacked.
//
// [Proxy.Shutdown] waits until the handler returns, unless the request came later: also if
// the handler lets another Proxy serve the request.
//
// Default: the status that fits the error. The body is the text of a [*StatusError]'s
// Err, or else of the status: it says nothing about backends.
func WithErrorHandler(h func(http.ResponseWriter, *http.Request, error)) Option {
	return optionFunc(func(s *settings) { s.errorHandler = h })
}

// WithHealthCheck probes the backends. [New] then starts a goroutine, and each probe has two
// while it runs. They end with [Proxy.Shutdown] or [Proxy.Close], which wait for them, but no
// longer than a second for a Probe that ignores the end of its context. The zero [HealthCheck]
// has a [TCPProbe] every 10 s. Default: no backend is probed.
func WithHealthCheck(c HealthCheck) Option {
	return optionFunc(func(s *settings) { s.healthCheck = &c })
}

// WithTimeouts sets the time limits. The default of each is in [Timeouts].
func WithTimeouts(t Timeouts) Option {
	return optionFunc(func(s *settings) { s.timeouts = t })
}

// WithPing makes the proxy send pings of its own: to keep a tunnel open that a NAT or a proxy
// between it and a peer cuts when it is idle, and to find dead peers sooner than TCP does. A
// Client of 25 s is a good value. Default: no pings.
//
// A peer is pinged when no frame has come from it for its interval; a new tunnel's first ping
// comes at a random point of the interval, so that tunnels that were opened together are not
// pinged together. Pings are exact to half a second. They go between the frames of a
// fragmented message, as RFC 6455 §5.4 allows. Any byte of the peer is an answer. The pong is
// not passed on; other pongs are. A peer that owes the other side a pong is not pinged, because
// it may answer only the latest of several pings (RFC 6455 §5.5.3); that is forgotten after
// [Ping.Timeout]. No ping is sent while a tunnel ends. [Stats] has the round-trip times.
func WithPing(ping Ping) Option {
	return optionFunc(func(s *settings) { s.ping = ping })
}

// WithLimits sets the limits. The default is none: see [Limits].
func WithLimits(l Limits) Option {
	return optionFunc(func(s *settings) { s.limits = l })
}

// WithHTTP makes [Proxy.ServeHTTP] proxy requests that are no upgrade, instead of refusing them
// with 426: for SockJS, Socket.IO and SignalR, which fall back to plain HTTP, or begin with it.
// A handler of [Proxy.Wrap] passes them to its next as ever, unless next is nil. Default: false.
//
// Such a request goes to a backend that is chosen as for an upgrade, over HTTP/1.1 and
// connections that are used again: 256 idle ones for each backend, each for at most 4 s. Bodies
// are streamed in both directions, and so are trailers and interim responses, which middleware
// does not see; a response such as an event stream is flushed as it comes. If the client leaves, the
// backend's request is canceled; if the backend's response breaks off, so does the client's.
// [WithOriginPatterns], [WithAdmit], [WithRewrite], [WithResponse], [WithErrorHandler] and [Trace]
// apply as to upgrades. What differs:
//
//   - [Timeouts.Handshake] bounds the time until a connection is made: a long poll may take 25 s
//     and more. For the rest the server's own timeouts hold.
//   - Another backend is tried only if the connection failed, and only for GET, HEAD and OPTIONS
//     without a body. A 502, 503 or 504 of a backend goes to the client. Such a request, or any
//     without a body that has an Idempotency-Key, is sent again to the same backend if a connection
//     that was used before turns out to be closed.
//   - While it is in flight, the request counts for [Backend.Load] and [LeastTunnels], and for
//     [Limits.PerClient] apart from tunnels, but not for [Backend.NumTunnels],
//     [BackendConfig.MaxTunnels] and [Limits.Tunnels]. It never waits in [Limits.Queue].
//   - A connection that fails, a connection that breaks before a response, and 502 and 504 say
//     about the backend what they say for upgrades, and a response below 500 clears their flags
//     (see [Flag]). Any other result says nothing, nor does a client that leaves. A refused
//     request does not count for Backend.Load.
//   - A request that [WithAffinity] binds takes no token of [Limits.Handshakes] and
//     HandshakesPerClient: its session was let in before. While a backend drains, it still gets
//     the requests that are bound to it, but for those that begin a session.
//   - Origin patterns do not apply to OPTIONS, which browsers send as a CORS preflight. WithAdmit
//     does: a preflight has no cookies and no Authorization, so the hook must let it pass.
//   - [Refusal.ByClose] does not apply: the client gets a status. The proxy adds no CORS fields
//     to it, so that a page of another origin cannot read it, unless the error handler or a
//     middleware adds them.
//   - [Proxy.Drain] and [Proxy.Shutdown] do not wait for requests in flight, and do not end
//     them: that is the server's work. After Shutdown new ones get 503.
//
// A request that names a protocol in Upgrade, but is no sound upgrade (h2c, another token, a POST,
// HTTP/1.0), is proxied without Upgrade. An upgrade that breaks RFC 6455 is refused as ever, and
// so are CONNECT and TRACE, with 405.
func WithHTTP(on bool) Option {
	return optionFunc(func(s *settings) { s.proxiesHTTP = on })
}

// WithDetached makes [Proxy.ServeHTTP] return as soon as the tunnel is open. The server
// then frees the request's goroutine, stack and buffers, which are most of the cost of
// an idle tunnel. For middleware around the handler the request ends there: an access
// log's line is written, a span ends and a counter of requests in flight goes down at
// the upgrade. Only [Trace] sees the end of the tunnel, and [Proxy.Shutdown] waits for
// it. It has no effect on a tunnel over HTTP/2, whose stream ends when the handler returns.
// Default: false, ServeHTTP returns when the tunnel has ended.
func WithDetached(detached bool) Option {
	return optionFunc(func(s *settings) { s.detached = detached })
}

// WithLogger sets the logger. Faults of the program (a hidden Hijack, a panic in a
// hook) are logged at Error, backends that begin to fail at Warn, tunnels and refusals
// at Debug: see [WithAccessLog]. One line at Warn names the peer if a hundred upgrades in
// a row bring X-Forwarded-For or Forwarded from one peer that [WithTrustedProxies] does
// not name.
// Payloads, cookies, Authorization and Sec-WebSocket-Protocol are never logged. Default:
// [slog.Default].
func WithLogger(l *slog.Logger) Option {
	return optionFunc(func(s *settings) { s.logger = l })
}

// WithTrace sets the hooks that observe upgrades and tunnels. Default: none.
func WithTrace(t *Trace) Option {
	return optionFunc(func(s *settings) { s.trace = t })
}

// WithAccessLog makes the lines about tunnels an access log: one line at Info when a tunnel opens,
// with its backend, the attempts and [UpgradeTimes], and one when it has closed, with the cause,
// the duration and the traffic. Refusals are still logged at Debug. Default: false; the same lines
// are then at Debug too.
func WithAccessLog(on bool) Option {
	return optionFunc(func(s *settings) { s.accessLog = on })
}
