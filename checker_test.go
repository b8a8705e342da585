package wsproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A probed is a Probe of a test, in a bubble. Its methods may be called while probes run.
type probed struct {
	start time.Time

	mu      sync.Mutex
	probe   map[string]func(context.Context) error // by the URL of the backend; works by default
	begun   map[string][]time.Duration
	running map[string]int
	most    int  // probes that ran at once
	isTwice bool // two of them were of one backend
}

func newProbed() *probed {
	return &probed{
		start: time.Now(), probe: make(map[string]func(context.Context) error),
		begun: make(map[string][]time.Duration), running: make(map[string]int),
	}
}

// set makes the probes of a backend do f from now on.
func (p *probed) set(url string, f func(context.Context) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.probe[url] = f
}

// begins returns when the probes of a backend have begun since the last call.
func (p *probed) begins(url string) []time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	begun := p.begun[url]
	p.begun[url] = nil
	return begun
}

// numRunning returns how many probes are running.
func (p *probed) numRunning() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, running := range p.running {
		n += running
	}
	return n
}

// atOnce returns how many probes have run at once, and whether two of them were of one backend.
func (p *probed) atOnce() (most int, isTwice bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.most, p.isTwice
}

// Probe is for a HealthCheck.
func (p *probed) Probe(ctx context.Context, b *Backend) error {
	defer p.enter(b)()
	p.mu.Lock()
	f := p.probe[b.URL()]
	p.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(ctx)
}

func (p *probed) enter(b *Backend) (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	url := b.URL()
	p.begun[url] = append(p.begun[url], time.Since(p.start))
	p.running[b.ID()]++
	p.isTwice = p.isTwice || p.running[b.ID()] > 1
	n := 0
	for _, running := range p.running {
		n += running
	}
	p.most = max(p.most, n)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.running[b.ID()]--
	}
}

// Probes of tests.
func fails(context.Context) error { return errors.New("no") }

func hangs(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func takes(d time.Duration) func(context.Context) error {
	return func(context.Context) error { time.Sleep(d); return nil }
}

// newChecked returns a proxy with a health check until the test ends.
func newChecked(t *testing.T, c HealthCheck, urls ...string) *Proxy {
	t.Helper()
	p, err := New(WithBackends(urls...), WithHealthCheck(c), WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		time.Sleep(2 * time.Hour) // until probes that ignore the end of their context have returned
	})
	return p
}

// checked returns what checks have shown of a backend: "up", "down: " and the error, or
// "nothing" if it is not in the set.
func checked(p *Proxy, id string) string {
	for _, b := range p.Backends() {
		if b.ID() != id {
			continue
		}
		for _, f := range b.Health().Flags {
			if f.Flag == FlagCheckFailed {
				return "down: " + f.Reason
			}
		}
		return "up"
	}
	return "nothing"
}

// wantChecked checks what has been found of a backend by now.
func wantChecked(t *testing.T, p *Proxy, id, want string) {
	t.Helper()
	synctest.Wait()
	if got := checked(p, id); got != want {
		t.Errorf("checks of %s: %q; want %q", id, got, want)
	}
}

// gaps returns the times between the times.
func gaps(times []time.Duration) []time.Duration {
	var gaps []time.Duration
	for i := 1; i < len(times); i++ {
		gaps = append(gaps, times[i]-times[i-1])
	}
	return gaps
}

func TestProxyWithoutHealthCheckStartsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
		if _, err := New(WithBackends("http://a")); err != nil {
			t.Fatal(err)
		}
	})
}

func TestHealthCheckDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newChecked(t, HealthCheck{})
		h := p.healthCheck
		if h.Interval != 10*time.Second || h.Timeout != 3*time.Second || h.Fall != 3 || h.Rise != 2 || h.Probe == nil {
			t.Errorf("the zero HealthCheck is %+v; want 10 s, 3 s, 3, 2 and a Probe", h)
		}
	})
}

func TestHealthCheckProbesAtInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probed := newProbed()
		newChecked(t, HealthCheck{Probe: probed.Probe}, "http://a", "http://b", "http://c")
		time.Sleep(10 * time.Minute)
		differs := false
		for _, url := range []string{"http://a", "http://b", "http://c"} {
			begins := probed.begins(url)
			if begins[0] > time.Second {
				t.Errorf("%s: first probe after %v; want 1 s at most", url, begins[0])
			}
			between := gaps(begins)
			if between[0] > 11*time.Second {
				t.Errorf("%s: second probe %v after the first; want 11 s at most", url, between[0])
			}
			for _, gap := range between[1:] {
				if gap < 9*time.Second || gap > 11*time.Second {
					t.Errorf("%s: %v between two probes; want 10 s and a jitter of 10 %%", url, gap)
				}
				differs = differs || gap != between[1]
			}
		}
		if !differs {
			t.Error("all probes have the same distance; want a jitter")
		}
	})
}

func TestHealthCheckSpreadsProbesOverInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probed := newProbed()
		var urls []string
		for i := range 100 {
			urls = append(urls, fmt.Sprintf("http://b%d", i))
		}
		newChecked(t, HealthCheck{Probe: probed.Probe}, urls...)
		perSecond := make(map[int]int)
		for range 13 {
			time.Sleep(time.Second)
			synctest.Wait()
			second := int(time.Since(probed.start) / time.Second)
			for _, url := range urls {
				n := len(probed.begins(url))
				if second == 1 && n == 0 {
					t.Errorf("%s was not probed in the first second", url)
				}
				perSecond[second] += n
			}
		}
		for second := 3; second <= 10; second++ {
			if n := perSecond[second]; n < 3 || n > 20 {
				t.Errorf("%d probes in second %d; want about 10: %v", n, second, perSecond)
			}
		}
	})
}

func TestHealthCheckReportsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probed := newProbed()
		probed.set("http://down", fails)
		p := newChecked(t, HealthCheck{Probe: probed.Probe}, "http://up", "http://down")
		wantChecked(t, p, "http://up", "up")
		time.Sleep(time.Second) // the first probes
		wantChecked(t, p, "http://up", "up")
		wantChecked(t, p, "http://down", "down: no")

		probed.set("http://up", fails)
		probed.set("http://down", nil)
		probed.begins("http://up")
		probed.begins("http://down")
		up, down := 0, 0
		for range 60 {
			time.Sleep(time.Second)
			synctest.Wait()
			up += len(probed.begins("http://up"))
			down += len(probed.begins("http://down"))
			if want := map[bool]string{true: "down: no", false: "up"}[up >= 3]; checked(p, "http://up") != want {
				t.Fatalf("after %d failures it is reported: %q; want %q", up, checked(p, "http://up"), want)
			}
			if want := map[bool]string{true: "up", false: "down: no"}[down >= 2]; checked(p, "http://down") != want {
				t.Fatalf("after %d passes it is reported: %q; want %q", down, checked(p, "http://down"), want)
			}
		}
	})
}

func TestHealthCheckBoundsProbesAtOnce(t *testing.T) {
	for _, tt := range []struct{ backends, want int }{{3, 3}, {40, 16}, {100, 25}} {
		synctest.Test(t, func(t *testing.T) {
			probed := newProbed()
			var urls []string
			for i := range tt.backends {
				urls = append(urls, fmt.Sprintf("http://b%d", i))
				probed.set(urls[i], hangs)
			}
			p := newChecked(t, HealthCheck{Probe: probed.Probe, Interval: time.Second}, urls...)
			time.Sleep(2 * time.Minute)
			if most, isTwice := probed.atOnce(); most != tt.want || isTwice {
				t.Errorf("%d backends that hang: %d probes at once, two of one backend: %v; want %d, false", tt.backends, most, isTwice, tt.want)
			}
			for _, url := range urls {
				wantChecked(t, p, url, "down: context deadline exceeded")
				if n := len(probed.begins(url)); n < 8 {
					t.Errorf("%s had %d probes in 2 min; want 8 or more", url, n)
				}
			}
		})
	}
}

