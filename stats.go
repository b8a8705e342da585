package wsproxy

import (
	"fmt"
	"time"

	"github.com/wsproxy/wsproxy/internal/relay"
)

// Stats are gauges of a [Proxy], and counters since [New].
type Stats struct {
	Upgrading int // upgrades under way
	Waiting   int // those of them that wait for a backend: see Limits.Queue
	Tunnels   int // open tunnels

	// Requests by their result. A request is refused if it got no tunnel because of a
	// check, a policy, a limit, a hook, a shutdown, a client that disconnected, a
	// deadline of a middleware, or the backend's own response.
	Opened  uint64 // a tunnel opened
	Refused uint64
	Failed  uint64 // no backend gave a proper response, there was no backend, or it waited for one in vain

	// Refusals has the requests of Refused and Failed by their reason: see [RefusalCount].
	Refusals []RefusalCount

	// The upgrades of Refused and of Failed for which no backend was picked. The others are in
	// UpgradesRefused and UpgradesFailed of [BackendStats]. Without [WithHTTP] a request that is no
	// upgrade counts as one that fails its check.
	RefusedUnpicked, FailedUnpicked uint64

	// Phases has the times of the phases of upgrades: see [PhaseHistograms]. QueueWaits is
	// Phases.Queue without the upgrades that did not wait.
	Phases     PhaseHistograms
	QueueWaits Histogram

	// Retries are the attempts on another backend because one had failed; an attempt after a wait in
	// the queue is none. RetriesDenied is how often there was none because the budget was used up.
	Retries, RetriesDenied uint64

	// Requests that are no upgrade: see WithHTTP. Those that get no backend's response are in
	// Refused and Failed.
	Requests  int    // in flight, from their arrival to the end of their response
	Responded uint64 // the client got a backend's response

	// Traffic of all tunnels, open ones included, without frames that the proxy itself
	// sent. It never decreases: what a side had not been sent when its tunnel was cut is in it, and
	// not in [TunnelEnd].
	ToBackend, ToClient Traffic

	// Ended has the tunnels that have ended, by the side and the cause: see [EndCount].
	Ended []EndCount

	// How long the pings of [WithPing] took that were answered by their pongs, with buckets from
	// 1 ms to 10 s.
	ClientRoundTrips, BackendRoundTrips Histogram

	// Pings that were not answered in time, each of which has ended its tunnel.
	ClientPingsUnanswered, BackendPingsUnanswered uint64

	Cut            uint64         // tunnels in Ended that were cut: see [TunnelEnd.Cut]
	CloseCodes     []CodeCount    // tunnels in Ended, by the side and the Close code: see [CodeCount]
	LifetimesByEnd []EndLifetimes // tunnels in Ended, by the side and the cause: see [EndLifetimes]

	EventLoopTunnels int // those of Tunnels that an event loop relays: see [EngineEventLoop]

	// Stalled are those of Tunnels that are not ending, and of which a side has taken nothing for a
	// second or more, though something waits for it: see [Limits.StalledTunnels].
	Stalled int

	// Buffered has the bytes that wait in the proxy's own memory for sides that do not take them. It
	// may be half a second old.
	Buffered int64

	// EventLoopLag has how long event loops took from one look at their connections to the next,
	// which is how long a message may have waited for its loop, with buckets from 100 µs to 1 s.
	// The time in which a loop has nothing to do is not in it.
	EventLoopLag Histogram

	Affinity   AffinityCounts // requests by the result of [WithAffinity]
	HookPanics []PanicCount   // panics of the program's hooks: see [PanicCount]

	Handshakes Histogram // opening handshakes with backends: see BackendStats
	Lifetimes  Histogram // tunnels that have ended: see BackendStats
}

