// Package health decides, from what became of attempts to use one backend, whether
// other backends are to be tried before it.
//
// A [State] is a value: its methods return the next one. It knows no backend, no
// clock and no lock. Times are durations since a moment that the caller chooses once,
// such as its start.
package health

import "time"

// How long a backend is ejected after a failure. The time for an unreachable one
// doubles with each further failure.
const (
	firstBackoff = 1 * time.Second
	maxBackoff   = 30 * time.Second
)

// An Outcome is the result of one attempt.
type Outcome uint8

const (
	// Neutral shows nothing: the client left, or this host had no descriptor.
	Neutral Outcome = iota

	// OK is a proper response.
	OK

	// Unreached is a connection that failed, or no response in time.
	Unreached

	// BadResponse is a backend that was reached, and then closed the connection or
	// did not give a proper response.
	BadResponse
)

// A Flag is a fault of a backend.
type Flag uint8

const (
	// None: the last attempt that showed anything succeeded, or there was none.
	None Flag = iota

	// Unreachable: the last attempt was Unreached. The backend is ejected for 1 s
	// after the first failure in a row, and for twice as long after each further
	// one, up to 30 s.
	Unreachable

	// Resting: the last attempt was a BadResponse. The backend is ejected for 1 s,
	// however often that has happened in a row: the reason may be in the request,
	// which any client can send, and to find out how the backend does now costs no
	// more than a short attempt.
	Resting
)

// String returns "none", "unreachable" or "resting".
func (f Flag) String() string {
	switch f {
	case None:
		return "none"
	case Unreachable:
		return "unreachable"
	case Resting:
		return "resting"
	}
	return "unknown flag"
}

// A State is the health of one backend. The zero State is that of a backend without a
// known fault.
//
// A flag is raised by a failure and cleared by a success. While it is up, the backend
// is ejected until a time; from then on it is on probation: one attempt at a time
// finds out whether it works again.
type State struct {
	Flag   Flag
	Reason string        // of the last failure; empty without a flag
	Since  time.Duration // when Flag was raised; 0 without a flag

	failures     int           // in a row; 0 without a flag
	ejectedUntil time.Duration // 0 without a flag
	probes       int           // attempts under way that began while a flag was up
}

// Record returns the state after an attempt that ended at now with o, because of
// reason. An attempt that fails while the backend is ejected already counts for nothing,
// so that a restart under a hundred attempts is one failure.
func (s State) Record(now time.Duration, o Outcome, reason string) State {
	switch o {
	case OK:
		return State{probes: s.probes}
	case Unreached:
		return s.eject(now, Unreachable, s.failures+1, reason)
	case BadResponse:
		return s.eject(now, Resting, 1, reason)
	}
	return s
}

// eject returns the state after the nth failure in a row.
func (s State) eject(now time.Duration, f Flag, n int, reason string) State {
	if s.ejectedUntil > now {
		return s
	}
	if s.Flag != f {
		s.Flag, s.Since = f, now
	}
	s.Reason, s.failures, s.ejectedUntil = reason, n, now+backoff(n)
	return s
}

// backoff returns how long a backend is ejected after the nth failure in a row.
func backoff(n int) time.Duration {
	if n > 5 {
		return maxBackoff
	}
	return min(firstBackoff<<(n-1), maxBackoff)
}

// BeginProbe returns the state while one more attempt probes the backend. Each one is
// followed by one EndProbe.
func (s State) BeginProbe() State {
	s.probes++
	return s
}

// EndProbe returns the state after an attempt that probed the backend.
func (s State) EndProbe() State {
	s.probes--
	return s
}

// IsFailing reports whether a flag is up.
func (s *State) IsFailing() bool { return s.Flag != None }

// IsAvoided reports whether other backends are to be tried before this one at now: it
// is ejected, or one attempt probes it, for which others need not wait. An upgrade that
// an attempt has failed already, which isRetry says, probes no backend.
func (s *State) IsAvoided(now time.Duration, isRetry bool) bool {
	return s.Flag != None && (s.ejectedUntil > now || isRetry || s.probes > 0)
}
