package chaos_test

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
)

// A report has what clients and the hooks of one proxy saw, and which invariants do not hold.
type report struct {
	start time.Time

	mu         sync.Mutex
	violations []string
	upgrades   []upgrade
	sessions   []sessionEnd
	ends       map[uint64]wsproxy.TunnelEnd // by the number of the tunnel
	refusals   map[uint64]string            // why it was not opened
}

func newReport() *report {
	return &report{start: time.Now(), ends: make(map[uint64]wsproxy.TunnelEnd), refusals: make(map[uint64]string)}
}

// add adds a violation.
func (r *report) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addLocked(format, args...)
}

func (r *report) addLocked(format string, args ...any) {
	r.violations = append(r.violations, time.Since(r.start).Round(time.Millisecond).String()+": "+fmt.Sprintf(format, args...))
}

func (r *report) addUpgrade(number uint64, start time.Time, took, limit time.Duration, status int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.upgrades = append(r.upgrades, upgrade{number, start.Sub(r.start), took, limit, status, err})
}

func (r *report) addSession(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions = append(r.sessions, sessionEnd{s.talk, s.code, s.reason, s.err})
}

// trace returns hooks that record the end of each tunnel, and why one was not opened.
func (r *report) trace() *wsproxy.Trace {
	return &wsproxy.Trace{
		Closed: func(e wsproxy.TunnelEnd) {
			number := r.number(e.URL)
			r.mu.Lock()
			defer r.mu.Unlock()
			if _, isTwice := r.ends[number]; isTwice {
				r.addLocked("tunnel %d ended twice", number)
			}
			r.ends[number] = e
		},
		Refused: func(i wsproxy.RefusedInfo) {
			number := r.number(i.Request.URL)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.refusals[number] = fmt.Sprintf("%v: %v", i.Reason, i.Err)
		},
	}
}

// number returns the number of the tunnel that a request asks for.
func (r *report) number(u *url.URL) uint64 {
	number, err := strconv.ParseUint(u.Query().Get("tunnel"), 10, 64)
	if err != nil {
		r.add("the proxy has a tunnel with the URL %v", u)
	}
	return number
}

// check checks what can be checked when all tunnels have ended: their ends, and the upgrades
// before end, a time since the start. It returns how many windows were checked. It allows for the
// times when this process could not run.
func (r *report) check(faults []time.Duration, end time.Duration, late lateness) (numWindows int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range r.upgrades {
		if allowed := u.limit + late.within(u.start, u.start+u.took); u.took > allowed {
			r.addLocked("the client waited too long, at most %v is allowed: %v; the proxy says: %s", allowed, &u, r.refusals[u.number])
		}
	}
	for _, s := range r.sessions {
		e, ok := r.ends[s.tunnel]
		if !ok {
			r.addLocked("tunnel %d: Trace.Closed was not called", s.tunnel)
			continue
		}
		if err := s.check(e); err != nil {
			r.addLocked("tunnel %d: %v; %v", s.tunnel, err, describe(e))
		}
	}
	for number, e := range r.ends {
		if err := checkEnd(e); err != nil {
			r.addLocked("tunnel %d: %v; %v", number, err, describe(e))
		}
	}
	numWindows, failed, err := checkWindows(r.upgrades, faults, end, late)
	if err != nil {
		r.addLocked("%v", err)
		for _, u := range failed {
			r.addLocked("%v; the proxy says: %s", &u, r.refusals[u.number])
		}
	}
	return numWindows
}

// fail fails the test if an invariant did not hold.
func (r *report) fail(t *testing.T, name string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	const most = 10
	for i, v := range r.violations {
		if i == most {
			t.Errorf("%s: and %d more", name, len(r.violations)-most)
			return
		}
		t.Errorf("%s: %s", name, v)
	}
}

func describe(e wsproxy.TunnelEnd) string {
	return fmt.Sprintf("the proxy (%v) says: %v, %v, code %d, cut: %t, %v; to backend %+v, to client %+v, after %v",
		e.Engine, e.Side, e.Cause, e.Code, e.Cut, e.Err, e.ToBackend, e.ToClient, e.Duration.Round(time.Millisecond))
}

// An upgrade is what a client saw of one.
type upgrade struct {
	number uint64
	start  time.Duration // since the start of the report
	took   time.Duration
	limit  time.Duration // of took
	status int           // 0: there was no response
	err    error
}

func (u *upgrade) hasFailed() bool { return u.status != http.StatusSwitchingProtocols }

func (u *upgrade) String() string {
	return fmt.Sprintf("tunnel %d, asked for at %v, after %v: status %d, %v",
		u.number, u.start.Round(time.Millisecond), u.took.Round(time.Millisecond), u.status, u.err)
}

const (
	windowSize  = 5 * time.Second
	windowLeast = 200             // upgrades in it, else it says nothing
	afterFault  = 2 * time.Second // a window may begin
	maxFailed   = 0.01
	maxLate     = 500 * time.Millisecond // in a window, and for as long as a response may take
)

