package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/wsproxy/wsproxy"
)

// flags are the settings of the command line.
type flags struct {
	listen          string
	backends        stringList
	balancer        string
	trusted         stringList
	origins         stringList
	timeouts        wsproxy.Timeouts
	ping            wsproxy.Ping
	limits          wsproxy.Limits
	tlsCert, tlsKey string
	ca              string
	proxiesHTTP     bool
	isDetached      bool
	drainDelay      time.Duration
	grace           time.Duration
	admin           string
	adminTokenFile  string
	metrics         string
	name            string
	logsAccess      bool
	isVerbose       bool
}

// parseFlags parses args, and checks what [wsproxy.New] does not check. With -h it
// prints the usage to stdout and returns [flag.ErrHelp].
func parseFlags(args []string, stdout io.Writer) (*flags, error) {
	f := new(flags)
	fs := f.flagSet()
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(stdout)
			fs.Usage()
		}
		return nil, err
	}
	isSet := make(map[string]bool)
	fs.Visit(func(f *flag.Flag) { isSet[f.Name] = true })
	switch {
	case fs.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case len(f.backends) == 0:
		return nil, errors.New("no -backend given; see -h")
	case (f.tlsCert == "") != (f.tlsKey == ""):
		return nil, errors.New("-tls-cert and -tls-key go together")
	case isSet["admin-token-file"] && f.adminTokenFile == "":
		return nil, errors.New("-admin-token-file is empty; without a token, leave it out")
	case f.adminTokenFile != "" && f.admin == "":
		return nil, errors.New("-admin-token-file needs -admin")
	case f.drainDelay < 0 || f.grace < 0:
		return nil, errors.New("-drain-delay and -grace may not be negative")
	}
	return f, nil
}

// flagSet returns a FlagSet that sets the fields of f. It prints nothing: main
// prints the error, once.
func (f *flags) flagSet() *flag.FlagSet {
	fs := flag.NewFlagSet("gateway", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&f.listen, "listen", "127.0.0.1:8000", "`address` to listen on")
	fs.Var(&f.backends, "backend", "`URL` of a backend: http, https, ws, wss or unix; repeatable")
	fs.StringVar(&f.balancer, "balancer", "least-tunnels", "`policy`: least-tunnels, round-robin, random, hash-ip, hash-query:NAME, hash-cookie:NAME or hash-header:NAME")
	fs.Var(&f.trusted, "trusted", "address or `prefix` of a proxy in front, whose X-Forwarded-* fields are trusted; repeatable")
	fs.Var(&f.origins, "origin", "`pattern` of an Origin that may connect, besides the request's own Host; repeatable (default: all may)")
	fs.DurationVar(&f.timeouts.Handshake, "handshake-timeout", 0, "for an upgrade, all attempts together; negative means none (default 10s)")
	fs.DurationVar(&f.ping.Client, "ping", 0, "`interval` after which a quiet client is pinged; 0 means never, 25s is a good value")
	fs.DurationVar(&f.timeouts.Idle, "idle", 0, "`time` after which an idle tunnel is closed; 0 means never")
	fs.DurationVar(&f.timeouts.Lifetime, "lifetime", 0, "maximum `time` for which a tunnel is open; 0 means no limit")
	fs.DurationVar(&f.timeouts.WriteStall, "write-stall", 0, "`time` after which a side is cut that takes nothing; negative means never (default 2m0s)")
	fs.Int64Var(&f.limits.MessageSize, "max-message", 0, "maximum `bytes` of a message; 0 means no limit")
	fs.IntVar(&f.limits.SocketBuffer, "socket-buffer", 0, "`bytes` of each socket buffer of a connection; 0 means the kernel's default")
	fs.IntVar(&f.limits.StalledTunnels, "stalled", 0, "maximum `number` of stalled tunnels, where one side does not read; the proxy ends those beyond it; 0 means no limit")
	fs.StringVar(&f.tlsCert, "tls-cert", "", "`file` with the server's TLS certificate and its chain")
	fs.StringVar(&f.tlsKey, "tls-key", "", "`file` with the certificate's key")
	fs.StringVar(&f.ca, "ca", "", "`file` with the root certificates for backends (default: the system's)")
	fs.BoolVar(&f.proxiesHTTP, "http", false, "proxy requests that are no upgrade too, for SockJS, Socket.IO and SignalR")
	fs.BoolVar(&f.isDetached, "detach", false, "release the server's goroutine and buffers when a tunnel is open")
	fs.DurationVar(&f.drainDelay, "drain-delay", 0, "`time` from SIGTERM to the shutdown, in which /readyz fails and new clients are still served (default none)")
	fs.DurationVar(&f.grace, "grace", 30*time.Second, "maximum time of a shutdown, after which tunnels are cut")
	fs.StringVar(&f.admin, "admin", "", "`address` of the admin page, /livez and /readyz; without -admin-token-file a loopback address (default none)")
	fs.StringVar(&f.adminTokenFile, "admin-token-file", "", "`file` with the password for -admin, where any user name is taken as the one who acts; a regular file of at most 4 KiB, read at each request")
	fs.StringVar(&f.metrics, "metrics", "", "`address`, another one than that of -admin, of /metrics for Prometheus, /livez and /readyz, all without a password (default none)")
	fs.StringVar(&f.name, "name", "", "`name` of this gateway on the admin page (default: the host's), and in the label proxy of metrics (default: no label)")
	fs.BoolVar(&f.logsAccess, "access-log", false, "log a line when a tunnel opens, and one when it closes")
	fs.BoolVar(&f.isVerbose, "v", false, "log every tunnel, every refusal and more")
	return fs
}

