package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
)

// Errors that callers compare with [errors.Is].
var (
	// ErrNoBackend means that there is no backend to choose: the set is empty, all in it
	// drain, or the balancer has returned it. The client gets 503.
	ErrNoBackend = errors.New("wsproxy: no backend to choose")

	// ErrLimit means that a limit is reached: one of [Limits], or all backends that are
	// left to choose have their MaxTunnels. The client gets 503, or 429 for a limit of each
	// client, and Retry-After.
	ErrLimit = errors.New("wsproxy: limit reached")

	// ErrTryNext is what the hook of [WithResponse] returns, by itself or wrapped, to drop a
	// backend's response and have another backend tried. The attempt counts as failed. If no
	// other backend is left, or three were tried, the client gets the last 502, 503 or 504 of
	// another one, or else 502 or 503, as after any failed attempt. A WebSocket that the
	// backend has opened is closed with 1001. For a request that is no upgrade ([WithHTTP]) no
	// other backend is tried, because it was sent already: the client gets 502.
	ErrTryNext = errors.New("wsproxy: the response is dropped, and the next backend tried")

	// ErrResumed is what [Proxy.Drain] returns when [Proxy.Resume] has ended it.
	ErrResumed = errors.New("wsproxy: drain ended: the backend was resumed")

	// ErrNotMoving means that [Proxy.Rebalance] has stopped, because more than half of the
	// clients whose tunnels it closed came back to the same backend. The balancer sends them
	// there, or they are bound to it: see [Hash] and [WithAffinity].
	ErrNotMoving = errors.New("wsproxy: rebalance: clients come back to the same backend")

	// ErrShutdown means that [Proxy.Shutdown] or [Proxy.Close] has been called.
	// It unwraps to [net.ErrClosed]. The client gets 503 and Retry-After.
	ErrShutdown error = shutdownError{}

	errUnknownBackend = errors.New("not in the set, and without tunnels")
)

type shutdownError struct{}

func (shutdownError) Error() string { return "wsproxy: proxy is shut down" }
func (shutdownError) Unwrap() error { return net.ErrClosed }

// A ConfigError reports an option with a value that cannot be used. [New] and
// [Proxy.SetBackends] join one for each mistake (see [errors.Join]).
type ConfigError struct {
	Option string // the option's name, and the field within it: "WithBackendConfigs[2].URL"
	Value  any    // the value
	Err    error  // why it cannot be used
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("wsproxy: %s: %v: %v", e.Option, quoted(e.Value), e.Err)
}

// Unwrap returns e.Err.
func (e *ConfigError) Unwrap() error { return e.Err }

// quoted puts strings in quotes, so that an empty string can be seen.
func quoted(v any) any {
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%q", s)
	}
	return v
}

// A StatusError refuses a request with an HTTP status. The proxy returns one for a
// request that fails a check of RFC 6455 or a policy. A hook returns one to choose the
// client's status.
type StatusError struct {
	Status int         // 400 to 599; with any other value the client gets 500
	Header http.Header // fields to set in the response; may be nil
	Err    error       // the reason, whose text is the response's body; if nil, the text of Status is
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

// A BackendError reports why an attempt on one backend failed. The error for the handler
// of [WithErrorHandler] joins one for each attempt (see [errors.Join]), in the order of
// the attempts.
type BackendError struct {
	ID string // the backend's

	// Op is "dial", or "handshake" for all that follows the dial, TLS included. For a request that
	// is no upgrade, it is "request" for what follows TLS.
	Op string

	Err error

	isConnected bool // TCP, and TLS if there is any
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

// isBadResponse reports whether the backend was reached, and then gave no proper response, or a
// part of one: 502 is the status for that. https://www.rfc-editor.org/rfc/rfc9110#section-15.6.3
func (e *BackendError) isBadResponse() bool {
	return e.isConnected && !e.Timeout() && !errors.Is(e.Err, ErrTryNext) && !errors.Is(e.Err, context.Canceled)
}

// A DrainError reports how the tunnels ended that were open when [Proxy.Shutdown] began, if
// some of them were cut or if an upgrade did not end in time; or how those of one backend did
// until the context of [Proxy.Drain] ended. A tunnel is cut if bytes were dropped, if a Close
// frame was not written, or if a limit of time closed a side: see [TunnelEnd.Cut]. A peer that
// does not answer the proxy's Close frame is no cut.
type DrainError struct {
	ID     string // the backend's; empty for a shutdown
	Closed int    // tunnels that ended and were not cut; for Drain including tunnels that ended by themselves
	Cut    int    // tunnels that were cut, and for a shutdown those that a hook kept from ending
	Left   int    // tunnels that the backend still has, upgrades under way included; 0 for a shutdown
	Err    error  // the context's error; nil if the context did not end
}

func (e *DrainError) Error() string {
	s := fmt.Sprintf("wsproxy: shutdown: %d tunnels closed, %d cut", e.Closed, e.Cut)
	if e.ID != "" {
		s = fmt.Sprintf("wsproxy: drain backend %s: %d tunnels closed, %d cut, %d left", e.ID, e.Closed, e.Cut, e.Left)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns e.Err.
func (e *DrainError) Unwrap() error { return e.Err }
