package wsproxy

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"time"

	"github.com/wsproxy/wsproxy/internal/handshake"
	"github.com/wsproxy/wsproxy/internal/health"
)

// settings are the arguments of the options. Only compile reads them.
type settings struct {
	backends       []BackendConfig
	backendsOption string // the option that set backends; empty if none did
	balancer       Balancer
	dial           DialFunc
	tls            *tls.Config
	trusted        []string
	origins        []string // nil: no check
	admit          func(*http.Request) (any, error)
	rewrite        func(*ProxyRequest) error
	response       func(*ProxyResponse) error
	errorHandler   func(http.ResponseWriter, *http.Request, error)
	timeouts       Timeouts
	ping           Ping
	limits         Limits
	refusal        Refusal
	ejection       Ejection
	slowStart      time.Duration
	affinity       *Affinity    // nil: none
	healthCheck    *HealthCheck // nil: none
	proxiesHTTP    bool
	detached       bool
	accessLog      bool
	logger         *slog.Logger
	trace          *Trace
}

// config is the compiled settings: checked, with defaults filled in. It never changes.
type config struct {
	balancer         Balancer
	dial             DialFunc
	isDefaultDial    bool // WithDialer was not given
	tls              *tls.Config
	trusted          handshake.TrustedProxies
	origins          *handshake.Origins // nil: no check
	admit            func(*http.Request) (any, error)
	rewrite          func(*ProxyRequest) error
	response         func(*ProxyResponse) error
	errorHandler     func(http.ResponseWriter, *http.Request, error) // nil: the default
	handshakeTimeout time.Duration                                   // 0: none
	closeTimeout     time.Duration                                   // 0: none
	writeStall       time.Duration                                   // 0: none
	idle, lifetime   time.Duration                                   // 0: none
	ping             Ping
	messageSize      int64  // 0: no bound
	socketBuffer     int    // bytes; 0: the kernel's choice
	maxStalled       int    // 0: no bound
	limits           Limits // for the admission, and the rates of each tunnel
	refusal          Refusal
	ejection         health.Ejection
	slowStart        time.Duration // 0: none
	affinity         *affinityRule // nil: none
	healthCheck      *HealthCheck  // defaults filled in; nil: none
	proxiesHTTP      bool
	detached         bool
	accessLog        bool
	logger           *slog.Logger // nil: slog.Default(), called each time
	hasRequestHooks  bool         // functions of the program other than those of trace get requests
}

// compile checks all settings together. Errors are [*ConfigError] values.
func (s *settings) compile() (config, []error) {
	var errs []error
	c := config{
		balancer:         s.balancer,
		dial:             s.dial,
		tls:              backendTLS(s.tls),
		admit:            s.admit,
		rewrite:          s.rewrite,
		response:         s.response,
		errorHandler:     s.errorHandler,
		handshakeTimeout: orDefault(s.timeouts.Handshake, defaultHandshakeTimeout),
		closeTimeout:     orDefault(s.timeouts.Close, defaultCloseTimeout),
		writeStall:       orDefault(s.timeouts.WriteStall, defaultWriteStall),
		idle:             max(s.timeouts.Idle, 0),
		lifetime:         max(s.timeouts.Lifetime, 0),
		ping:             s.ping,
		messageSize:      max(s.limits.MessageSize, 0),
		socketBuffer:     min(max(s.limits.SocketBuffer, 0), math.MaxInt32), // the largest value that a kernel accepts
		maxStalled:       max(s.limits.StalledTunnels, 0),
		limits:           s.limits,
		refusal:          s.refusal,
		slowStart:        max(s.slowStart, 0),
		proxiesHTTP:      s.proxiesHTTP,
		detached:         s.detached,
		accessLog:        s.accessLog,
		logger:           s.logger,
	}
	if c.balancer == nil {
		c.balancer = LeastTunnels()
	}
	if v, ok := c.balancer.(interface{ validate() error }); ok {
		if err := v.validate(); err != nil {
			errs = append(errs, &ConfigError{Option: "WithBalancer", Value: c.balancer, Err: err})
		}
	}
	if c.dial == nil {
		c.dial = new(net.Dialer).DialContext
		c.isDefaultDial = true
	}
	errs = s.checkRates(errs)
	errs = s.compileEjection(errs, &c)
	errs = s.compileHealthCheck(errs, &c)
	errs = s.compileAffinity(errs, &c)
	c.hasRequestHooks = s.hasRequestHooks()
	errs = s.compileTrusted(errs, &c)
	errs = s.compileOrigins(errs, &c)
	if s.backendsOption == "" {
		errs = append(errs, &ConfigError{Option: "WithBackends", Value: "",
			Err: errors.New("not given; for an empty set give WithBackends()")})
	}
	return c, errs
}

