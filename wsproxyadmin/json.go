package wsproxyadmin

import (
	"time"

	"github.com/wsproxy/wsproxy"
)

// This file has the JSON of /overview, /stream and /tunnels, and of the requests and responses of
// actions. Times are RFC 3339, durations are numbers of the unit in the field's
// name. Lists are never null. Sides, causes, reasons, flags, states, engines and results of
// probes are the texts that their String methods return.

// An overview is the body of /overview, and the data of each event of /stream. This type describes
// it: [snapshot.message] writes it in parts, so that the state is encoded once for all viewers.
//
// A stream has one event a second, without a name. Its first one is Complete: it has the whole
// History and all Events that are kept. Later ones have the news since the one before. A stream
// that reconnects sends the ID of its last event as Last-Event-ID, which an EventSource does by
// itself: its first event is then not Complete, and has the news since that one. If the program
// was restarted meanwhile it is Complete, and Run has changed.
type overview struct {
	state

	Actor    string  `json:"actor"`    // the viewer, as Options.Authorize named it
	Complete bool    `json:"complete"` // replace history and events that are shown; else append
	History  history `json:"history"`
	Events   events  `json:"events"`
}

// A state is the part of an overview that is the same for all viewers of one second.
type state struct {
	At       time.Time `json:"at"`       // when the figures were read
	Run      string    `json:"run"`      // another one after a restart: event numbers begin at 1 again
	Instance string    `json:"instance"` // Options.Instance, or the name of the host
	Version  string    `json:"version"`  // of wsproxy
	Go       string    `json:"go"`       // its version
	ReadOnly bool      `json:"read_only"`
	Redacted bool      `json:"redacted"` // clients are shortened, and values are empty

	Totals   totals    `json:"totals"`
	Opens    rate      `json:"opens"`
	Ends     ends      `json:"ends"`
	Refusals refusals  `json:"refusals"`
	Upgrade  upgrade   `json:"upgrade"`
	Backends []backend `json:"backends"` // those of the set in its order, then removed ones that still have tunnels
}

// totals are gauges and counters of the Proxy.
type totals struct {
	Tunnels          int `json:"tunnels"`
	TunnelsLimit     int `json:"tunnels_limit"` // 0: none
	Upgrading        int `json:"upgrading"`     // upgrades under way
	Waiting          int `json:"waiting"`       // those of them that wait for a backend
	WaitingLimit     int `json:"waiting_limit"` // 0: none may wait
	Requests         int `json:"requests"`      // in flight, that are no upgrade
	EventLoopTunnels int `json:"event_loop_tunnels"`

	Stalled       int    `json:"stalled"`        // tunnels with a side that takes nothing
	BufferedBytes int64  `json:"buffered_bytes"` // in the proxy's own memory
	Cut           uint64 `json:"cut"`            // tunnels that were cut, since the start

	Retries       uint64 `json:"retries"`
	RetriesDenied uint64 `json:"retries_denied"`
	Responded     uint64 `json:"responded"` // requests that are no upgrade, with a backend's response

	ToBackend flow `json:"to_backend"`
	ToClient  flow `json:"to_client"`

	HookPanics []hookPanic `json:"hook_panics"`
}

// A flow is the traffic in one direction. The rates are those of the time since the state
// before, and null in the first one of a stream that no other one was open before.
type flow struct {
	Bytes             uint64   `json:"bytes"`
	Messages          uint64   `json:"messages"`
	BytesPerSecond    *float64 `json:"bytes_per_second"`
	MessagesPerSecond *float64 `json:"messages_per_second"`
}

type hookPanic struct {
	Hook  string `json:"hook"`
	Count uint64 `json:"count"`
}

// A rate is how often something happens. PerSecond is the number in the last whole second.
type rate struct {
	Total      uint64 `json:"total"` // since the start
	PerSecond  uint64 `json:"per_second"`
	LastMinute uint64 `json:"last_minute"` // the last 60 whole seconds
}

type ends struct {
	rate
	ByCause []endRate `json:"by_cause"` // each pair that has happened
}

type endRate struct {
	Side  wsproxy.Side  `json:"side"`
	Cause wsproxy.Cause `json:"cause"`
	rate
}

// refusals are those requests that got no tunnel, the failed ones among them.
type refusals struct {
	rate
	ByReason []refusalRate `json:"by_reason"` // each reason that has happened
}

type refusalRate struct {
	Reason wsproxy.Reason `json:"reason"`
	rate
}