// BackendStats are gauges of a [Backend], and its counters since the proxy has known its ID.
// If an attempt has failed on one backend, and succeeded on another, each counts its own.
type BackendStats struct {
	Tunnels int    // open tunnels, without the upgrades under way that NumTunnels has
	Opened  uint64 // tunnels that have opened

	Upgrading int // upgrades under way that have picked it

	// Upgrades that got no tunnel, and whose [RefusedInfo.Backend] is this one. They are in Refused
	// and Failed of [Stats] too.
	UpgradesRefused, UpgradesFailed uint64

	// Requests that are no upgrade: see WithHTTP.
	Requests  int    // in flight: Load counts them
	Responded uint64 // attempts with a response; those without one are in Failed, Unreached and Abandoned

	// ResponseClasses has the responses of Responded by the first digit of their status: index 0
	// is for 1xx, and is 0, and index 4 is for 5xx.
	ResponseClasses [5]uint64

	// Attempts by their outcome, as [Trace.Attempted] reports them. Each counts once.
	Accepted  uint64 // it responded with 101
	Refused   uint64 // it gave a response that raises no flag, such as 404 or 500
	Full      uint64 // it responded with 503 and Retry-After: see [FlagFull]
	Failed    uint64 // it was reached, and gave no proper response: see [FlagResting]
	Unreached uint64 // the connection failed: see [FlagUnreachable]
	Abandoned uint64 // the client left, the proxy was shut down, or its own host was at fault

	// How often the backend was ejected because responses failed, and because tunnels were lost: see
	// [Ejection]. It counts each time that [FlagEjected] was raised, and each time that the backend
	// was ejected again because the flag's time was over and it still failed.
	EjectedByResponses, EjectedByTunnels uint64

	// Probes of [WithHealthCheck], and the result of the last one at the present address. One that
	// has not returned in time has failed, and again after each further interval.
	ProbesPassed, ProbesFailed uint64
	LastProbe                  ProbeResult

	Drains DrainCounts // calls of [Proxy.Drain] that have ended

	// Traffic of all its tunnels, as that of [Stats].
	ToBackend, ToClient Traffic

	// Ended has the tunnels that have ended, by the side and the cause: see [EndCount].
	Ended []EndCount

	Handshakes Histogram // from the dial to the 101, for each that is Accepted; buckets from 1 ms to 10 s
	Lifetimes  Histogram // from the 101 to the end, for each tunnel in Ended; buckets from 1 s to 7 days
}

// A RefusalCount counts the requests that were refused or failed for one reason. A list of
// them has each reason that has happened, in ascending order.
type RefusalCount struct {
	Reason Reason
	Count  uint64
}

// UpgradeTimes are the times of the phases of an upgrade, until it opened a tunnel or was refused.
// That of a phase that it has not reached is zero, and that of the one in which it was refused is
// how long it was in it. Together they are at most the whole time: other hooks than that of [WithAdmit], and the
// response to the client, are in none of them.
type UpgradeTimes struct {
	Admit  time.Duration // from its arrival until it was let in: checks, limits, and the hook of [WithAdmit]
	Queue  time.Duration // waiting in the queue until a backend was picked, all waits together: see Limits.Queue
	Dial   time.Duration // connecting to backends, names and TLS included, all attempts together
	Answer time.Duration // from the connections to the heads of the backends' responses, all attempts together
}

// PhaseHistograms have the [UpgradeTimes] of upgrades that have ended, with buckets from 1 ms to
// 10 s. Each counts once in each phase that it has reached: in Admit all upgrades, but for those
// that come after [Proxy.Shutdown]; in Queue those that were let in, most of them with 0; in Dial
// those that have dialed; in Answer those that have connected.
type PhaseHistograms struct{ Admit, Queue, Dial, Answer Histogram }

// A CodeCount counts the tunnels that ended by one side with one Close code. A list of them has
// each pair that has happened, by side and code in ascending order.
type CodeCount struct {
	Side Side

	// Code is a [TunnelEnd.Code] from 1000 to 1015; 0 for none; or -1 for any other one: peers
	// choose them, and there would be no bound for their number.
	// https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number
	Code int

	Count uint64
}

// EndLifetimes are the lifetimes of the tunnels that ended by one side and one cause, from the
// 101 to the end, with buckets from 1 s to 7 days. A list of them has each pair that has happened,
// by side and cause in ascending order.
type EndLifetimes struct {
	Side      Side
	Cause     Cause
	Lifetimes Histogram
}

// AffinityCounts count the requests that got a backend's response, by what [WithAffinity] did with
// them. Each counts once at most, by the backend that responded. Without the option all are zero.
type AffinityCounts struct {
	Bound   uint64 // the cookie or the key led to it
	New     uint64 // there was no cookie and no key, and the response has got a cookie
	Rebound uint64 // the backend of the cookie was removed or could not be used, or none could be used by the key
	Invalid uint64 // the cookie was forged, had expired, or was signed with a key that is none of Affinity.Keys
}

