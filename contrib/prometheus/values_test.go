package wsprometheus_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/buildinfo"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxymetrics"
)

// wanted are values by series, without the prefix wsproxy_ and with the labels in alphabetical
// order. Of each metric that is named, all other series must be 0, or not be there. A value of
// some is any that is not 0.
type wanted map[string]float64

var (
	some   = math.Inf(1)  // a value that a test cannot know
	absent = math.Inf(-1) // the series must not be there
)

// A happening is what a test makes happen to a proxy, and the values that its metrics have
// afterwards.
type happening struct {
	name string
	opts []wsproxy.Option
	play func(*scene)
	want wanted
}

// Each metric is compared with what has happened.
func TestValuesAreWhatHasHappened(t *testing.T) {
	named := make(map[string]bool)
	for _, h := range slices.Concat(upgradeHappenings, refusalHappenings, backendHappenings, tunnelHappenings, drainHappenings, otherHappenings) {
		t.Run(h.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, h.opts...)
				h.play(s)
				synctest.Wait()
				check(t, s, h.want)
			})
		})
		for series := range h.want {
			named[metricOf(series)] = true
		}
	}
	named["event_loop_lag_seconds"] = true // by TestEventLoopIsCounted
	for _, m := range wsproxymetrics.Metrics() {
		if !named[strings.TrimPrefix(m.Name, "wsproxy_")] {
			t.Errorf("no happening has a value of %s", m.Name)
		}
	}
}

// check compares the metrics that are named in want.
func check(t *testing.T, s *scene, want wanted) {
	t.Helper()
	families := make(map[string]bool)
	for series := range want {
		name, _, _ := strings.Cut(series, "{")
		families[name] = true
	}
	got := make(wanted)
	for series, v := range values(t, scrape(t, s.registry)) {
		series = strings.TrimPrefix(series, "wsproxy_")
		name, _, _ := strings.Cut(series, "{")
		if _, isWanted := want[series]; isWanted || families[name] && v != 0 {
			got[series] = v
		}
	}
	for _, series := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[series]; !ok {
			t.Errorf("%s is %v; want 0", series, got[series])
		}
	}
	for _, series := range slices.Sorted(maps.Keys(want)) {
		v, ok := got[series]
		if want[series] == absent {
			if ok {
				t.Errorf("%s is %v; want no such series", series, v)
			}
			continue
		}
		isSame := math.Abs(v-want[series]) < 1e-9 || want[series] == some && v > 0
		if !ok || !isSame {
			t.Errorf("%s is %v, found %t; want %v", series, v, ok, want[series])
		}
	}
}

// metricOf returns the name of the metric of a series.
func metricOf(series string) string {
	name, _, _ := strings.Cut(series, "{")
	for _, suffix := range []string{"_count", "_sum", "_bucket"} {
		if trimmed, ok := strings.CutSuffix(name, suffix); ok {
			return trimmed
		}
	}
	return name
}