// checkWindows checks each window of time that begins long enough after the last fault before
// it, and ends by end. In a window that has enough upgrades, few may fail. The windows are those
// that begin with an upgrade: others have no more failures in as few upgrades. It returns the
// number of windows, and those that failed in the worst one. A window in which this process could
// not run says nothing.
func checkWindows(upgrades []upgrade, faults []time.Duration, end time.Duration, late lateness) (numWindows int, worst []upgrade, err error) {
	upgrades = slices.SortedFunc(slices.Values(upgrades), func(a, b upgrade) int { return cmp.Compare(a.start, b.start) })
	worstShare, worstOf := 0.0, 0
	for first, last := 0, 0; first < len(upgrades); first++ {
		begin := upgrades[first].start
		if begin+windowSize > end {
			break
		}
		for last < len(upgrades) && upgrades[last].start < begin+windowSize {
			last++
		}
		isTooEarly := slices.ContainsFunc(faults, func(f time.Duration) bool { return f <= begin && begin < f+afterFault })
		if isTooEarly || last-first < windowLeast || late.within(begin, begin+windowSize+afterFault) > maxLate {
			continue
		}
		numWindows++
		var failed []upgrade
		for _, u := range upgrades[first:last] {
			if u.hasFailed() {
				failed = append(failed, u)
			}
		}
		if share := float64(len(failed)) / float64(last-first); share > worstShare {
			worst, worstShare, worstOf = failed, share, last-first
		}
	}
	if worstShare > maxFailed {
		err = fmt.Errorf("%d of %d upgrades within %v failed; faults at %v", len(worst), worstOf, windowSize, faults)
	}
	return numWindows, worst, err
}

// A lateness has the times when this process could not run, because others used the machine.
type lateness []gap

// A gap is a time since the start of a report.
type gap struct{ from, to time.Duration }

// within returns how long the process could not run between two times.
func (l lateness) within(from, to time.Duration) (sum time.Duration) {
	for _, g := range l {
		sum += max(min(g.to, to)-max(g.from, from), 0)
	}
	return sum
}

// watchLateness measures the lateness until done is closed, and then sends it.
func watchLateness(start time.Time, done <-chan struct{}) <-chan lateness {
	const interval, least = 20 * time.Millisecond, 100 * time.Millisecond
	result := make(chan lateness, 1)
	go func() { // ends with done
		var l lateness
		for {
			due := time.Now().Add(interval)
			select {
			case <-time.After(interval):
				if now := time.Now(); now.Sub(due) > least {
					l = append(l, gap{due.Sub(start), now.Sub(start)})
				}
			case <-done:
				result <- l
				return
			}
		}
	}()
	return result
}

// sidesOfCause are the sides that may end a tunnel here. A cause that is missing may not occur.
var sidesOfCause = map[wsproxy.Cause][]wsproxy.Side{
	wsproxy.CauseClosed:      {wsproxy.SideClient, wsproxy.SideBackend},
	wsproxy.CauseLost:        {wsproxy.SideClient, wsproxy.SideBackend},
	wsproxy.CauseProtocol:    {wsproxy.SideBackend},
	wsproxy.CauseShutdown:    {wsproxy.SideProxy},
	wsproxy.CauseApplication: {wsproxy.SideProxy},
	wsproxy.CauseBackendDown: {wsproxy.SideProxy},
	wsproxy.CauseIdle:        {wsproxy.SideProxy},
	wsproxy.CauseLifetime:    {wsproxy.SideProxy},
	wsproxy.CausePingTimeout: {wsproxy.SideBackend},
	wsproxy.CauseRebalance:   {wsproxy.SideProxy},
	wsproxy.CauseDrain:       {wsproxy.SideProxy},
}

// checkEnd checks that the end of a tunnel has a side and a cause that fit.
func checkEnd(e wsproxy.TunnelEnd) error {
	switch {
	case !slices.Contains(sidesOfCause[e.Cause], e.Side):
		return errors.New("the end has the wrong side or cause")
	case e.Cause == wsproxy.CauseClosed && e.Code == 0:
		return errors.New("the end has no code")
	case e.Cause == wsproxy.CauseProtocol && e.Err == nil:
		return errors.New("the end has no error")
	}
	return nil
}

// A sessionEnd is how a client saw the end of its tunnel.
type sessionEnd struct {
	talk
	code   uint16 // of the Close frame that came; 0: none came
	reason string // of the Close frame
	err    error  // of the stream
}