// An upgrade has the times of the upgrades that have opened a tunnel in the last 60 whole
// seconds, each the sum of its phases, and those of the phases: see [wsproxy.UpgradeTimes].
type upgrade struct {
	quantiles
	Phases []phase `json:"phases"` // admit, queue, dial, answer, in this order
}

type phase struct {
	Phase string `json:"phase"`
	quantiles
}

// quantiles are estimates from a histogram, and null where nothing was counted.
type quantiles struct {
	Count uint64   `json:"count"`
	P50MS *float64 `json:"p50_ms"`
	P99MS *float64 `json:"p99_ms"`
}

// A backend is one backend.
type backend struct {
	ID       string               `json:"id"` // quoted if it is not UTF-8, here and everywhere
	URL      string               `json:"url"`
	Weight   int                  `json:"weight"`
	Priority int                  `json:"priority"`
	State    wsproxy.BackendState `json:"state"`    // up, failing, draining or removed
	Since    time.Time            `json:"since"`    // of the state
	Reason   string               `json:"reason"`   // why it is failing: the worst flag's; empty where State says it all
	Flags    []flag               `json:"flags"`    // the worst first
	Refusing bool                 `json:"refusing"` // it refuses more upgrades than it accepts

	Tunnels      int     `json:"tunnels"`       // upgrades under way that have picked it included
	TunnelsLimit int     `json:"tunnels_limit"` // 0: none
	Share        float64 `json:"share"`         // of the tunnels of all, from 0 to 1
	Load         int     `json:"load"`          // what balancers compare
	Requests     int     `json:"requests"`      // in flight, that are no upgrade

	Drain *drain `json:"drain"` // null: it does not drain

	Opened          uint64   `json:"opened"`            // tunnels, since the start
	OpenedPerSecond *float64 `json:"opened_per_second"` // since the state before; null as in flow
	Ended           uint64   `json:"ended"`             // tunnels, since the start

	// Attempts by their outcome, since the start.
	Accepted  uint64 `json:"accepted"`
	Refused   uint64 `json:"refused"`   // a response that raises no flag, such as 404
	Full      uint64 `json:"full"`      // 503 with Retry-After
	Failed    uint64 `json:"failed"`    // reached, and no proper response
	Unreached uint64 `json:"unreached"` // the connection failed
	Abandoned uint64 `json:"abandoned"` // no fault of its own

	Ejections uint64              `json:"ejections"`
	LastProbe wsproxy.ProbeResult `json:"last_probe"` // none, passed or failed
}

// A flag is a fault that is raised.
type flag struct {
	Flag   wsproxy.Flag `json:"flag"`
	Reason string       `json:"reason"`
	Since  time.Time    `json:"since"`
	Until  *time.Time   `json:"until"` // avoided before it, which may be over; null for a failed check
}

// A drain is how far a backend is drained.
type drain struct {
	Remaining int       `json:"remaining"` // tunnels, and upgrades under way
	From      int       `json:"from"`      // how many there were when the page's server first saw it drain
	Since     time.Time `json:"since"`
}

// A history has a value for each of some whole seconds that follow each other. It reaches two
// minutes back when it is complete.
type history struct {
	To           int64      `json:"to"` // the last of the seconds, in Unix time: that of the last value
	Tunnels      []int      `json:"tunnels"`
	Opened       []uint32   `json:"opened"`
	Ended        []uint32   `json:"ended"`
	Refused      []uint32   `json:"refused"`
	UpgradeP99MS []*float64 `json:"upgrade_p99_ms"` // of the upgrades of this second alone; null without one
}

// events are the last events in three lists, the oldest first.
type events struct {
	Changes  []event `json:"changes"`  // of backends, and actions: 200
	Refusals []event `json:"refusals"` // at most one for each reason and second: 200
	Tunnels  []event `json:"tunnels"`  // at most one opened one and one of each end in a second: 50
}

// The kinds of events, and the fields that each has besides Number, At, Kind and Count.
const (
	kindFlagRaised  = "flag raised"  // Backend, Flag, State, Error
	kindFlagCleared = "flag cleared" // Backend, Flag, State
	kindState       = "state"        // Backend, State: it was added, is drained, was resumed or removed
	kindAction      = "action"       // Action, Actor, Client, Target, Result
	kindDrainEnded  = "drain ended"  // Backend, Result: what became of an action
	kindRefused     = "refused"      // Reason, RequestID, Client, Path, Status, Backend if one was picked, Error
	kindOpened      = "opened"       // Tunnel, RequestID, Client, Path, Backend
	kindClosed      = "closed"       // Tunnel, RequestID, Client, Path, Backend, Side, Cause, Code, Cut, DurationSeconds, Error
)