var upgradeHappenings = []happening{
	{
		name: "a tunnel is open, after 30 ms",
		play: func(s *scene) {
			s.network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching, Delay: 30 * time.Millisecond})
			client, _ := s.open()
			client.Send(wstest.Text("hello"), wstest.Ping(""))
			client.Want(wstest.Text("hello"), wstest.Ping(""))
		},
		want: wanted{
			`upgrades_total{backend="a",result="opened"}`:                                       1,
			`attempts_total{backend="a",outcome="accepted"}`:                                    1,
			`handshake_duration_seconds_count{backend="a"}`:                                     1,
			`handshake_duration_seconds_sum{backend="a"}`:                                       0.03,
			`handshake_duration_seconds_bucket{backend="a",le="+Inf"}`:                          1,
			`handshake_duration_seconds_bucket{backend="a",le="10"}`:                            1,
			`handshake_duration_seconds_bucket{backend="a",le="5"}`:                             1,
			`handshake_duration_seconds_bucket{backend="a",le="2.5"}`:                           1,
			`handshake_duration_seconds_bucket{backend="a",le="1"}`:                             1,
			`handshake_duration_seconds_bucket{backend="a",le="0.5"}`:                           1,
			`handshake_duration_seconds_bucket{backend="a",le="0.25"}`:                          1,
			`handshake_duration_seconds_bucket{backend="a",le="0.1"}`:                           1,
			`handshake_duration_seconds_bucket{backend="a",le="0.05"}`:                          1, // and not 0.025
			`upgrade_phase_seconds_count{phase="admit"}`:                                        1,
			`upgrade_phase_seconds_count{phase="queue"}`:                                        1,
			`upgrade_phase_seconds_count{phase="dial"}`:                                         1,
			`upgrade_phase_seconds_count{phase="answer"}`:                                       1,
			`upgrade_phase_seconds_sum{phase="answer"}`:                                         0.03,
			`tunnels{backend="a"}`:                                                              1,
			`event_loop_tunnels{engine="portable"}`:                                             1,
			`bytes_total{backend="a",direction="to_backend"}`:                                   6 + 5 + 6,
			`bytes_total{backend="a",direction="to_client"}`:                                    2 + 5 + 2,
			`messages_total{backend="a",direction="to_backend"}`:                                1,
			`messages_total{backend="a",direction="to_client"}`:                                 1,
			`upgrades_in_flight{backend="a"}`:                                                   0,
			`backend_state{backend="a",state="up"}`:                                             1,
			`backend_state{backend="b",state="up"}`:                                             1,
			`refusals_total{reason="check"}`:                                                    0,
			fmt.Sprintf("build_info{go=%q,version=%q}", runtime.Version(), buildinfo.Version()): 1,
		},
	},
	{
		name: "upgrades are under way",
		opts: []wsproxy.Option{wsproxy.WithAdmit(func(r *http.Request) (any, error) {
			if r.Header.Get("X-Wait") != "" {
				<-r.Context().Done()
			}
			return nil, nil
		})},
		play: func(s *scene) {
			s.network.Set("a", proxytest.FakeBackend{})
			s.send()
			s.send()
			s.send("X-Wait: yes")
		},
		want: wanted{`upgrades_in_flight{backend="a"}`: 2, `upgrades_in_flight{backend=""}`: 1, `tunnels{backend="a"}`: 0},
	},
	{
		name: "an upgrade waits",
		opts: []wsproxy.Option{oneTunnel, wsproxy.WithLimits(wsproxy.Limits{Queue: 7})},
		play: func(s *scene) { s.open(); s.send() },
		want: wanted{"queue_length": 1, `upgrades_in_flight{backend=""}`: 1, `limit{limit="queue"}`: 7, "queue_wait_seconds_count": 0},
	},
	{
		name: "an upgrade has waited for 2 s",
		opts: []wsproxy.Option{oneTunnel, wsproxy.WithLimits(wsproxy.Limits{Queue: 7})},
		play: func(s *scene) {
			first, _ := s.open()
			second := s.send()
			after(2 * time.Second)
			s.hangUp(first)
			proxytest.WantSwitch(s.t, second)
		},
		want: wanted{
			"queue_length": 0, "queue_wait_seconds_count": 1, "queue_wait_seconds_sum": 2,
			`upgrade_phase_seconds_count{phase="admit"}`: 2, `upgrade_phase_seconds_count{phase="queue"}`: 2, `upgrade_phase_seconds_sum{phase="queue"}`: 2,
			`upgrade_phase_seconds_count{phase="dial"}`: 2, `upgrade_phase_seconds_count{phase="answer"}`: 2,
		},
	},
	{
		name: "all limits are set",
		opts: []wsproxy.Option{
			wsproxy.WithLimits(wsproxy.Limits{Tunnels: 1, PerClient: 2, Queue: 3, Admitting: 4,
				Handshakes: wsproxy.Rate{PerSecond: 0.5}, HandshakesPerClient: wsproxy.Rate{PerSecond: 6}}),
			wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: "http://a", MaxTunnels: 7}, wsproxy.BackendConfig{ID: "b", URL: "http://b"})},
		play: func(s *scene) {},
		want: wanted{
			`limit{limit="tunnels"}`: 1, `limit{limit="per_client"}`: 2, `limit{limit="queue"}`: 3, `limit{limit="admitting"}`: 4,
			`limit{limit="handshakes_per_second"}`: 0.5, `limit{limit="client_handshakes_per_second"}`: 6, `backend_tunnels_limit{backend="a"}`: 7,
		},
	},
	{
		name: "an attempt is retried",
		play: func(s *scene) {
			s.network.Set("a", unreachable)
			s.open()
		},
		want: wanted{
			"retries_total":                                   1,
			"retry_budget_exhausted_total":                    0,
			`attempts_total{backend="a",outcome="unreached"}`: 1,
			`attempts_total{backend="b",outcome="accepted"}`:  1,
			`upgrades_total{backend="b",result="opened"}`:     1,
			`backend_flag{backend="a",flag="unreachable"}`:    1,
			`backend_state{backend="a",state="failing"}`:      1,
			`backend_state{backend="b",state="up"}`:           1,
		},
	},
	{
		name: "the budget of retries is used up",
		play: func(s *scene) {
			slowly := refusing(502)
			slowly.Delay = 2 * time.Second
			s.network.Set("a", slowly)
			for range 1000 { // all of them before a is known to fail
				s.send()
			}
			after(3 * time.Second)
		},
		want: wanted{
			"retries_total":                                  1000/5 + 100,
			"retry_budget_exhausted_total":                   1000 - 300,
			`attempts_total{backend="a",outcome="failed"}`:   1000,
			`attempts_total{backend="b",outcome="accepted"}`: 300,
			`upgrades_total{backend="a",result="refused"}`:   700, // with the 502
			`upgrades_total{backend="b",result="opened"}`:    300,
			`refusals_total{reason="answer"}`:                700,
		},
	},
	{
		name: "clients have cookies",
		opts: []wsproxy.Option{wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{make([]byte, 16)}})},
		play: func(s *scene) {
			_, resp := s.open() // new
			cookie := "Cookie: " + strings.Split(resp.Header.Get("Set-Cookie"), ";")[0]
			s.open(cookie)                          // bound
			s.open(cookie)                          // bound
			s.open(cookie[:len(cookie)-2] + "AAAA") // invalid
			s.network.Set("a", unreachable)
			s.open(cookie) // rebound
		},
		want: wanted{
			`affinity_total{result="new"}`: 1, `affinity_total{result="bound"}`: 2, `affinity_total{result="invalid"}`: 1, `affinity_total{result="rebound"}`: 1,
		},
	},
}

