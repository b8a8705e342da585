package wsproxy

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/wsproxy/wsproxy/internal/dialer"
	"github.com/wsproxy/wsproxy/internal/health"
)

// minFairTimeout is how long a backend may take to respond without being blamed for a client
// that leaves, or a deadline of the caller's that passes. After that it is blamed: a backend
// that swallows connections has the fewest tunnels, and one impatient client after another
// would be sent to it first.
const minFairTimeout = time.Second

// A result is what became of an attempt.
type result struct {
	err    error       // why it failed, or nil
	status int         // of the response; 0 without one
	header http.Header // of the response

	took       time.Duration // until then
	canceled   error         // why the upgrade was canceled, or nil
	mayBeShort bool          // the deadline may have left little time: see below
}

// outcome returns what r shows about the backend, and if it is Busy, for how long.
func (r *result) outcome(now time.Time) (o health.Outcome, retryAfter time.Duration) {
	failed, _ := errors.AsType[*BackendError](r.err)
	switch {
	case errors.Is(r.err, ErrTryNext):
		return health.Unanswered, 0
	case r.status != 0: // the response may have been dropped
		return outcomeOfResponse(r.status, r.header, now)
	case failed == nil:
		return health.Neutral, 0
	case r.canceled != nil && (r.took < minFairTimeout || r.canceled == ErrShutdown):
		return health.Neutral, 0 // the client or the proxy ended the attempt
	case dialer.IsLocal(r.err):
		return health.Neutral, 0
	case failed.Timeout() && r.mayBeShort && r.took < minFairTimeout:
		return health.Neutral, 0 // a middleware's deadline, or the queue, left the backend too little time
	case !failed.isConnected:
		return health.Unreached, 0
	}
	return health.Unanswered, 0
}

func outcomeOfResponse(status int, h http.Header, now time.Time) (health.Outcome, time.Duration) {
	switch {
	case status == http.StatusSwitchingProtocols:
		return health.Opened, 0
	case status < 500:
		return health.Answered, 0
	case status == http.StatusServiceUnavailable:
		if after, ok := retryAfterOf(h, now); ok {
			return health.Busy, after
		}
		return health.Unanswered, 0
	case status == http.StatusBadGateway, status == http.StatusGatewayTimeout:
		return health.Unanswered, 0
	}
	return health.Responded, 0
}

// retryAfterOf returns the time of the Retry-After field, if h has a valid one.
// https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
func retryAfterOf(h http.Header, now time.Time) (after time.Duration, ok bool) {
	field := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(field, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second, true
	}
	if date, err := http.ParseTime(field); err == nil {
		return max(date.Sub(now), 0), true
	}
	return 0, false
}

// A plainResult is what became of an attempt of a request that is no upgrade.
type plainResult struct {
	err       error // why it failed, or nil
	isClients bool  // the client has left, or its request could not be read: the failure is its own
	isStale   bool  // a connection that was used before ended before a response: the backend may have closed it while it was idle
	status    int   // of the response; 0 without one
}

// outcome returns what r shows about the backend. It is less than for an upgrade: a response
// may take as long as it wants, and a 503 may be about this request only.
func (r *plainResult) outcome() health.Outcome {
	failed, _ := errors.AsType[*BackendError](r.err)
	switch {
	case r.status == http.StatusBadGateway, r.status == http.StatusGatewayTimeout:
		return health.Unanswered
	case r.status >= 500:
		return health.Neutral
	case r.status != 0:
		return health.Answered
	case failed == nil, r.isClients, dialer.IsLocal(r.err):
		return health.Neutral
	case !failed.isConnected:
		return health.Unreached
	case r.isStale:
		return health.Neutral
	}
	return health.Unanswered
}