// options returns the options of the proxy.
func (f *flags) options() ([]wsproxy.Option, error) {
	balancer, err := newBalancer(f.balancer)
	if err != nil {
		return nil, err
	}
	opts := []wsproxy.Option{
		wsproxy.WithBackends(f.backends...),
		wsproxy.WithBalancer(balancer),
		wsproxy.WithTrustedProxies(f.trusted...),
		wsproxy.WithTimeouts(f.timeouts),
		wsproxy.WithPing(f.ping),
		wsproxy.WithLimits(f.limits),
		wsproxy.WithHTTP(f.proxiesHTTP),
		wsproxy.WithDetached(f.isDetached),
		wsproxy.WithAccessLog(f.logsAccess),
	}
	if len(f.origins) > 0 {
		opts = append(opts, wsproxy.WithOriginPatterns(f.origins...))
	}
	if f.ca != "" {
		roots, err := readRoots(f.ca)
		if err != nil {
			return nil, err
		}
		opts = append(opts, wsproxy.WithTLSConfig(&tls.Config{RootCAs: roots}))
	}
	return opts, nil
}

func newBalancer(policy string) (wsproxy.Balancer, error) {
	name, arg, hasArg := strings.Cut(policy, ":")
	if hasArg != (name == "hash-query" || name == "hash-cookie" || name == "hash-header") || hasArg && arg == "" {
		return nil, fmt.Errorf("-balancer %q: only hash-query, hash-cookie and hash-header have a :NAME, and need it", policy)
	}
	switch name {
	case "least-tunnels":
		return wsproxy.LeastTunnels(), nil
	case "round-robin":
		return wsproxy.RoundRobin(), nil
	case "random":
		return wsproxy.Random(), nil
	case "hash-ip":
		return wsproxy.Hash(wsproxy.ByClientIP()), nil
	case "hash-query":
		return wsproxy.Hash(wsproxy.ByQuery(arg)), nil
	case "hash-cookie":
		return wsproxy.Hash(wsproxy.ByCookie(arg)), nil
	case "hash-header":
		return wsproxy.Hash(wsproxy.ByHeader(arg)), nil
	}
	return nil, fmt.Errorf("-balancer %q: no such policy; see -h", policy)
}

func readRoots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it", file)
	}
	return roots, nil
}

// A stringList is a flag that may be given several times.
type stringList []string

func (l *stringList) String() string { return strings.Join(*l, " ") }

func (l *stringList) Set(s string) error {
	*l = append(*l, s)
	return nil
}