// oneTunnel is a set whose only backend takes one tunnel.
var oneTunnel = wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: "http://a", MaxTunnels: 1})

// refusal returns a happening with one request that gets no tunnel. Its backend is empty if none
// was picked.
func refusal(reason, backend, result string, play func(*scene), opts ...wsproxy.Option) happening {
	want := wanted{
		fmt.Sprintf("refusals_total{reason=%q}", reason):                     1,
		fmt.Sprintf("upgrades_total{backend=%q,result=%q}", backend, result): 1,
		`upgrades_in_flight{backend=""}`:                                     0,
	}
	if outcome := outcomes[reason]; outcome != "" {
		want[fmt.Sprintf("attempts_total{backend=%q,outcome=%q}", backend, outcome)] = 1
	}
	return happening{
		name: "refused because of " + reason,
		opts: opts,
		play: play,
		want: want,
	}
}

// outcomes are those of the attempts of requests that were refused, by the reason. Other
// requests had none.
var outcomes = map[string]string{"unreachable": "unreached", "answer": "refused", "client_left": "abandoned"}

var refusalHappenings = []happening{
	refusal("check", "", "refused", func(s *scene) { s.wantRefused(s.request(proxytest.Head("GET / HTTP/1.1", "Host: x")), 426) }),
	refusal("origin", "", "refused", func(s *scene) { s.refused(403, "Origin: https://evil.example") }, wsproxy.WithOriginPatterns()),
	refusal("admit", "", "refused", func(s *scene) { s.refused(401) },
		wsproxy.WithAdmit(func(*http.Request) (any, error) { return nil, &wsproxy.StatusError{Status: 401} })),
	refusal("hook", "a", "refused", func(s *scene) { s.refused(500) },
		wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { return errors.New("no") })),
	refusal("no_backend", "", "failed", func(s *scene) { s.p.SetBackends(); s.refused(503) }),
	refusal("unreachable", "a", "failed", func(s *scene) { s.network.Set("a", unreachable); s.refused(503) }, oneTunnel),
	refusal("answer", "a", "refused", func(s *scene) { s.network.Set("a", refusing(404)); s.refused(404) }),
	refusal("client_left", "a", "refused", func(s *scene) { s.network.Set("a", proxytest.FakeBackend{}); s.send().Close() }),
	refusal("shutdown", "", "refused", func(s *scene) { s.p.Close(); s.refused(503) }),
	full("limit", wsproxy.WithLimits(wsproxy.Limits{Tunnels: 1}), 503),
	full("client_limit", wsproxy.WithLimits(wsproxy.Limits{PerClient: 1, ClientKey: sameClient}), 429),
	full("rate", wsproxy.WithLimits(wsproxy.Limits{Handshakes: wsproxy.Rate{PerSecond: 0.1}}), 503),
	full("backend_limit", oneTunnel, 503),
	{
		name: "refused because the queue is full",
		opts: []wsproxy.Option{oneTunnel, wsproxy.WithLimits(wsproxy.Limits{Queue: 1})},
		play: func(s *scene) { s.open(); s.send(); s.refused(503) },
		want: wanted{`refusals_total{reason="queue_full"}`: 1, `upgrades_total{backend="",result="refused"}`: 1,
			`upgrades_total{backend="a",result="opened"}`: 1, "queue_length": 1},
	},
	{
		name: "refused because it has waited for too long",
		opts: []wsproxy.Option{oneTunnel, wsproxy.WithLimits(wsproxy.Limits{Queue: 1}), wsproxy.WithTimeouts(wsproxy.Timeouts{Handshake: 3 * time.Second})},
		play: func(s *scene) {
			s.open()
			waiting := s.send()
			after(3 * time.Second)
			s.wantRefused(waiting, 503)
		},
		want: wanted{`refusals_total{reason="queue_timeout"}`: 1, `upgrades_total{backend="",result="failed"}`: 1,
			`upgrades_total{backend="a",result="opened"}`: 1, "queue_wait_seconds_count": 1, "queue_wait_seconds_sum": 3},
	},
	{
		name: "refused because a deadline has passed",
		play: func(s *scene) {
			ctx, cancel := context.WithTimeout(s.t.Context(), 0)
			defer cancel()
			s.p.ServeHTTP(proxytest.Hijackable{ResponseRecorder: httptest.NewRecorder()}, proxytest.NewUpgrade().WithContext(ctx))
		},
		want: wanted{`refusals_total{reason="deadline"}`: 1, `upgrades_total{backend="",result="refused"}`: 1},
	},
	{
		name: "refused because the connection is hidden",
		play: func(s *scene) {
			s.p.ServeHTTP(httptest.NewRecorder(), proxytest.NewUpgrade()) // which has no Hijack
		},
		want: wanted{`refusals_total{reason="fault"}`: 1, `upgrades_total{backend="",result="refused"}`: 1},
	},
}

