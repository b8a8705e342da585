package wsproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"time"

	"github.com/wsproxy/wsproxy/internal/handshake"
	"github.com/wsproxy/wsproxy/internal/relay"
)

// Defaults, and bounds that are no option.
const (
	defaultHandshakeTimeout = 10 * time.Second // all attempts of one upgrade together

	maxResponseHead   = 64 << 10         // a backend's answer up to its body; more is an attack on memory
	typicalHead       = 1 << 10          // bytes of most requests and answers: a capacity, no bound
	responseTimeout   = 10 * time.Second // writing an answer to the client, 101 or not
	drainTimeout      = 1 * time.Second  // for a client to end its stream after a refusal
	abortTimeout      = 1 * time.Second  // for hooks of tunnels that were cut to return
	retryAfterSeconds = "1"              // what a client is told that was refused for a moment only
)

// An Option configures a [Proxy]. Options only record what they are given; [New]
// checks all of them together. Where one is given twice, the last one counts, and
// replaces all that the first one set. A nil function, interface or pointer means the
// default.
type Option interface {
	apply(*settings)
}

type optionFunc func(*settings)

func (f optionFunc) apply(s *settings) { f(s) }

// A DialFunc connects to a backend: network is "tcp" or "unix". It has the
// contract of [net.Dialer.DialContext], and must not return a connection that
// speaks TLS already: the proxy adds TLS where the backend's URL says so. The
// connection is the proxy's from then on, to close and, if it is plain, to take
// over: see [EngineEventLoop]. Its methods must not panic: once the tunnel is open,
// that ends the program.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Timeouts bound how long something may take. An open tunnel has no time limit:
// one that looks idle stays open.
type Timeouts struct {
	// Handshake bounds an upgrade from its arrival to the backend's answer, all
	// attempts together: name resolution, dial, TLS, request and answer. While
	// another backend can be tried, one attempt gets at most half of what is
	// left. Zero means 10 s, negative means no bound.
	Handshake time.Duration
}

// Limits bound what a client or a backend may ask for.
type Limits struct {
	// MessageSize bounds the payload bytes of one message as they are on the
	// wire (compressed, where permessage-deflate was negotiated), the sum of its
	// fragments, in both directions. A larger one ends the tunnel: its sender
	// gets Close 1009. The part below the bound may have been passed on. Zero and
	// negative mean no bound.
	MessageSize int64

	// SocketBuffer bounds, in bytes, each of the kernel's four buffers of a tunnel: to
	// receive and to send, of both connections. It is set as by
	// [net.TCPConn.SetReadBuffer] and SetWriteBuffer, on the client's connection when
	// it is hijacked, and on the backend's when it is dialed; beneath TLS, but not
	// beneath a wrapper that lacks these methods. Linux doubles it for what it keeps
	// besides, and takes at most net.core.rmem_max and net.core.wmem_max.
	//
	// A tunnel of which one side does not read what the other sends was measured to
	// hold 0.3 MB with 64 KiB, 1.0 MB with 256 KiB, and 5 to 34 MB with what Linux
	// chooses. In exchange, one connection carries at most about SocketBuffer bytes
	// for each round trip, and bulk costs more CPU, with less than 64 KiB very much
	// more: see docs/production.md. Zero and negative leave the size to the kernel,
	// which adapts it. A value above 2 GiB - 1 counts as that.
	SocketBuffer int

	// StalledTunnels bounds how many tunnels may be stalled at once: one of their sides has
	// taken nothing for a second, while something waited to be written to it. Once a
	// second those beyond the bound that have been stalled for the longest are ended:
	// see [CauseStalled].
	//
	// Taken means by the kernel, which takes more only when a good part of a full
	// buffer has reached the peer. A client that read 256 KB/s was measured to take
	// nothing for 5.6 s with the buffers that Linux chooses, and for 0.5 s with a
	// SocketBuffer of 64 KiB: so set both. With [EnginePortable], up to 32 KiB count
	// as taken when the last of them is. Zero and negative mean no bound.
	StalledTunnels int
}

// WithBackends sets the backends by their URLs: weight 1, no limits, the URL as
// ID. See [BackendConfig] for the schemes. No URL at all is an empty set, which
// is allowed: upgrades get 503 until [Proxy.SetBackends] brings some.
func WithBackends(urls ...string) Option {
	configs := make([]BackendConfig, len(urls))
	for i, u := range urls {
		configs[i].URL = u
	}
	return optionFunc(func(s *settings) {
		s.backends, s.backendsOption = configs, "WithBackends"
	})
}

// WithBackendConfigs sets the backends. It replaces what [WithBackends] set.
func WithBackendConfigs(configs ...BackendConfig) Option {
	configs = append([]BackendConfig{}, configs...)
	return optionFunc(func(s *settings) {
		s.backends, s.backendsOption = configs, "WithBackendConfigs"
	})
}

// WithBalancer sets who chooses the backend. Default: [LeastTunnels].
func WithBalancer(b Balancer) Option {
	return optionFunc(func(s *settings) { s.balancer = b })
}

