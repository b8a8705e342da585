package wsproxytest_test

import (
	"cmp"
	"errors"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/wsproxytest"
)

func TestBuiltInBalancersPass(t *testing.T) {
	for _, tt := range []struct {
		name string
		new  func() wsproxy.Balancer
	}{
		{"LeastTunnels", wsproxy.LeastTunnels},
		{"RoundRobin", wsproxy.RoundRobin},
		{"Random", wsproxy.Random},
		{"Hash/ByClientIP", func() wsproxy.Balancer { return wsproxy.Hash(wsproxy.ByClientIP()) }},
		{"Hash/ByHeader", func() wsproxy.Balancer { return wsproxy.Hash(wsproxy.ByHeader("User-Agent")) }},
		{"Hash/ByCookie", func() wsproxy.Balancer { return wsproxy.Hash(wsproxy.ByCookie("session")) }},
		{"Hash/ByQuery", func() wsproxy.Balancer { return wsproxy.Hash(wsproxy.ByQuery("user")) }},
		{"BoundedHash", func() wsproxy.Balancer { return wsproxy.BoundedHash(wsproxy.ByClientIP(), 1.25) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := wsproxytest.TestBalancer(tt.new); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBalancerThatRefusesUnusualRequestsPasses(t *testing.T) {
	err := testFunc(func() pickFunc {
		return func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			if _, err := r.Cookie("session"); err != nil {
				return nil, &wsproxy.StatusError{Status: http.StatusForbidden, Err: err}
			}
			return candidates[0], nil
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// A proxy that has tried the only backend for a session ends the upgrade with ErrNoBackend.
func TestBalancerThatWantsNoRetryPasses(t *testing.T) {
	err := testFunc(func() pickFunc {
		var chosen sync.Map // *wsproxy.Backend by session
		return func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			c, err := r.Cookie("session")
			if err != nil {
				return candidates[0], nil
			}
			bound, isBound := chosen.Load(c.Value)
			b, _ := bound.(*wsproxy.Backend)
			switch {
			case isBound && slices.Contains(candidates, b):
				return b, nil
			case isBound && b.State() != wsproxy.BackendRemoved:
				return nil, wsproxy.ErrNoBackend
			}
			chosen.Store(c.Value, candidates[0])
			return candidates[0], nil
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// Half the share is no mistake.
func TestBalancerThatGivesFailingBackendsLessPasses(t *testing.T) {
	err := testFunc(always(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
		b, err := wsproxy.Random().Pick(r, candidates)
		if err == nil && b.State() == wsproxy.BackendFailing {
			return wsproxy.Random().Pick(r, candidates)
		}
		return b, err
	}))
	if err != nil {
		t.Error(err)
	}
}

type pickFunc = func(*http.Request, []*wsproxy.Backend) (*wsproxy.Backend, error)

// testFunc tests balancers that are functions.
func testFunc(newPick func() pickFunc) error {
	return wsproxytest.TestBalancer(func() wsproxy.Balancer { return wsproxy.BalancerFunc(newPick()) })
}

// always returns a constructor of a function without state.
func always(f pickFunc) func() pickFunc { return func() pickFunc { return f } }

func TestBrokenBalancersGetTheirRule(t *testing.T) {
	for _, tt := range []struct {
		name string
		new  func() pickFunc
		want []string // each in some error, in this order; no others
	}{
		{"returns what is no candidate", always(func(_ *http.Request, _ []*wsproxy.Backend) (*wsproxy.Backend, error) {
			return new(wsproxy.Backend), nil
		}), []string{"must return one of candidates: for a browser's request and 3 candidates"}},

		{"returns nil", always(func(_ *http.Request, _ []*wsproxy.Backend) (*wsproxy.Backend, error) {
			return nil, nil
		}), []string{"must not return nil without an error"}},

		{"always refuses", always(func(_ *http.Request, _ []*wsproxy.Backend) (*wsproxy.Backend, error) {
			return nil, errors.New("not today")
		}), []string{`must choose a backend for an ordinary request: for a browser's request and 3 candidates it returned the error "not today"`}},

		{"panics", always(func(_ *http.Request, _ []*wsproxy.Backend) (*wsproxy.Backend, error) {
			panic("ouch")
		}), []string{"must not panic: for a browser's request and 3 candidates it panicked: ouch"}},

		{"sorts candidates by tunnels", always(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			slices.SortFunc(candidates, func(a, b *wsproxy.Backend) int { return cmp.Compare(a.NumTunnels(), b.NumTunnels()) })
			return candidates[0], nil
		}), []string{"must not modify candidates: for a browser's request and 3 candidates it changed them"}},

		{"sorts candidates by weight", always(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			slices.SortFunc(candidates, func(a, b *wsproxy.Backend) int { return cmp.Compare(b.Weight(), a.Weight()) })
			return candidates[0], nil
		}), []string{"must not modify candidates: for a browser's request and 3 candidates it changed them"}},

		{"replaces a candidate", always(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			chosen := candidates[0]
			candidates[0] = candidates[len(candidates)-1]
			return chosen, nil
		}), []string{"must not modify candidates"}},

		{"appends to candidates", always(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			doubled := append(candidates, candidates...)
			return doubled[0], nil
		}), []string{"must not modify candidates: for a browser's request and 3 candidates it wrote past their end"}},

		{"changes a header", always(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			r.Header.Set("X-Backend", candidates[0].ID())
			return candidates[0], nil
		}), []string{"must not modify the request: for a browser's request and 3 candidates it changed Header"}},

		{"changes the URL", always(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			r.URL.Path = "/" + candidates[0].ID()
			return candidates[0], nil
		}), []string{"must not modify the request: for a browser's request and 3 candidates it changed URL"}},

		{"changes host", always(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			r.Host = candidates[0].ID()
			return candidates[0], nil
		}), []string{"it changed Host"}},

		{"changes the method", always(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			r.Method = "CONNECT"
			return candidates[0], nil
		}), []string{"it changed Method"}},

		{"changes the remote address", always(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			r.RemoteAddr = "192.0.2.1:1"
			return candidates[0], nil
		}), []string{"it changed RemoteAddr"}},

		{"keeps the slice of the call before", func() pickFunc {
			var kept atomic.Pointer[[]*wsproxy.Backend]
			return func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
				before := kept.Swap(&candidates)
				if before != nil && len(*before) == len(candidates) {
					return (*before)[0], nil
				}
				return candidates[0], nil
			}
		}, []string{"must not retain candidates: after the slice of an earlier call was overwritten,", "backends were removed and added"}},

		{"keeps the first slice and reads it", func() pickFunc {
			var kept atomic.Pointer[[]*wsproxy.Backend]
			return func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
				kept.CompareAndSwap(nil, &candidates)
				for _, b := range *kept.Load() {
					if b.ID() == candidates[0].ID() {
						break
					}
				}
				return candidates[0], nil
			}
		}, []string{"must not retain candidates: after the slice of an earlier call was overwritten, for a browser's request and 3 candidates it panicked: runtime error: invalid memory address"}},

		{"sticks to its first choice", func() pickFunc {
			var first atomic.Pointer[wsproxy.Backend]
			return func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
				first.CompareAndSwap(nil, candidates[0])
				return first.Load(), nil
			}
		}, []string{
			"must work after backends were removed and added: after 1 changes of the set, for a browser's request and 5 candidates it returned",
			"must work when its choice was tried already: after ws://backend-0.example was tried, for a request of one of many browsers and 3 candidates it returned",
		}},

		{"needs its first choice for a session", func() pickFunc {
			var chosen sync.Map // ID by session
			return func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
				c, err := r.Cookie("session")
				if err != nil {
					return candidates[0], nil
				}
				id, _ := chosen.LoadOrStore(c.Value, candidates[0].ID())
				for _, b := range candidates {
					if b.ID() == id {
						return b, nil
					}
				}
				return nil, errors.New("the session is lost")
			}
		}, []string{
			"must work after backends were removed and added",
			`must work when its choice was tried already: after ws://backend-0.example was tried, for a request of one of many browsers and 3 candidates it returned the error "the session is lost"`,
		}},

		{"avoids failing backends", always(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			for _, b := range candidates {
				if b.State() == wsproxy.BackendUp {
					return b, nil
				}
			}
			return candidates[0], nil
		}), []string{"must not avoid a candidate that has a flag: of 200 requests of clients it gave 200 to backend-2.example, and none while that was a candidate that is resting; a balancer need not look at flags"}},

		{"avoids full backends", always(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			left := slices.DeleteFunc(slices.Clone(candidates), func(b *wsproxy.Backend) bool {
				up := b.Health().Flags
				return len(up) > 0 && up[0].Flag == wsproxy.FlagFull
			})
			if len(left) == 0 {
				left = candidates
			}
			return wsproxy.Random().Pick(r, left)
		}), []string{"none while that was a candidate that is full"}},

		{"leaves out backends with flags", always(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			return slices.DeleteFunc(slices.Clone(candidates), func(b *wsproxy.Backend) bool { return len(b.Health().Flags) > 0 })[0], nil
		}), []string{
			"must choose a backend where all candidates have flags: where all are resting, for a request of one of many browsers and 4 candidates it panicked",
			"must not avoid a candidate that has a flag",
		}},

		{"refuses where all backends cannot be reached", always(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			for _, b := range candidates {
				if up := b.Health().Flags; len(up) == 0 || up[0].Flag != wsproxy.FlagUnreachable {
					return b, nil
				}
			}
			return nil, wsproxy.ErrNoBackend
		}), []string{
			"must choose a backend where all candidates have flags: where all are unreachable,",
			"none while that was a candidate that is unreachable",
		}},

		{"needs two candidates", always(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			return candidates[1], nil
		}), []string{
			"must work with any number of candidates: for a browser's request and 1 candidate it panicked",
			"must be safe for concurrent use",
		}},

		{"refuses many candidates", always(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			if len(candidates) > 255 {
				return nil, wsproxy.ErrLimit
			}
			return candidates[0], nil
		}), []string{"must work with any number of candidates: for a browser's request and 1000 candidates it returned the error"}},

		{"needs a cookie", always(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			c, _ := r.Cookie("session")
			return candidates[len(c.Value)%len(candidates)], nil
		}), []string{"must not fail on a request that lacks something: for a request without cookies and query and 3 candidates it panicked"}},

		{"needs a remote address", always(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			return candidates[int(r.RemoteAddr[0])%len(candidates)], nil
		}), []string{`must not fail on a request that lacks something: for a request with RemoteAddr ""`}},

		{"needs a port", always(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			if strings.HasPrefix(r.RemoteAddr, "192.") {
				_ = strings.Split(r.RemoteAddr, ":")[1]
			}
			return candidates[0], nil
		}), []string{"for a request whose RemoteAddr has no port"}},

		{"cannot be called concurrently", func() pickFunc {
			var calls atomic.Int32
			return func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
				defer calls.Add(-1)
				if calls.Add(1) > 1 {
					return nil, nil
				}
				runtime.Gosched()
				return candidates[0], nil
			}
		}, []string{"must be safe for concurrent use: 8 goroutines call it, for a browser's request and"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkViolations(t, testFunc(tt.new), tt.want)
		})
	}
}