// full returns a happening with a tunnel that opens and an upgrade that is refused.
func full(reason string, opt wsproxy.Option, status int) happening {
	return happening{
		name: "refused because of " + reason,
		opts: []wsproxy.Option{opt},
		play: func(s *scene) { s.open(); s.refused(status) },
		want: wanted{
			fmt.Sprintf("refusals_total{reason=%q}", reason): 1, `upgrades_total{backend="",result="refused"}`: 1,
			`upgrades_total{backend="a",result="opened"}`: 1, `attempts_total{backend="a",outcome="accepted"}`: 1,
		},
	}
}

// sameClient is a KeyFunc for which all clients are one.
func sameClient(*http.Request) string { return "one" }

var backendHappenings = []happening{
	{
		name: "attempts have each outcome",
		play: func(s *scene) {
			s.p.SetBackends(bothBackends[0])
			for _, b := range []proxytest.FakeBackend{refusing(404), refusing(500), refusing(503), refusing(503, "Retry-After: 1"), unreachable} {
				s.network.Set("a", b)
				c := s.send()
				c.ReadResponse()
				c.Close()
				after(30 * time.Second)
			}
			s.network.Set("a", proxytest.FakeBackend{})
			s.send().Close()
			after(30 * time.Second)
			s.network.Set("a", echoing)
			s.open()
		},
		want: wanted{
			`attempts_total{backend="a",outcome="accepted"}`: 1, `attempts_total{backend="a",outcome="refused"}`: 2,
			`attempts_total{backend="a",outcome="full"}`: 1, `attempts_total{backend="a",outcome="failed"}`: 1,
			`attempts_total{backend="a",outcome="unreached"}`: 1, `attempts_total{backend="a",outcome="abandoned"}`: 1,
			`upgrades_total{backend="a",result="opened"}`: 1, `upgrades_total{backend="a",result="refused"}`: 5, `upgrades_total{backend="a",result="failed"}`: 1,
			`backend_state{backend="a",state="up"}`: 1, `handshake_duration_seconds_count{backend="a"}`: 1,
		},
	},
	{
		name: "a backend is full",
		play: func(s *scene) { s.network.Set("a", refusing(503, "Retry-After: 20")); s.open() },
		want: wanted{
			`backend_flag{backend="a",flag="full"}`: 1, `backend_state{backend="a",state="up"}`: 1, `backend_state{backend="b",state="up"}`: 1,
			`attempts_total{backend="a",outcome="full"}`: 1, `attempts_total{backend="b",outcome="accepted"}`: 1,
		},
	},
	{
		name: "a backend is ejected because of its responses",
		play: func(s *scene) {
			s.network.Set("a", refusing(502))
			for range 5 {
				s.open() // at b
				after(2 * time.Second)
			}
		},
		want: wanted{
			`ejections_total{backend="a",reason="responses"}`: 1, `attempts_total{backend="a",outcome="failed"}`: 5,
			`attempts_total{backend="b",outcome="accepted"}`: 5, "retries_total": 5,
		},
	},
	{
		name: "a backend is ejected because of its tunnels",
		play: func(s *scene) {
			s.network.Set("a", losing)
			for range 5 {
				c, _ := s.open()
				c.WantClose(1012)
				c.Close()
				after(1100 * time.Millisecond)
			}
		},
		want: wanted{
			`ejections_total{backend="a",reason="tunnels"}`: 1, `tunnels_ended_total{backend="a",cause="lost",side="backend"}`: 5,
			`tunnel_duration_seconds_count{cause="lost",side="backend"}`: 5,
			`close_codes_total{code="1012",side="backend"}`:              5,
		},
	},
	{
		name: "a health check has failed and passed",
		opts: []wsproxy.Option{wsproxy.WithHealthCheck(wsproxy.HealthCheck{Fall: 1, Interval: time.Hour,
			Probe: func(_ context.Context, b *wsproxy.Backend) error {
				if b.ID() == "a" {
					return errors.New("no")
				}
				return nil
			}})},
		play: func(s *scene) { after(time.Minute) },
		want: wanted{
			`probes_total{backend="a",result="failed"}`: 1, `probes_total{backend="b",result="passed"}`: 1,
			`backend_check_up{backend="a"}`: 0, `backend_check_up{backend="b"}`: 1,
			`backend_flag{backend="a",flag="check_failed"}`: 1, `backend_state{backend="a",state="failing"}`: 1, `backend_state{backend="b",state="up"}`: 1,
		},
	},
	{
		name: "a backend was removed and has a tunnel",
		play: func(s *scene) { s.open(); s.p.SetBackends(bothBackends[1]) },
		want: wanted{
			`backend_state{backend="a",state="removed"}`: 1, `backend_state{backend="b",state="up"}`: 1, `tunnels{backend="a"}`: 1,
			`upgrades_total{backend="a",result="opened"}`: 1,
		},
	},
}