// WithDialer sets how backends are reached. Default: a [net.Dialer] with its
// default TCP keepalive.
func WithDialer(dial DialFunc) Option {
	return optionFunc(func(s *settings) { s.dial = dial })
}

// WithTLSConfig sets how TLS is spoken with backends whose URL says https or
// wss: root certificates, a client certificate, versions. The configuration is
// cloned; its ServerName is ignored (see [BackendConfig]), and so is NextProtos:
// the only protocol offered is http/1.1, because an Upgrade is impossible in
// HTTP/2. Default: the host's root certificates.
func WithTLSConfig(c *tls.Config) Option {
	return optionFunc(func(s *settings) { s.tls = c })
}

// WithTrustedProxies names the proxies in front of this one by address or prefix
// ("10.0.0.0/8", "::1"). What a trusted peer says of the client is believed and
// passed on: X-Forwarded-For is read from the right up to the first address that
// is not trusted; X-Forwarded-Host, X-Forwarded-Proto, Forwarded and X-Real-Ip
// stay. From any other peer all of these are removed. Default: nobody is trusted.
// A peer on a unix socket has no address: it is trusted if "unix" is among the
// prefixes.
func WithTrustedProxies(prefixes ...string) Option {
	prefixes = append([]string{}, prefixes...)
	return optionFunc(func(s *settings) { s.trusted = prefixes })
}

// WithOriginPatterns refuses, with 403 and before any dial, an upgrade whose
// Origin is neither the request's Host nor matched by one of the patterns: the
// guard against cross-site WebSocket hijacking. A pattern is matched, as by
// [path.Match] and without regard to case, against the origin's host and, if the
// origin names one, port ("chat.example:8443"); one that contains "://" is matched
// against the scheme as well. A request without an Origin header comes from no
// browser and passes. Without patterns only the request's own Host passes.
//
// Default: no check here. Host and Origin reach the backend unchanged, so that
// the backend's own check goes on working.
func WithOriginPatterns(patterns ...string) Option {
	patterns = append([]string{}, patterns...)
	return optionFunc(func(s *settings) { s.origins = patterns })
}

// WithRewrite sets a hook that changes, or refuses, the request that a backend
// gets. What it sets no client can remove, as a client can what a middleware sets in
// the request's header: fields that its Connection names are not passed on (RFC 9110,
// section 7.6.1). It runs after each pick, before the dial: see [ProxyRequest]. An error ends
// the upgrade; it reaches the error handler as it is, so that a [*StatusError]
// chooses the client's status (else 500).
func WithRewrite(hook func(*ProxyRequest) error) Option {
	return optionFunc(func(s *settings) { s.rewrite = hook })
}

// WithResponse sets a hook that changes, or refuses, the answer that a client
// gets from a backend: a 101, or what the backend answered instead. See
// [ProxyResponse]. An error ends the upgrade, and the backend's connection is
// closed; a [*StatusError] chooses the client's status (else 502).
func WithResponse(hook func(*ProxyResponse) error) Option {
	return optionFunc(func(s *settings) { s.response = hook })
}

// WithErrorHandler sets who answers a request that gets neither a tunnel nor a
// backend's answer: one that is no upgrade, or one that failed before its 101.
// Headers that the answer needs (Upgrade, Sec-WebSocket-Version, Retry-After,
// Connection: close) are set already. The error is one of
//
//   - a [*StatusError]: the request failed a check or a policy, or a hook
//     refused it;
//   - [ErrNoBackend], [ErrLimit], [ErrShutdown];
//   - a join of [*BackendError], one for each attempt;
//   - [context.Canceled]: the client has gone;
//   - [context.DeadlineExceeded]: a middleware's deadline has passed, or
//     [Timeouts.Handshake] while no backend was being tried;
//   - anything else: what a hook or the balancer returned, or a fault of the
//     program, such as a panic in a hook, a request or an answer that a hook has made
//     invalid, a pick that is no candidate, a connection that cannot be hijacked.
//
// Default: the status that fits, and for a [*StatusError] the text of its Err,
// else that of the status: nothing about backends.
func WithErrorHandler(h func(http.ResponseWriter, *http.Request, error)) Option {
	return optionFunc(func(s *settings) { s.errorHandler = h })
}

// WithTimeouts sets the time limits.
func WithTimeouts(t Timeouts) Option {
	return optionFunc(func(s *settings) { s.timeouts = t })
}

// WithLimits sets the limits.
func WithLimits(l Limits) Option {
	return optionFunc(func(s *settings) { s.limits = l })
}

// WithDetached makes [Proxy.ServeHTTP] return as soon as the tunnel is open: the
// server then frees the request's goroutine, stack and buffers, which are most of
// what an idle tunnel costs. To middleware around the handler the request ends
// there: an access log's line is written, a span ends and a counter of requests in
// flight goes down at the upgrade. The end of the tunnel is seen by [Trace] alone,
// and [Proxy.Shutdown] is what waits for it. Default: false, ServeHTTP returns
// when the tunnel has ended.
func WithDetached(detached bool) Option {
	return optionFunc(func(s *settings) { s.detached = detached })
}