// hasRequestHooks reports whether a function of the program gets requests, other than the hooks of
// a [Trace]: see [hooks.needRequests]. A balancer that is not known to look at no request counts as
// one, because of its KeyFunc.
func (s *settings) hasRequestHooks() bool {
	switch s.balancer.(type) {
	case nil, *leastTunnels, *roundRobin, random:
	default:
		return true
	}
	return s.affinity != nil && s.affinity.Key != nil || s.limits.ClientKey != nil || s.admit != nil || s.rewrite != nil || s.response != nil || s.errorHandler != nil
}

func (s *settings) checkRates(errs []error) []error {
	for _, limit := range []struct {
		name string
		rate Rate
	}{
		{"Handshakes", s.limits.Handshakes}, {"HandshakesPerClient", s.limits.HandshakesPerClient},
		{"ClientMessages", s.limits.ClientMessages}, {"ClientBytes", s.limits.ClientBytes},
	} {
		if r := limit.rate.PerSecond; math.IsNaN(r) {
			errs = append(errs, &ConfigError{Option: "WithLimits." + limit.name + ".PerSecond", Value: r, Err: errors.New("not a number")})
		}
	}
	return errs
}

func (s *settings) compileEjection(errs []error, c *config) []error {
	e := s.ejection
	bad := func(field string, value any, text string) {
		errs = append(errs, &ConfigError{Option: "WithEjection." + field, Value: value, Err: errors.New(text)})
	}
	if e.Failures < 0 {
		bad("Failures", e.Failures, "negative; for no ejection set Off")
	}
	if e.Backoff < 0 {
		bad("Backoff", e.Backoff, "negative")
	}
	if e.MaxBackoff < 0 {
		bad("MaxBackoff", e.MaxBackoff, "negative")
	}
	if !(e.MaxShare >= 0 && e.MaxShare <= 1) { // also if it is no number
		bad("MaxShare", e.MaxShare, "want 0 to 1")
	}
	c.ejection = health.Ejection{
		Failures: cmp.Or(e.Failures, defaultFailures),
		Backoff:  cmp.Or(e.Backoff, defaultBackoff),
		MaxShare: cmp.Or(e.MaxShare, defaultMaxShare),
	}
	c.ejection.MaxBackoff = cmp.Or(e.MaxBackoff, max(defaultMaxBackoff, c.ejection.Backoff))
	if m := c.ejection.MaxBackoff; m >= 0 && m < c.ejection.Backoff {
		bad("MaxBackoff", m, "less than Backoff")
	}
	if e.Off {
		c.ejection.Failures = 0
	}
	return errs
}

func (s *settings) compileHealthCheck(errs []error, c *config) []error {
	if s.healthCheck == nil {
		return errs
	}
	h := *s.healthCheck
	bad := func(field string, value any) {
		errs = append(errs, &ConfigError{Option: "WithHealthCheck." + field, Value: value, Err: errors.New("negative; zero means the default")})
	}
	if h.Interval < 0 {
		bad("Interval", h.Interval)
	}
	if h.Timeout < 0 {
		bad("Timeout", h.Timeout)
	}
	if h.Fall < 0 {
		bad("Fall", h.Fall)
	}
	if h.Rise < 0 {
		bad("Rise", h.Rise)
	}
	if h.DrainAfter < 0 {
		bad("DrainAfter", h.DrainAfter)
	}
	if h.Probe == nil {
		h.Probe = TCPProbe()
	}
	h.Interval, h.Timeout = cmp.Or(h.Interval, defaultProbeInterval), cmp.Or(h.Timeout, defaultProbeTimeout)
	h.Timeout = min(h.Timeout, math.MaxInt64-probeGrace)
	h.Fall, h.Rise = cmp.Or(h.Fall, defaultFall), cmp.Or(h.Rise, defaultRise)
	c.healthCheck = &h
	return errs
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

// orDefault applies the rule of all durations: zero means the default, negative means
// off. It returns 0 for off.
func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return max(d, 0)
}

// backendTLS returns the configuration that is cloned for each connection over TLS.
func backendTLS(c *tls.Config) *tls.Config {
	if c == nil {
		c = new(tls.Config)
	}
	c = c.Clone()
	// With ALPN a backend could choose HTTP/2, which has no Upgrade:
	// https://www.rfc-editor.org/rfc/rfc9113#section-8.6-1
	c.NextProtos = []string{"http/1.1"}
	return c
}