// check compares what the client saw with what the proxy says.
func (s *sessionEnd) check(e wsproxy.TunnelEnd) error {
	isInside := errors.Is(s.err, io.ErrUnexpectedEOF)
	switch {
	case s.code == 0 && !e.Cut:
		return fmt.Errorf("the client got no Close frame, but %v", s.err)
	case s.code == 0 && s.err == io.EOF && e.Cause == wsproxy.CauseLost && e.Side == wsproxy.SideBackend:
		return errors.New("the client got no Close frame, though its backend was lost between two frames")
	case isInside && s.code != 0:
		return errors.New("the stream ended within a frame behind the Close frame")
	case s.code != 0 && int(s.code) != e.Code:
		return fmt.Errorf("the client got a Close frame with code %d", s.code)
	case s.code == 1000 && s.reason == allAnswered && s.received != s.sent:
		return fmt.Errorf("the client got %d answers to %d messages before the backend's Close frame", s.received, s.sent)
	case s.code != 0 && e.ToClient.Messages != s.received:
		return fmt.Errorf("the client got %d messages", s.received)
	case e.ToBackend.Messages < s.received || e.ToBackend.Messages > s.sent:
		return fmt.Errorf("the client sent %d messages, and got %d answers", s.sent, s.received)
	}
	return nil
}

func TestReportChecksWindows(t *testing.T) {
	const perSecond = 50
	everySecond := func(from, to int, status int) (all []upgrade) {
		for i := from * perSecond; i < to*perSecond; i++ {
			all = append(all, upgrade{start: time.Duration(i) * time.Second / perSecond, status: status})
		}
		return all
	}
	const opens, fails = http.StatusSwitchingProtocols, http.StatusServiceUnavailable
	some := func(n int, from int) []upgrade { return everySecond(from, from+1, fails)[:n] }
	all := everySecond(0, 20, opens)
	for _, tt := range []struct {
		name     string
		upgrades []upgrade
		faults   []time.Duration
		late     lateness
		want     bool
		wantNone bool // there is no window
	}{
		{name: "none fails", upgrades: all},
		{name: "few fail", upgrades: slices.Concat(all, some(2, 10))},
		{name: "some fail", upgrades: slices.Concat(all, some(5, 10)), want: true},
		{name: "some fail just after a fault", upgrades: slices.Concat(all, some(5, 10)), faults: []time.Duration{9900 * time.Millisecond}, want: true}, // which windows from before have
		{name: "some fail after faults without a window between them", upgrades: slices.Concat(all, some(5, 10)),
			faults: []time.Duration{5 * time.Second, 7 * time.Second, 9 * time.Second}},
		{name: "some fail 2 s after a fault", upgrades: slices.Concat(all, some(5, 12)), faults: []time.Duration{10 * time.Second}, want: true},
		{name: "some fail when the process could not run", upgrades: slices.Concat(all, some(5, 10)),
			late: lateness{{10 * time.Second, 11 * time.Second}}},
		{name: "some fail at the end", upgrades: slices.Concat(all, some(5, 21))},
		{name: "there are few upgrades", upgrades: everySecond(0, 3, fails), wantNone: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			numWindows, _, err := checkWindows(tt.upgrades, tt.faults, 20*time.Second, tt.late)
			if (err != nil) != tt.want || (numWindows == 0) != tt.wantNone {
				t.Errorf("%d windows, error %v; want an error: %t, no window: %t", numWindows, err, tt.want, tt.wantNone)
			}
		})
	}
}

func TestReportChecksEnds(t *testing.T) {
	closed := wsproxy.TunnelEnd{Side: wsproxy.SideClient, Cause: wsproxy.CauseClosed, Code: 1000}
	closed.ToBackend.Messages, closed.ToClient.Messages = 5, 5
	with := func(change func(*wsproxy.TunnelEnd)) wsproxy.TunnelEnd {
		e := closed
		change(&e)
		return e
	}
	seen := sessionEnd{talk: talk{sent: 5, received: 5}, code: 1000, reason: allAnswered, err: io.EOF}
	for _, tt := range []struct {
		name string
		end  wsproxy.TunnelEnd
		want string
	}{
		{"closed", closed, ""},
		{"zero", with(func(e *wsproxy.TunnelEnd) { e.Side = wsproxy.SideProxy }), "wrong side or cause"},
		{"panic", with(func(e *wsproxy.TunnelEnd) { e.Cause = wsproxy.CausePanic }), "wrong side or cause"},
		{"no code", with(func(e *wsproxy.TunnelEnd) { e.Code = 0 }), "no code"},
		{"no error", with(func(e *wsproxy.TunnelEnd) { e.Side, e.Cause = wsproxy.SideBackend, wsproxy.CauseProtocol }), "no error"},
		{"another code", with(func(e *wsproxy.TunnelEnd) { e.Code = 1001 }), "with code 1000"},
		{"a message less is counted", with(func(e *wsproxy.TunnelEnd) { e.ToClient.Messages-- }), "got 5 messages"},
		{"a message more is counted", with(func(e *wsproxy.TunnelEnd) { e.ToBackend.Messages++ }), "sent 5 messages"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := checkEnd(tt.end)
			if err == nil {
				err = seen.check(tt.end)
			}
			wantError(t, tt.name, err, tt.want)
		})
	}
}
