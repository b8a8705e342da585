package wsproxy

import (
	"errors"
	"fmt"
	"net"
	"net/http"
)

// Decisions that callers branch on, with [errors.Is].
var (
	// ErrNoBackend means that no backend may be chosen now: the set is empty,
	// or all that it holds have been tried for this request. The client gets 503.
	ErrNoBackend = errors.New("wsproxy: no backend to choose")

	// ErrLimit means that a limit is reached: every backend that could be
	// chosen carries its MaxTunnels. The client gets 503 and Retry-After.
	ErrLimit = errors.New("wsproxy: limit reached")

	// ErrShutdown means that [Proxy.Shutdown] or [Proxy.Close] has been called.
	// It unwraps to [net.ErrClosed]. The client gets 503 and Retry-After.
	ErrShutdown error = shutdownError{}
)

type shutdownError struct{}

func (shutdownError) Error() string { return "wsproxy: proxy is shut down" }
func (shutdownError) Unwrap() error { return net.ErrClosed }

// A ConfigError tells which option was given a value that cannot be used.
// [New] joins one for every mistake that it finds (see [errors.Join]);
// [Proxy.SetBackends] does the same.
type ConfigError struct {
	Option string // the option's name, and the field within it: "WithBackendConfigs[2].URL"
	Value  any    // what was given
	Err    error  // what is wrong with it
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("wsproxy: %s: %v: %v", e.Option, quoted(e.Value), e.Err)
}

// Unwrap returns e.Err.
func (e *ConfigError) Unwrap() error { return e.Err }

// quoted makes strings stand out, so that an empty one can be seen.
func quoted(v any) any {
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%q", s)
	}
	return v
}

// A StatusError refuses a request with an HTTP status. The proxy makes one for
// each request that fails a check of RFC 6455 or a policy; a hook returns one to
// choose the status that its client gets.
type StatusError struct {
	Status int         // 400 to 599; any other is answered with 500
	Header http.Header // set on the answer; may be nil
	Err    error       // says why; its text is the body of the answer. If nil, that of the status is
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("wsproxy: client's request refused with %d", e.Status)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns e.Err.
func (e *StatusError) Unwrap() error { return e.Err }

// A BackendError tells why one attempt to reach one backend failed. When several
// were tried, the error that the handler of [WithErrorHandler] sees joins one for
// each (see [errors.Join]), in the order of the attempts.
type BackendError struct {
	ID  string // the backend's
	Op  string // "dial"; "handshake", TLS included, for what comes after it
	Err error
}

func (e *BackendError) Error() string {
	return fmt.Sprintf("wsproxy: %s backend %s: %v", e.Op, e.ID, e.Err)
}

// Unwrap returns e.Err.
func (e *BackendError) Unwrap() error { return e.Err }

// Timeout reports whether the attempt ran out of time.
func (e *BackendError) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.As(e.Err, &t) && t.Timeout()
}

// A DrainError tells what became of the tunnels that a shutdown found, when some of
// them had to be cut.
type DrainError struct {
	Closed int   // ended by a closing handshake, or by a side that went away
	Cut    int   // a side was cut without a Close frame, or did not answer it
	Err    error // the context's error; nil if the context did not end
}

func (e *DrainError) Error() string {
	s := fmt.Sprintf("wsproxy: shutdown: %d tunnels closed, %d cut", e.Closed, e.Cut)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns e.Err.
func (e *DrainError) Unwrap() error { return e.Err }