var tunnelHappenings = []happening{
	{
		name: "tunnels have ended",
		play: func(s *scene) {
			first, _ := s.open()
			second, _ := s.open()
			third, _ := s.open()
			after(90 * time.Second)
			s.hangUp(first) // 1000, of the client
			second.Send(wstest.Close(4321, ""))
			second.WantClose(4321)
			second.Close()
			third.Close() // without a Close frame
			fourth, _ := s.open()
			for tunnel := range s.p.Tunnels() {
				tunnel.Close(1008, "banned")
			}
			fourth.WantClose(1008)
			fourth.Send(wstest.Close(1008, ""))
			fourth.Close()
			after(10 * time.Second)
		},
		want: wanted{
			`tunnels{backend="a"}`: 0,
			`tunnels_ended_total{backend="a",cause="closed",side="client"}`:     2,
			`tunnels_ended_total{backend="a",cause="lost",side="client"}`:       1,
			`tunnels_ended_total{backend="a",cause="application",side="proxy"}`: 1,
			`tunnel_duration_seconds_count{cause="closed",side="client"}`:       2,
			`tunnel_duration_seconds_sum{cause="closed",side="client"}`:         180,
			`tunnel_duration_seconds_count{cause="lost",side="client"}`:         1,
			`tunnel_duration_seconds_sum{cause="lost",side="client"}`:           90,
			`tunnel_duration_seconds_count{cause="application",side="proxy"}`:   1,
			`close_codes_total{code="1000",side="client"}`:                      1,
			`close_codes_total{code="other",side="client"}`:                     1,
			`close_codes_total{code="none",side="client"}`:                      1,
			`close_codes_total{code="1008",side="proxy"}`:                       1,
			"tunnels_cut_total": 0,
		},
	},
	{
		name: "a client takes nothing",
		play: stall,
		want: wanted{"tunnels_stalled": 1, "buffered_bytes": some, "tunnels_cut_total": 0, `tunnels{backend="a"}`: 1},
	},
	{
		name: "a client has taken nothing for too long",
		opts: []wsproxy.Option{wsproxy.WithTimeouts(wsproxy.Timeouts{WriteStall: 20 * time.Second})},
		play: func(s *scene) { stall(s); after(30 * time.Second) },
		want: wanted{"tunnels_stalled": 0, "buffered_bytes": 0, "tunnels_cut_total": 1, `tunnels_ended_total{backend="a",cause="stalled",side="client"}`: 1},
	},
	{
		name: "a client answers a ping",
		opts: []wsproxy.Option{wsproxy.WithPing(wsproxy.Ping{Client: 10 * time.Second, Timeout: time.Minute})},
		play: func(s *scene) {
			client, _ := s.open()
			after(11 * time.Second)
			client.Send(client.WantPing())
			after(time.Second)
		},
		want: wanted{`ping_rtt_seconds_count{side="client"}`: 1, `pings_unanswered_total{side="client"}`: 0},
	},
	{
		name: "a client does not answer a ping",
		opts: []wsproxy.Option{wsproxy.WithPing(wsproxy.Ping{Client: 10 * time.Second})},
		play: func(s *scene) { s.open(); after(30 * time.Second) },
		want: wanted{`pings_unanswered_total{side="client"}`: 1, `ping_rtt_seconds_count{side="client"}`: 0,
			`tunnels_ended_total{backend="a",cause="ping_timeout",side="client"}`: 1},
	},
	{
		name: "a backend does not answer a ping",
		opts: []wsproxy.Option{wsproxy.WithPing(wsproxy.Ping{Backend: 10 * time.Second})},
		play: func(s *scene) {
			s.network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching, Freezes: true})
			s.open()
			after(30 * time.Second)
		},
		want: wanted{`pings_unanswered_total{side="backend"}`: 1, `tunnels_ended_total{backend="a",cause="ping_timeout",side="backend"}`: 1},
	},
}