// WithLogger sets the logger: faults of the program (a hidden Hijack, a panic in
// a hook) at Error, backends that begin to fail at Warn, tunnels and refusals at
// Debug. Payloads, cookies, Authorization and
// Sec-WebSocket-Protocol are never logged. Default: [slog.Default].
func WithLogger(l *slog.Logger) Option {
	return optionFunc(func(s *settings) { s.logger = l })
}

// WithTrace sets the hooks that see what happens to upgrades and tunnels.
func WithTrace(t *Trace) Option {
	return optionFunc(func(s *settings) { s.trace = t })
}

// settings is what the options recorded. It is read by compile alone.
type settings struct {
	backends       []BackendConfig
	backendsOption string // which option set backends; empty if none did
	balancer       Balancer
	dial           DialFunc
	tls            *tls.Config
	trusted        []string
	origins        []string // nil: no check
	rewrite        func(*ProxyRequest) error
	response       func(*ProxyResponse) error
	errorHandler   func(http.ResponseWriter, *http.Request, error)
	timeouts       Timeouts
	limits         Limits
	detached       bool
	logger         *slog.Logger
	trace          *Trace
	loops          *relay.Loops // nil but in tests: the proxy's own
}

// config is what the options mean: checked, defaults filled in, never changed.
type config struct {
	balancer         Balancer
	dial             DialFunc
	isDefaultDial    bool // WithDialer was not given
	tls              *tls.Config
	trusted          handshake.TrustedProxies
	origins          *handshake.Origins // nil: no check
	rewrite          func(*ProxyRequest) error
	response         func(*ProxyResponse) error
	errorHandler     func(http.ResponseWriter, *http.Request, error)
	handshakeTimeout time.Duration // 0: none
	messageSize      int64         // 0: no bound
	socketBuffer     int           // bytes; 0: the kernel's choice
	maxStalled       int           // 0: no bound
	detached         bool
	logger           *slog.Logger // nil: slog.Default(), asked each time
	trace            Trace
}

// compile checks all settings together. Errors are [*ConfigError] values.
func (s *settings) compile() (config, []error) {
	var errs []error
	c := config{
		balancer:         s.balancer,
		dial:             s.dial,
		tls:              backendTLS(s.tls),
		rewrite:          s.rewrite,
		response:         s.response,
		errorHandler:     s.errorHandler,
		handshakeTimeout: orDefault(s.timeouts.Handshake, defaultHandshakeTimeout),
		messageSize:      max(s.limits.MessageSize, 0),
		socketBuffer:     min(max(s.limits.SocketBuffer, 0), math.MaxInt32), // what a kernel can be told
		maxStalled:       max(s.limits.StalledTunnels, 0),
		detached:         s.detached,
		logger:           s.logger,
	}
	if c.balancer == nil {
		c.balancer = LeastTunnels()
	}
	if v, ok := c.balancer.(interface{ validate() error }); ok {
		if err := v.validate(); err != nil {
			errs = append(errs, &ConfigError{Option: "WithBalancer", Value: fmt.Sprintf("%T", c.balancer), Err: err})
		}
	}
	if c.dial == nil {
		c.dial = new(net.Dialer).DialContext
		c.isDefaultDial = true
	}
	if c.errorHandler == nil {
		c.errorHandler = writeError
	}
	if s.trace != nil {
		c.trace = *s.trace
	}
	errs = s.compileTrusted(errs, &c)
	errs = s.compileOrigins(errs, &c)
	if s.backendsOption == "" {
		errs = append(errs, &ConfigError{Option: "WithBackends", Value: "",
			Err: errors.New("not given; an empty set is allowed, but must be asked for with WithBackends()")})
	}
	return c, errs
}

func (s *settings) compileTrusted(errs []error, c *config) []error {
	for i, p := range s.trusted {
		if err := c.trusted.Add(p); err != nil {
			errs = append(errs, &ConfigError{Option: fmt.Sprintf("WithTrustedProxies[%d]", i), Value: p, Err: err})
		}
	}
	return errs
}

func (s *settings) compileOrigins(errs []error, c *config) []error {
	if s.origins == nil {
		return errs
	}
	c.origins = new(handshake.Origins)
	for i, p := range s.origins {
		if err := c.origins.Add(p); err != nil {
			errs = append(errs, &ConfigError{Option: fmt.Sprintf("WithOriginPatterns[%d]", i), Value: p, Err: err})
		}
	}
	return errs
}

// orDefault applies the rule of all durations: zero means the default, negative
// means off, which is 0 from here on.
func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return max(d, 0)
}

// backendTLS returns the configuration that every dial over TLS clones.
func backendTLS(c *tls.Config) *tls.Config {
	if c == nil {
		c = new(tls.Config)
	}
	c = c.Clone()
	// By ALPN a backend could choose HTTP/2, where Upgrade does not exist:
	// https://www.rfc-editor.org/rfc/rfc9113#section-8.6-1
	c.NextProtos = []string{"http/1.1"}
	return c
}
