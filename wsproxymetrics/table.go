package wsproxymetrics

import (
	"math"
	"runtime"
	"strconv"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/buildinfo"
	"github.com/wsproxy/wsproxy/internal/label"
)

// table has all metrics, by subject. Dashboards and alerts of users name them: metrics may be added,
// but their names, types and labels stay as they are.
var table = []family{
	// Upgrades, from their arrival to a tunnel.

	{Metric{"wsproxy_upgrades_total", "Upgrades that have ended in a tunnel (opened) or without one (refused, failed), " +
		"by the backend that was picked last, which is empty where none was picked. " +
		"Failed are those for which no backend gave a proper response. wsproxy_refusals_total has the reasons of both. " +
		"Unless plain HTTP is enabled, other requests are refused ones too.",
		Counter, []string{"backend", "result"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				add(out, b.stats.Opened, b.id, "opened")
				add(out, b.stats.UpgradesRefused, b.id, "refused")
				add(out, b.stats.UpgradesFailed, b.id, "failed")
			}
			add(out, s.stats.RefusedUnpicked, "", "refused")
			add(out, s.stats.FailedUnpicked, "", "failed")
		}},
	{Metric{"wsproxy_upgrades_in_flight", "Upgrades under way, by the backend that is being tried, " +
		"which is empty for those that wait or are being checked.",
		Gauge, []string{"backend"}},
		func(s *snapshot, out *samples) {
			picked := 0
			for _, b := range s.backends {
				picked += b.stats.Upgrading
				add(out, b.stats.Upgrading, b.id)
			}
			add(out, inFlight(s.stats.Upgrading, picked), "")
		}},
	{Metric{"wsproxy_refusals_total", "Requests that got no tunnel, refused or failed, by the reason, which is that of the log line " +
		"\"upgrade refused\" or \"upgrade failed\", with _ for spaces. With plain HTTP enabled, other requests that got no response of a backend count too.",
		Counter, []string{"reason"}},
		func(s *snapshot, out *samples) {
			counts := make(map[wsproxy.Reason]uint64)
			for _, c := range s.stats.Refusals {
				counts[c.Reason] = c.Count
			}
			for r := wsproxy.ReasonCheck; r <= wsproxy.ReasonFault; r++ {
				add(out, counts[r], label.Word(r.String()))
			}
		}},
	{Metric{"wsproxy_upgrade_phase_seconds", "The times of the phases of upgrades, opened ones and others: " +
		"admit, until one was let in, the Admit hook included; queue, waiting for a backend, 0 for most; dial, connecting to backends, TLS included; " +
		"answer, waiting for their responses. Each upgrade counts once in each phase that it has reached, with all its attempts.",
		Histogram, []string{"phase"}},
		func(s *snapshot, out *samples) {
			addHistogram(out, s.stats.Phases.Admit, "admit")
			addHistogram(out, s.stats.Phases.Queue, "queue")
			addHistogram(out, s.stats.Phases.Dial, "dial")
			addHistogram(out, s.stats.Phases.Answer, "answer")
		}},
	{Metric{"wsproxy_queue_length", "Upgrades that wait because no backend has a place or can be reached.",
		Gauge, nil},
		func(s *snapshot, out *samples) { add(out, s.stats.Waiting) }},
	{Metric{"wsproxy_queue_wait_seconds", "How long upgrades have waited for a backend. Those that did not wait are not counted.",
		Histogram, nil},
		func(s *snapshot, out *samples) { addHistogram(out, s.stats.QueueWaits) }},
	{Metric{"wsproxy_limit", "The limits of the proxy that refuse upgrades: a number of upgrades and tunnels (tunnels, per_client), " +
		"of waiting upgrades (queue), of calls of the Admit hook (admitting), " +
		"or of upgrades a second (handshakes_per_second, client_handshakes_per_second). A limit that is not set has no value.",
		Gauge, []string{"limit"}},
		func(s *snapshot, out *samples) {
			addLimit(out, float64(s.limits.Tunnels), "tunnels")
			addLimit(out, float64(s.limits.PerClient), "per_client")
			addLimit(out, float64(s.limits.Queue), "queue")
			addLimit(out, float64(s.limits.Admitting), "admitting")
			addLimit(out, s.limits.Handshakes.PerSecond, "handshakes_per_second")
			addLimit(out, s.limits.HandshakesPerClient.PerSecond, "client_handshakes_per_second")
		}},

	// Attempts and retries.

	{Metric{"wsproxy_attempts_total", "Attempts to open a tunnel by their outcome: the backend accepted; refused with a response such as 404 or 500; " +
		"was full (503 with Retry-After); failed, because it gave no proper response; was unreached, because the connection failed; " +
		"or the attempt was abandoned, mostly because the client left. With plain HTTP enabled, those of other requests that got no response count too.",
		Counter, []string{"backend", "outcome"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				add(out, b.stats.Accepted, b.id, "accepted")
				add(out, b.stats.Refused, b.id, "refused")
				add(out, b.stats.Full, b.id, "full")
				add(out, b.stats.Failed, b.id, "failed")
				add(out, b.stats.Unreached, b.id, "unreached")
				add(out, b.stats.Abandoned, b.id, "abandoned")
			}
		}},
	{Metric{"wsproxy_handshake_duration_seconds", "The time from the dial to the 101 of the backend, for each attempt that it accepted.",
		Histogram, []string{"backend"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				addHistogram(out, b.stats.Handshakes, b.id)
			}
		}},
	{Metric{"wsproxy_retries_total", "Attempts after the first one of a request: another backend was tried because one failed.",
		Counter, nil},
		func(s *snapshot, out *samples) { add(out, s.stats.Retries) }},
	{Metric{"wsproxy_retry_budget_exhausted_total", "Retries that were not made because a fifth of the upgrades of the last 10 seconds, and 100 more, " +
		"had been retried already. If it increases, most backends fail.",
		Counter, nil},
		func(s *snapshot, out *samples) { add(out, s.stats.RetriesDenied) }},
	{Metric{"wsproxy_affinity_total", "Requests by what became of the client's backend: bound, a cookie or a key led to it; " +
		"new, there was no cookie and the response has got one; rebound, the backend could not be used and another one was picked; " +
		"invalid, the cookie was forged, expired or of another proxy.",
		Counter, []string{"result"}},
		func(s *snapshot, out *samples) {
			add(out, s.stats.Affinity.Bound, "bound")
			add(out, s.stats.Affinity.New, "new")
			add(out, s.stats.Affinity.Rebound, "rebound")
			add(out, s.stats.Affinity.Invalid, "invalid")
		}},
	{Metric{"wsproxy_hook_panics_total", "Panics in hooks of the program, by the hook. Each one has a line with its stack in the log.",
		Counter, []string{"hook"}},
		func(s *snapshot, out *samples) {
			for _, c := range s.stats.HookPanics {
				add(out, c.Count, label.Word(c.Hook))
			}
		}},

	// Backends.

	{Metric{"wsproxy_backend_state", "1 for the state that the backend has, 0 for the others. wsproxy_backend_flag says why one is failing. " +
		"A removed backend is listed until its last tunnel has ended.",
		Gauge, []string{"backend", "state"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				for state := wsproxy.BackendUp; state <= wsproxy.BackendRemoved; state++ {
					addBool(out, b.state == state, b.id, label.Word(state.String()))
				}
			}
		}},
	{Metric{"wsproxy_backend_flag", "1 for a flag of the backend that is up: resting after a failure, full, ejected after several failures, " +
		"check_failed, or unreachable. The backend is avoided because of it.",
		Gauge, []string{"backend", "flag"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				for f := wsproxy.FlagResting; f <= wsproxy.FlagUnreachable; f++ {
					addBool(out, b.flags[f], b.id, label.Word(f.String()))
				}
			}
		}},
	{Metric{"wsproxy_backend_check_up", "1 if the last probe of the health check passed, 0 if it failed. " +
		"Without a health check, and before the first result, there is no value.",
		Gauge, []string{"backend"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				if b.stats.LastProbe != wsproxy.ProbeNone {
					addBool(out, b.stats.LastProbe == wsproxy.ProbePassed, b.id)
				}
			}
		}},
	{Metric{"wsproxy_backend_tunnels_limit", "The limit of the backend's tunnels, upgrades under way included. One without a limit has no value.",
		Gauge, []string{"backend"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				addLimit(out, float64(b.maxTunnels), b.id)
			}
		}},
	{Metric{"wsproxy_probes_total", "Probes of the health check by their result.",
		Counter, []string{"backend", "result"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				add(out, b.stats.ProbesPassed, b.id, "passed")
				add(out, b.stats.ProbesFailed, b.id, "failed")
			}
		}},
	{Metric{"wsproxy_ejections_total", "How often the backend was ejected, because its responses failed several times in a row, " +
		"or because it lost tunnels as soon as they were open.",
		Counter, []string{"backend", "reason"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				add(out, b.stats.EjectedByResponses, b.id, "responses")
				add(out, b.stats.EjectedByTunnels, b.id, "tunnels")
			}
		}},
	{Metric{"wsproxy_drained_total", "Drains of the backend that have ended: emptied, it had no tunnels left; left, some were open when the time was over; " +
		"resumed; or superseded by another drain.",
		Counter, []string{"backend", "result"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				add(out, b.stats.Drains.Emptied, b.id, "emptied")
				add(out, b.stats.Drains.Left, b.id, "left")
				add(out, b.stats.Drains.Resumed, b.id, "resumed")
				add(out, b.stats.Drains.Superseded, b.id, "superseded")
			}
		}},
	{Metric{"wsproxy_drain_remaining", "Tunnels and upgrades that a draining backend still has. At 0 it can be stopped. " +
		"A backend that does not drain has no value.",
		Gauge, []string{"backend"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				if b.state == wsproxy.BackendDraining {
					add(out, b.numTunnels, b.id)
				}
			}
		}},

	// Open tunnels.

	{Metric{"wsproxy_tunnels", "Open tunnels.",
		Gauge, []string{"backend"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				add(out, b.stats.Tunnels, b.id)
			}
		}},
	{Metric{"wsproxy_event_loop_tunnels", "Open tunnels by the engine that relays them: event_loop, or portable, " +
		"which costs more memory and is used for TLS and for connections that the program has wrapped.",
		Gauge, []string{"engine"}},
		func(s *snapshot, out *samples) {
			add(out, s.stats.EventLoopTunnels, "event_loop")
			add(out, max(s.stats.Tunnels-s.stats.EventLoopTunnels, 0), "portable")
		}},
	{Metric{"wsproxy_tunnels_stalled", "Open tunnels of which a side has taken nothing for a second or more, though something waits for it.",
		Gauge, nil},
		func(s *snapshot, out *samples) { add(out, s.stats.Stalled) }},
	{Metric{"wsproxy_buffered_bytes", "Bytes that wait in the memory of the proxy for sides that do not take them. " +
		"Those in buffers of the kernel are not included.",
		Gauge, nil},
		func(s *snapshot, out *samples) { add(out, s.stats.Buffered) }},
	{Metric{"wsproxy_event_loop_lag_seconds", "How long the event loops took from one look at their connections to the next: " +
		"by that time a message may be delayed. Without an event loop there are none.",
		Histogram, nil},
		func(s *snapshot, out *samples) { addHistogram(out, s.stats.EventLoopLag) }},
	{Metric{"wsproxy_bytes_total", "Bytes on the wire, headers of frames included, that were relayed in each direction. " +
		"Frames that the proxy itself sent do not count.",
		Counter, []string{"backend", "direction"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				add(out, b.stats.ToBackend.Bytes, b.id, "to_backend")
				add(out, b.stats.ToClient.Bytes, b.id, "to_client")
			}
		}},
	{Metric{"wsproxy_messages_total", "Data messages that were relayed to their end in each direction.",
		Counter, []string{"backend", "direction"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				add(out, b.stats.ToBackend.Messages, b.id, "to_backend")
				add(out, b.stats.ToClient.Messages, b.id, "to_client")
			}
		}},
	{Metric{"wsproxy_ping_rtt_seconds", "The time from a ping of the proxy to its answer, by the side that was pinged.",
		Histogram, []string{"side"}},
		func(s *snapshot, out *samples) {
			addHistogram(out, s.stats.ClientRoundTrips, label.Word(wsproxy.SideClient.String()))
			addHistogram(out, s.stats.BackendRoundTrips, label.Word(wsproxy.SideBackend.String()))
		}},
	{Metric{"wsproxy_pings_unanswered_total", "Pings of the proxy that were not answered in time, by the side that was pinged. Each one has ended its tunnel.",
		Counter, []string{"side"}},
		func(s *snapshot, out *samples) {
			add(out, s.stats.ClientPingsUnanswered, label.Word(wsproxy.SideClient.String()))
			add(out, s.stats.BackendPingsUnanswered, label.Word(wsproxy.SideBackend.String()))
		}},

	// Tunnels that have ended.

	{Metric{"wsproxy_tunnels_ended_total", "Tunnels that have ended, by the side that ended them and the cause. " +
		"Closed is a Close frame of that side; lost is a connection that ended without one.",
		Counter, []string{"backend", "side", "cause"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				for _, c := range b.stats.Ended {
					add(out, c.Count, b.id, label.Word(c.Side.String()), label.Word(c.Cause.String()))
				}
			}
		}},
	{Metric{"wsproxy_tunnel_duration_seconds", "How long the tunnels that have ended were open, by the side that ended them and the cause.",
		Histogram, []string{"side", "cause"}},
		func(s *snapshot, out *samples) {
			for _, e := range s.stats.LifetimesByEnd {
				addHistogram(out, e.Lifetimes, label.Word(e.Side.String()), label.Word(e.Cause.String()))
			}
		}},
	{Metric{"wsproxy_close_codes_total", "Tunnels that have ended by the code of their Close frame and the side that ended them: " +
		"none if no Close frame was sent, other for codes outside 1000 to 1015, which applications choose. 1005 is a Close frame without a code.",
		Counter, []string{"side", "code"}},
		func(s *snapshot, out *samples) {
			for _, c := range s.stats.CloseCodes {
				add(out, c.Count, label.Word(c.Side.String()), codeWord(c.Code))
			}
		}},
	{Metric{"wsproxy_tunnels_cut_total", "Tunnels that have ended and lost bytes or a Close frame: a side took nothing, did not respond in time, " +
		"or the proxy was closed at once.",
		Counter, nil},
		func(s *snapshot, out *samples) { add(out, s.stats.Cut) }},

	// Requests that are no upgrade.

	{Metric{"wsproxy_http_requests_total", "Responses of backends to requests that are no upgrade, by the class of their status.",
		Counter, []string{"backend", "class"}},
		func(s *snapshot, out *samples) {
			for _, b := range s.backends {
				for i, n := range b.stats.ResponseClasses {
					add(out, n, b.id, strconv.Itoa(i+1)+"xx")
				}
			}
		}},
	{Metric{"wsproxy_http_in_flight", "Requests in flight that are no upgrade, by their backend, which is empty where none is picked yet.",
		Gauge, []string{"backend"}},
		func(s *snapshot, out *samples) {
			picked := 0
			for _, b := range s.backends {
				picked += b.stats.Requests
				add(out, b.stats.Requests, b.id)
			}
			add(out, inFlight(s.stats.Requests, picked), "")
		}},

	// The program.

	{Metric{"wsproxy_build_info", "1, with the version of wsproxy and that of Go.",
		Gauge, []string{"version", "go"}},
		func(_ *snapshot, out *samples) { add(out, 1, buildinfo.Version(), runtime.Version()) }},
}

// addLimit adds a limit if it is set.
func addLimit(out *samples, limit float64, labels ...string) {
	if limit > 0 && !math.IsInf(limit, 1) {
		add(out, limit, labels...)
	}
}