// stall opens a tunnel whose client takes nothing of its echoes.
func stall(s *scene) {
	client, _ := s.open()
	go client.WriteFrames(wstest.Binary(make([]byte, 1<<20))) // until the end of the tunnel
	after(5 * time.Second)
}

var drainHappenings = []happening{
	{
		name: "a backend drains",
		play: func(s *scene) {
			s.network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching, Freezes: true})
			s.open()
			s.open()
			drain(s, time.Hour, time.Hour)
		},
		want: wanted{`drain_remaining{backend="a"}`: 2, `backend_state{backend="a",state="draining"}`: 1, `backend_state{backend="b",state="up"}`: 1,
			`drained_total{backend="a",result="emptied"}`: 0},
	},
	{
		name: "a drain has emptied its backend",
		play: func(s *scene) {
			client, _ := s.open()
			drain(s, time.Hour, -1)
			client.WantClose(1012)
			client.Send(wstest.Close(1012, ""))
			client.Close()
			after(10 * time.Second)
		},
		want: wanted{`drained_total{backend="a",result="emptied"}`: 1, `drain_remaining{backend="a"}`: 0,
			`tunnels_ended_total{backend="a",cause="drain",side="proxy"}`: 1, `close_codes_total{code="1012",side="proxy"}`: 1},
	},
	{
		name: "a drain has left a tunnel",
		play: func(s *scene) { s.open(); drain(s, time.Second, time.Hour); after(2 * time.Second) },
		want: wanted{`drained_total{backend="a",result="left"}`: 1, `drain_remaining{backend="a"}`: 1},
	},
	{
		name: "a drain was superseded, and the next one resumed",
		play: func(s *scene) {
			s.open()
			drain(s, time.Hour, time.Hour)
			drain(s, time.Hour, time.Hour)
			s.p.Resume("a")
		},
		want: wanted{`drained_total{backend="a",result="superseded"}`: 1, `drained_total{backend="a",result="resumed"}`: 1,
			`backend_state{backend="a",state="up"}`: 1, `backend_state{backend="b",state="up"}`: 1, `drain_remaining{backend="a"}`: absent},
	},
}