// An event is something that has happened. Fields that it does not have are left out.
type event struct {
	Number uint64    `json:"number"` // increases over all three lists
	At     time.Time `json:"at"`
	Kind   string    `json:"kind"`
	Count  int       `json:"count"` // how many it stands for; 1 or more. It describes the first one

	Backend         string   `json:"backend,omitempty"`
	Flag            string   `json:"flag,omitempty"`
	State           string   `json:"state,omitempty"`
	Reason          string   `json:"reason,omitempty"`
	Status          int      `json:"status,omitempty"`
	Error           string   `json:"error,omitempty"`
	Tunnel          uint64   `json:"tunnel,omitempty"`
	RequestID       string   `json:"request_id,omitempty"`
	Client          string   `json:"client,omitempty"`
	Path            string   `json:"path,omitempty"`
	Side            string   `json:"side,omitempty"`
	Cause           string   `json:"cause,omitempty"`
	Code            int      `json:"code,omitempty"`
	Cut             bool     `json:"cut,omitempty"`
	DurationSeconds *float64 `json:"duration_seconds,omitempty"`
	Action          string   `json:"action,omitempty"` // drain, resume or close
	Actor           string   `json:"actor,omitempty"`
	Target          string   `json:"target,omitempty"` // the ID of a backend, or the number of a tunnel
	Result          string   `json:"result,omitempty"`
}

// A tunnelList is the body of /tunnels. The parameters of its query, which may be left out:
//
//	order       oldest (the default), busiest or quietest
//	backend     the ID of a backend
//	client      an address, the beginning of one, or a prefix such as 192.0.2.0/24
//	value       a part of the value, in upper or lower case
//	request_id  the beginning of an ID
//	limit       how many at most: 1 to 500; 50 by default
type tunnelList struct {
	At      time.Time `json:"at"`
	Open    int       `json:"open"`    // all open tunnels
	Matched int       `json:"matched"` // all tunnels that match; Tunnels has the first ones
	Tunnels []tunnel  `json:"tunnels"`
}

// A tunnel is an open tunnel.
type tunnel struct {
	ID          uint64         `json:"id"`
	RequestID   string         `json:"request_id"`
	Backend     string         `json:"backend"`
	Client      string         `json:"client"` // an IP address, shortened where redacted is set; "unix" on a unix socket
	Host        string         `json:"host"`
	Path        string         `json:"path"`  // without the query
	Value       string         `json:"value"` // TunnelInfo.Value as text; empty without one
	Subprotocol string         `json:"subprotocol"`
	Engine      wsproxy.Engine `json:"engine"` // portable or event loop
	HTTP2       bool           `json:"http2"`
	Opened      time.Time      `json:"opened"`
	LastActive  time.Time      `json:"last_active"`
	ToBackend   tunnelFlow     `json:"to_backend"`
	ToClient    tunnelFlow     `json:"to_client"`

	// BytesPerSecond is that of both directions: since a request for /tunnels 1 to 30 s ago,
	// or, without one, since the tunnel has opened.
	BytesPerSecond float64 `json:"bytes_per_second"`
}

type tunnelFlow struct {
	Bytes    uint64 `json:"bytes"`
	Messages uint64 `json:"messages"`
}

// The bodies of POST requests, with Content-Type application/json. The response to each is an
// actionResult.
type (
	// drainAction is that of /drain. It is answered at once with 202; the drain goes on in
	// the background, and an event of the kind kindDrainEnded has its end.
	drainAction struct {
		Backend     string  `json:"backend"`
		OverSeconds float64 `json:"over_seconds"` // as the last parameter of Proxy.Drain: 0 is the default pace, negative at once
	}

	// resumeAction is that of /resume.
	resumeAction struct {
		Backend string `json:"backend"`
	}

	// closeAction is that of /close.
	closeAction struct {
		Tunnel uint64 `json:"tunnel"`
		Code   int    `json:"code"` // 0: 1001
		Reason string `json:"reason"`
	}
)

// An actionResult is the body of each response to an action. The status is 200 or 202 where
// something was done; 400 if the body or a value in it is wrong, 403 if that is not allowed,
// 404 for an unknown backend, 409 if the backend cannot be resumed here, 410 for a tunnel that
// is not open, 415 without Content-Type application/json.
type actionResult struct {
	Result string `json:"result,omitempty"` // such as "draining, 57 tunnels"
	Error  string `json:"error,omitempty"`  // instead of Result
}