func TestHealthCheckBeginsAtOnceAfterSlowProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probed := newProbed()
		probed.set("http://a", takes(25*time.Second))
		p := newChecked(t, HealthCheck{Probe: probed.Probe, Timeout: 30 * time.Second}, "http://a")
		time.Sleep(80 * time.Second)
		if got := gaps(probed.begins("http://a")); !slices.Equal(got, []time.Duration{25 * time.Second, 25 * time.Second, 25 * time.Second}) {
			t.Errorf("times between probes: %v; want 25 s each, as long as they take", got)
		}
		wantChecked(t, p, "http://a", "up")
	})
}

func TestHealthCheckFailsProbeThatSucceedsTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probed := newProbed()
		probed.set("http://a", takes(3500*time.Millisecond))
		p := newChecked(t, HealthCheck{Probe: probed.Probe}, "http://a")
		time.Sleep(5 * time.Second)
		wantChecked(t, p, "http://a", "down: wsproxy: probe of backend http://a: context deadline exceeded")
	})
}

func TestHealthCheckCountsProbeThatDoesNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probed := newProbed()
		p := newChecked(t, HealthCheck{Probe: probed.Probe}, "http://a")
		time.Sleep(time.Second)
		wantChecked(t, p, "http://a", "up")
		release := make(chan struct{})
		probed.set("http://a", func(context.Context) error { <-release; return errors.New("late") })
		probed.begins("http://a")
		time.Sleep(11*time.Second + 4*time.Second + 20*time.Second) // it begins, is late, and twice more
		wantChecked(t, p, "http://a", "down: wsproxy: probe of backend http://a: context deadline exceeded")
		if n := len(probed.begins("http://a")); n != 1 {
			t.Errorf("%d probes have begun; want only the one that does not return", n)
		}
		probed.set("http://a", nil)
		close(release)
		time.Sleep(12 * time.Second)
		wantChecked(t, p, "http://a", "up")
	})
}

func TestHealthCheckSurvivesPanicAndExitOfProbe(t *testing.T) {
	for _, tt := range []struct {
		name  string
		probe func(context.Context) error
		want  string
		lines int
	}{
		{"panic", func(context.Context) error { panic("boom") }, "down: wsproxy: panic in HealthCheck.Probe: boom", 1},
		{"abort", func(context.Context) error { panic(http.ErrAbortHandler) }, "down: wsproxy: panic in HealthCheck.Probe: net/http: abort Handler", 0},
		{"exit", func(context.Context) error { runtime.Goexit(); return nil }, "down: wsproxy: probe of backend http://a: HealthCheck.Probe has ended its goroutine", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				probed := newProbed()
				probed.set("http://a", tt.probe)
				p, err := New(WithBackends("http://a"), WithHealthCheck(HealthCheck{Probe: probed.Probe}), WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				wantChecked(t, p, "http://a", tt.want)
				probed.set("http://a", nil)
				time.Sleep(25 * time.Second)
				wantChecked(t, p, "http://a", "up")
				p.Close()
				if n := strings.Count(log.String(), "level=ERROR"); n != tt.lines {
					t.Errorf("log has %d lines at Error; want %d:\n%s", n, tt.lines, log.String())
				}
				if panics := p.Stats().HookPanics; len(panics) != tt.lines || tt.lines > 0 && panics[0] != (PanicCount{"HealthCheck.Probe", 1}) {
					t.Errorf("Stats().HookPanics = %v; want as many as there are lines", panics)
				}
			})
		})
	}
}

func TestHealthCheckFollowsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probed := newProbed()
		probed.set("http://bad", fails)
		p := newChecked(t, HealthCheck{Probe: probed.Probe, Fall: 1, Rise: 1})
		set := func(configs ...BackendConfig) {
			t.Helper()
			if err := p.SetBackends(configs...); err != nil {
				t.Fatal(err)
			}
		}
		wait := func() { time.Sleep(time.Second) } // until the first probe of a new backend

		set(BackendConfig{ID: "1", URL: "http://good"}, BackendConfig{ID: "2", URL: "http://bad"})
		wait()
		wantChecked(t, p, "1", "up")
		wantChecked(t, p, "2", "down: no")

		// A new address begins anew, at once.
		set(BackendConfig{ID: "1", URL: "http://bad"}, BackendConfig{ID: "2", URL: "http://good"})
		wait()
		wantChecked(t, p, "1", "down: no")
		wantChecked(t, p, "2", "up")

		// Another field changes nothing.
		probed.begins("http://good")
		set(BackendConfig{ID: "2", URL: "http://good", Weight: 2})
		wait()
		if n := len(probed.begins("http://good")); n > 1 {
			t.Errorf("%d probes after a change of the weight; want none but the one that may be due", n)
		}

		// A removed backend is not probed any longer.
		wantChecked(t, p, "1", "nothing")
		probed.begins("http://bad")
		time.Sleep(time.Minute)
		if n := len(probed.begins("http://bad")); n != 0 {
			t.Errorf("a removed backend had %d probes; want none", n)
		}
		set()
		wait()
		probed.begins("http://good")
		time.Sleep(time.Minute)
		if n := len(probed.begins("http://good")); n != 0 {
			t.Errorf("%d probes with an empty set; want none", n)
		}

		// One that comes back begins anew.
		set(BackendConfig{ID: "1", URL: "http://bad"})
		wait()
		wantChecked(t, p, "1", "down: no")
	})
}

func TestHealthCheckDropsProbeOfRemovedBackend(t *testing.T) {
	for _, tt := range []struct {
		name    string
		configs []BackendConfig
		want    string // of backend 1
	}{
		{"removed", nil, "nothing"},
		{"new address", []BackendConfig{{ID: "1", URL: "http://good"}}, "up"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				probed := newProbed()
				probed.set("http://slow", hangs)
				p := newChecked(t, HealthCheck{Probe: probed.Probe, Timeout: time.Hour})
				p.SetBackends(BackendConfig{ID: "1", URL: "http://slow"})
				time.Sleep(5 * time.Second)
				if n := probed.numRunning(); n != 1 {
					t.Fatalf("%d probes are running; want 1", n)
				}
				p.SetBackends(tt.configs...)
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if n := probed.numRunning(); n != 0 {
					t.Errorf("%d probes are still running; want none", n)
				}
				wantChecked(t, p, "1", tt.want)
			})
		})
	}
}

func TestShutdownEndsProbes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		probe func(context.Context) error
		end   func(*Proxy)
		want  time.Duration
	}{
		{"Close, none under way", nil, func(p *Proxy) { p.Close() }, 0},
		{"Close, under way", hangs, func(p *Proxy) { p.Close() }, 0},
		{"Shutdown, under way", hangs, func(p *Proxy) { p.Shutdown(context.Background()) }, 0},
		{"Close, ignored", takes(time.Hour), func(p *Proxy) { p.Close() }, time.Second},
		{"Shutdown, ignored", takes(time.Hour), func(p *Proxy) { p.Shutdown(context.Background()) }, time.Second},
		{"Shutdown, ignored, context ended", takes(time.Hour), func(p *Proxy) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			p.Shutdown(ctx)
		}, time.Second},
		{"Shutdown twice", hangs, func(p *Proxy) { p.Shutdown(context.Background()); p.Shutdown(context.Background()) }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				probed := newProbed()
				probed.set("http://a", tt.probe)
				probed.set("http://b", tt.probe)
				p := newChecked(t, HealthCheck{Probe: probed.Probe, Timeout: time.Minute}, "http://a", "http://b")
				time.Sleep(5 * time.Second)
				before := time.Now()
				tt.end(p)
				if took := time.Since(before); took > tt.want {
					t.Errorf("it took %v; want %v at most", took, tt.want)
				}
				if n := probed.numRunning(); n != 0 && tt.want == 0 {
					t.Errorf("%d probes are running afterwards; want none", n)
				}
				probed.begins("http://a")
				time.Sleep(2 * time.Hour)
				if n := len(probed.begins("http://a")); n != 0 {
					t.Errorf("%d probes after the end; want none", n)
				}
			})
		})
	}
}