// drain drains the backend a in the background, for at most a time.
func drain(s *scene, atMost, over time.Duration) {
	ctx, cancel := context.WithTimeout(s.t.Context(), atMost)
	s.t.Cleanup(cancel)
	go s.p.Drain(ctx, "a", over) // ends with ctx
	synctest.Wait()
}

var otherHappenings = []happening{
	{
		name: "requests are no upgrades",
		opts: []wsproxy.Option{wsproxy.WithHTTP(true)},
		play: func(s *scene) {
			get := proxytest.Head("GET /page HTTP/1.1", "Host: x", "Connection: close")
			for _, status := range []int{200, 201, 302, 404, 500} {
				s.network.Set("a", refusing(status))
				s.wantRefused(s.request(get), status)
				after(10 * time.Second)
			}
			s.network.Set("a", proxytest.FakeBackend{})
			s.request(get)
		},
		want: wanted{
			`http_requests_total{backend="a",class="2xx"}`: 2, `http_requests_total{backend="a",class="3xx"}`: 1,
			`http_requests_total{backend="a",class="4xx"}`: 1, `http_requests_total{backend="a",class="5xx"}`: 1,
			`http_in_flight{backend="a"}`: 1, `upgrades_total{backend="a",result="opened"}`: 0,
		},
	},
	{
		name: "hooks panic",
		opts: []wsproxy.Option{
			wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
				if r.In.Header.Get("X-Panic") != "" {
					panic("x")
				}
				return nil
			}),
			wsproxy.WithTrace(&wsproxy.Trace{Closed: func(wsproxy.TunnelEnd) { panic("x") }}),
		},
		play: func(s *scene) {
			s.refused(500, "X-Panic: yes")
			s.refused(500, "X-Panic: yes")
			client, _ := s.open()
			s.hangUp(client)
		},
		want: wanted{`hook_panics_total{hook="rewrite"}`: 2, `hook_panics_total{hook="trace_closed"}`: 1, `refusals_total{reason="hook"}`: 2},
	},
}

// The event loop relays connections of sockets, which there are none of in a bubble.
func TestEventLoopIsCounted(t *testing.T) {
	p, site := proxytest.Start(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: wstest.StartEcho(t)}))
	s := &scene{t: t, p: p, site: site, registry: newRegistry(t, p, "")}
	client, _ := proxytest.Open(t, site.URL, proxytest.UpgradeTo("/"))
	proxytest.WantEcho(t, client)
	if proxytest.OnlyTunnel(t, p).Info().Engine != wsproxy.EngineEventLoop {
		check(t, s, wanted{`event_loop_tunnels{engine="portable"}`: 1, "event_loop_lag_seconds_count": 0})
		return
	}
	lag := func() float64 { return values(t, scrape(t, s.registry))["wsproxy_event_loop_lag_seconds_count"] }
	if !proxytest.Becomes(func() bool { return lag() > 0 }) {
		t.Error("wsproxy_event_loop_lag_seconds has no durations after a message")
	}
	check(t, s, wanted{`event_loop_tunnels{engine="event_loop"}`: 1, `tunnels{backend="a"}`: 1})
}