// checkViolations fails the test unless err joins one error for each of want.
func checkViolations(t *testing.T, err error, want []string) {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("TestBalancer() = %v; want a join of %d errors", err, len(want))
	}
	got := joined.Unwrap()
	for i, w := range want {
		if i >= len(got) || !strings.Contains(got[i].Error(), w) {
			t.Fatalf("TestBalancer() =\n%v\nwant error %d to say %q", err, i, w)
		}
	}
	if len(got) > len(want) {
		t.Errorf("TestBalancer() =\n%v\nwant %d errors", err, len(want))
	}
}

func TestBalancerThatBlocksIsReportedAndReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := testFunc(always(func(r *http.Request, _ []*wsproxy.Backend) (*wsproxy.Backend, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}))
		checkViolations(t, err, []string{"must not block: for a browser's request and 3 candidates it did not return within 1s"})
		synctest.Wait()
	})
}

func TestBalancerThatBlocksSometimesIsReported(t *testing.T) {
	for name, tt := range map[string]struct {
		when func(*http.Request, []*wsproxy.Backend) bool
		want string
	}{
		"always":        {func(*http.Request, []*wsproxy.Backend) bool { return true }, "a browser's request and 3 candidates"},
		"one candidate": {func(_ *http.Request, c []*wsproxy.Backend) bool { return len(c) == 1 }, "a browser's request and 1 candidate"},
		"no cookies":    {func(r *http.Request, _ []*wsproxy.Backend) bool { return r.Header["Cookie"] == nil }, "a request without cookies"},
		"flag":          {func(_ *http.Request, c []*wsproxy.Backend) bool { return len(c[0].Health().Flags) > 0 }, "a request of one of many browsers and 4 candidates"},
		"four backends": {func(_ *http.Request, c []*wsproxy.Backend) bool { return len(c) == 4 }, "a request of one of many browsers and 4 candidates"},
		"a flag for one": {func(_ *http.Request, c []*wsproxy.Backend) bool {
			return len(c) == 4 && len(c[0].Health().Flags) != len(c[1].Health().Flags)
		}, "a request of one of many browsers and 4 candidates"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				err := testFunc(always(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
					if tt.when(r, candidates) {
						<-r.Context().Done()
					}
					return candidates[0], nil
				}))
				checkViolations(t, err, []string{"must not block: for " + tt.want})
				if took := time.Since(start); took != time.Second {
					t.Errorf("TestBalancer returned after %v; want 1s, without further calls", took)
				}
			})
		})
	}
}

func TestNilBalancerIsReported(t *testing.T) {
	checkViolations(t, wsproxytest.TestBalancer(nil), []string{"newBalancer must return a Balancer: the function is nil"})
	checkViolations(t, wsproxytest.TestBalancer(func() wsproxy.Balancer { return nil }),
		[]string{"newBalancer must return a Balancer: it returned nil"})
}