// A PanicCount counts the panics of one hook. A list of them has each hook that has panicked, in
// alphabetical order. A panic with [http.ErrAbortHandler] does not count, and neither does one of
// the handler of [WithErrorHandler], which is the server's to recover.
type PanicCount struct {
	// Hook is the option that has the hook, as "WithRewrite", or the type and the field or method,
	// as "Balancer.Pick", "HealthCheck.Probe" or "Trace.Closed". It is "CloseTunnels" for the
	// function that was given to [Proxy.CloseTunnels], "WithLogger" for the handler of the logger,
	// and "Proxy.ServeHTTP" for what is outside all hooks: a method of a connection, for instance.
	Hook  string
	Count uint64
}

// A ProbeResult is the result of a probe of a backend. Several may have to fail before
// [FlagCheckFailed] is raised: see [HealthCheck].
type ProbeResult uint8

const (
	ProbeNone   ProbeResult = iota // there was none
	ProbePassed                    // the backend works
	ProbeFailed                    // it does not
)

// String returns "none", "passed" or "failed".
func (r ProbeResult) String() string {
	switch r {
	case ProbeNone:
		return "none"
	case ProbePassed:
		return "passed"
	case ProbeFailed:
		return "failed"
	}
	return fmt.Sprintf("ProbeResult(%d)", uint8(r))
}

// DrainCounts count the calls of [Proxy.Drain] by how they ended. Each counts once; what
// [BackendConfig.Drain] does is not counted.
type DrainCounts struct {
	Emptied    uint64 // the backend had no tunnels left
	Left       uint64 // the context ended first, or the proxy was shut down
	Resumed    uint64 // by [Proxy.Resume]
	Superseded uint64 // another call for the backend took over, whatever the earlier one has returned
}

// An EndCount counts the tunnels that ended by one side and one cause. A list of them
// has each pair that has happened, by side and cause in ascending order.
type EndCount struct {
	Side  Side
	Cause Cause
	Count uint64
}

// A Histogram counts durations by fixed buckets, as Prometheus does.
type Histogram struct {
	Count   uint64        // of all durations
	Sum     time.Duration // of all durations
	Buckets []Bucket      // by ascending bounds; what exceeds the last one is in Count only
}

// A Bucket counts the durations of at most Bound, so that those of the buckets before it are
// in it too.
type Bucket struct {
	Bound time.Duration
	Count uint64
}

// Traffic counts bytes and messages in one direction.
type Traffic struct {
	Bytes    uint64 // on the wire, frame headers included
	Messages uint64 // data messages that were relayed to their end; if a tunnel was cut, some may not have been
}

// Stats returns the current counters. It adds up the traffic of all open tunnels, which
// delays no upgrade.
func (p *Proxy) Stats() Stats {
	s, tunnels := p.registry.snapshot()
	s.Waiting = int(p.queue.numWaiting.Load())
	s.RetriesDenied = p.retries.denied.Load()
	s.HookPanics = p.panics.sorted()
	s.ClientRoundTrips = newHistogram(p.engine.RoundTrips(relay.Client))
	s.BackendRoundTrips = newHistogram(p.engine.RoundTrips(relay.Backend))
	p.addEngine(&s)
	p.phases.addTo(&s)
	addOpenTraffic(tunnels, &s.ToBackend, &s.ToClient)
	return s
}

// addEngine sets the fields of s that the engine counts.
func (p *Proxy) addEngine(s *Stats) {
	e := p.engine.Stats()
	s.EventLoopTunnels = min(e.EventLoopTunnels, s.Tunnels) // some may have opened since those were counted
	s.Stalled, s.Buffered, s.EventLoopLag = e.Stalled, e.Buffered, newHistogram(e.EventLoopLag)
	s.ClientPingsUnanswered, s.BackendPingsUnanswered = e.ClientPingsUnanswered, e.BackendPingsUnanswered
}

// Stats returns the current counters. They belong to the ID: they are kept while the ID is in
// the set or has tunnels, and begin at zero if it is added again later. It adds up the traffic
// of the backend's open tunnels, which delays no upgrade.
func (b *Backend) Stats() BackendStats {
	s, tunnels := b.p.registry.backendSnapshot(b)
	s.Upgrading = int(b.upgrading.Load())
	addOpenTraffic(tunnels, &s.ToBackend, &s.ToClient)
	return s
}
