package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A fakeConn writes into memory.
type fakeConn struct {
	d          *fakeDriver
	written    []byte
	buffer     []byte
	isBlocked  bool // it buffers what is written
	fails      bool // writes fail
	cannotShut bool
	inSystem   int // of what was written
	isShut     bool
	closed     action // how it was closed; 0 while it is open
}

var errBroken = errors.New("broken")

func (c *fakeConn) write(p []byte, _ bool) (int, error) {
	switch {
	case c.fails:
		return 0, errBroken
	case c.isBlocked:
		c.buffer = append(c.buffer, p...)
	default:
		c.written = append(c.written, p...)
	}
	return len(p), nil
}

func (c *fakeConn) buffered() int { return len(c.buffer) }
func (c *fakeConn) isFull() bool  { return len(c.buffer) > 0 }

func (c *fakeConn) unwrite(n uint64) bool {
	if n > uint64(len(c.buffer)) {
		return false
	}
	c.buffer = c.buffer[:len(c.buffer)-int(n)]
	return true
}

func (c *fakeConn) drop() int {
	n := len(c.buffer)
	c.buffer = nil
	return n
}

func (c *fakeConn) unsent() int       { return c.inSystem }
func (*fakeConn) hasBegunWrite() bool { return false }
func (c *fakeConn) interrupt()        {}
func (c *fakeConn) canShut() bool     { return !c.cannotShut }
func (c *fakeConn) shut()             { c.isShut = true }
func (c *fakeConn) wake()             {}
func (c *fakeConn) close(how action)  { c.closed = how }

// A fakeDriver is the driver of a relay that the test moves by hand. It has no goroutine,
// and its time passes in ticks that the test makes.
type fakeDriver struct {
	t               *testing.T
	r               *Relay
	client, backend fakeConn
	samples         [2]sample // what the next tick is told of the client and the backend
	eachTick        func()    // is called before each tick, if it is not nil
	time            ticks
}

// newFake returns the driver of a new relay.
func newFake(t *testing.T, l Limits) *fakeDriver {
	t.Helper()
	r := NewEngine(l).New(Config{})
	d := &fakeDriver{t: t, r: r}
	d.client.d, d.backend.d = d, d
	r.driver = d
	return d
}

func (d *fakeDriver) fake(s Side) *fakeConn {
	if s == Client {
		return &d.client
	}
	return &d.backend
}

func (d *fakeDriver) run() End         { panic("unused") }
func (d *fakeDriver) start()           { panic("unused") }
func (d *fakeDriver) conn(s Side) conn { return d.fake(s) }
func (d *fakeDriver) notify()          {}
func (d *fakeDriver) watch()           {}
func (d *fakeDriver) connClosed()      {}
func (d *fakeDriver) kind() EngineKind { return Portable }
func (d *fakeDriver) now() ticks       { return d.time }
func (d *fakeDriver) isRead(s Side) bool {
	return !d.sample(otherSide(s)).isBlocked && !d.sample(s).isHeldBack
}

func (d *fakeDriver) sample(s Side) *sample { return &d.samples[s-Client] }

// settle does what is due, as the loop does after each event.
func (d *fakeDriver) settle() {
	for again := true; again; {
		d.r.client.attend()
		d.r.backend.attend()
		again = d.r.act(d)
		for _, l := range [...]*leg{&d.r.client, &d.r.backend} {
			if d.fake(l.side).closed != 0 && l.readState() != readEnded {
				l.ended(net.ErrClosed)
				again = true
			}
		}
	}
}

// receive makes frames of a side arrive.
func (d *fakeDriver) receive(from Side, frames ...wstest.Frame) {
	d.receiveRaw(from, wire(from, frames...))
}

func (d *fakeDriver) receiveRaw(from Side, b []byte) {
	l := d.r.leg(from)
	l.handle(append(l.head(), b...))
	d.settle()
}

// end makes the stream of a side end.
func (d *fakeDriver) end(of Side, err error) {
	d.r.leg(of).ended(err)
	d.settle()
}

// close is Relay.Close.
func (d *fakeDriver) close(cause Cause) {
	d.r.Close(cause, 0, "")
	d.settle()
}

// unblock makes a side take what is buffered for it.
func (d *fakeDriver) unblock(s Side) {
	c := d.fake(s)
	c.isBlocked = false
	c.written = append(c.written, c.buffer...)
	c.buffer = nil
	d.r.leg(s).flushed()
	d.settle()
}

// block makes a side take nothing.
func (d *fakeDriver) block(s Side) {
	d.fake(s).isBlocked = true
	d.sample(s).isBlocked = true
	d.sample(s).isQueued = true
}

func (d *fakeDriver) tick() (again bool) {
	if d.eachTick != nil {
		d.eachTick()
	}
	again = d.r.tick(tickInterval, d.samples[0], d.samples[1])
	d.settle()
	return again
}

// after ticks until is reports true, and returns how much time has passed at least: what
// happened before may have happened right before the first tick.
func (d *fakeDriver) after(is func() bool) time.Duration {
	for n := range time.Duration(400) {
		if d.tick(); is() {
			return n * tickInterval
		}
	}
	return tooLate
}

const tooLate = 100 * time.Second

// wantAfter wants that something happens when d has passed, or a tick later.
func wantAfter(t *testing.T, what string, got, d time.Duration) {
	t.Helper()
	if got < d || d < tooLate && got > d+tickInterval {
		t.Errorf("%s after %v; want %v", what, got, d)
	}
}

// takes makes a side take bytes before each tick.
func (d *fakeDriver) takes(s Side) {
	d.also(func() { d.sample(s).taken += 100 })
}

// sends makes a side send frames before each tick.
func (d *fakeDriver) sends(s Side, frames ...wstest.Frame) {
	d.also(func() { d.receive(s, frames...) })
}

func (d *fakeDriver) also(f func()) {
	before := d.eachTick
	d.eachTick = func() {
		if before != nil {
			before()
		}
		f()
	}
}

// finishClosing makes both sides send Close frames, the client first.
func (d *fakeDriver) finishClosing() {
	d.receive(Client, wstest.Close(1000, ""))
	d.receive(Backend, wstest.Close(1000, ""))
}

func TestTickClosesLegs(t *testing.T) {
	closeTimeout := Limits{CloseTimeout: time.Minute}
	tests := []struct {
		name   string
		limits Limits
		act    func(*fakeDriver)
		closes Side // the leg that is closed first
		after  time.Duration
		how    action
		isCut  bool
	}{
		// Silence.
		{name: "the client does not answer a Close", act: func(d *fakeDriver) {
			d.receive(Backend, wstest.Close(1000, ""))
		}, closes: Client, after: silenceTimeout, how: abandonConn, isCut: true},
		{name: "the backend does not answer a Close", act: func(d *fakeDriver) {
			d.receive(Client, wstest.Close(1000, ""))
		}, closes: Backend, after: silenceTimeout, how: abandonConn, isCut: true},
		{name: "the client is lost, and the backend sends nothing", act: func(d *fakeDriver) {
			d.end(Client, io.EOF)
		}, closes: Backend, after: silenceTimeout, how: abandonConn, isCut: true},
		{name: "the backend answers no Close, but sends the rest of a message for 10 s", act: func(d *fakeDriver) {
			d.receive(Backend, wstest.Fragment(wstest.OpText, false, "first"))
			d.receive(Client, wstest.Close(1000, ""))
			n := 0
			d.also(func() {
				if n++; n <= 40 {
					d.receive(Backend, wstest.Fragment(wstest.OpContinuation, n == 40, "next"))
				}
			})
		}, closes: Backend, after: silenceTimeout + 39*tickInterval, how: abandonConn, isCut: true},
		{name: "the backend answers no Close, and sends new messages", act: func(d *fakeDriver) {
			d.receive(Client, wstest.Close(1000, ""))
			d.sends(Backend, wstest.Text("on and on"))
		}, closes: Backend, after: silenceTimeout, how: abandonConn, isCut: true},
		{name: "the client answers no Close, and sends new messages", act: func(d *fakeDriver) {
			d.receive(Backend, wstest.Close(1000, ""))
			d.sends(Client, wstest.Text("on and on"))
		}, closes: Client, after: silenceTimeout, how: abandonConn, isCut: true},

		{name: "the client is lost, and the backend's stream cannot be ended alone", act: func(d *fakeDriver) {
			d.backend.cannotShut = true
			d.end(Client, io.EOF)
		}, closes: Backend, after: goneTimeout, how: closeConn},
		{name: "such a backend sends on for 2 s", act: func(d *fakeDriver) {
			d.backend.cannotShut = true
			d.end(Client, io.EOF)
			n := 0
			d.also(func() {
				if n++; n <= 8 {
					d.receive(Backend, wstest.Text("unread, this would make a reset of it"))
				}
			})
		}, closes: Backend, after: 7*tickInterval + goneTimeout, how: closeConn},

		{name: "after a shutdown the backend does not answer, and sends new messages", act: func(d *fakeDriver) {
			d.close(CauseShutdown)
			d.sends(Backend, wstest.Text("on and on"))
			d.also(func() {
				if d.r.client.write.isPastClose() && d.r.client.readState() != readEnded {
					d.receive(Client, wstest.Close(1001, ""))
				}
			})
		}, closes: Backend, after: answersTimeout + endTimeout, how: closeConn},

		{name: "a write to the client failed, and it sends on", act: func(d *fakeDriver) {
			d.client.fails = true
			d.receive(Backend, wstest.Text("fails"))
			d.sends(Client, wstest.Text("on and on"))
		}, closes: Client, after: lostSendsTimeout, how: abandonConn, isCut: true},
		{name: "a write to the backend failed after a Close, and it sends on", act: func(d *fakeDriver) {
			d.backend.fails = true
			d.receive(Backend, wstest.Fragment(wstest.OpText, false, "first"))
			d.close(CauseShutdown)
			d.also(func() { d.receive(Backend, wstest.Fragment(wstest.OpContinuation, false, "next")) })
		}, closes: Backend, after: lostSendsTimeout, how: wakeReader | abandonConn, isCut: true},
		{name: "the backend has ended, and the client's reader still writes to it", act: func(d *fakeDriver) {
			d.receive(Backend, wstest.Close(1000, ""))
			d.end(Backend, io.EOF)
			d.takes(Backend)
			n := 0
			d.also(func() {
				n++
				d.sample(Backend).hasWritten = n <= 8
			})
		}, closes: Backend, after: 7*tickInterval + goneTimeout, how: closeConn},

		// Bytes wait.
		{name: "the client takes nothing of its queue", act: func(d *fakeDriver) {
			d.finishClosing()
			d.sample(Client).isQueued = true
			d.end(Backend, io.EOF)
		}, closes: Client, after: stuckTimeout, how: resetConn, isCut: true},
		{name: "the client takes nothing, and has not answered", act: func(d *fakeDriver) {
			d.receive(Backend, wstest.Close(1000, ""))
			d.sample(Client).isQueued = true
		}, closes: Client, after: stuckTimeout, how: resetConn, isCut: true},
		{name: "the client takes nothing of the buffer", act: func(d *fakeDriver) {
			d.block(Client)
			d.receive(Backend, wstest.Text("waits"), wstest.Close(1000, ""))
		}, closes: Client, after: stuckTimeout, how: resetConn, isCut: true},
		{name: "the client takes something for ever", limits: closeTimeout, act: func(d *fakeDriver) {
			d.receive(Backend, wstest.Close(1000, ""))
			d.end(Backend, io.EOF)
			d.sample(Client).isQueued = true
			d.takes(Client)
		}, closes: Client, after: time.Minute, how: abandonConn, isCut: true},
		{name: "the client takes something for ever, and no limit is set", act: func(d *fakeDriver) {
			d.receive(Backend, wstest.Close(1000, ""))
			d.end(Backend, io.EOF)
			d.sample(Client).isQueued = true
			d.takes(Client)
		}, closes: Client, after: tooLate},

		// Both sides are done.
		{name: "the client's queue is empty", act: func(d *fakeDriver) {
			d.finishClosing()
			d.end(Backend, io.EOF)
		}, closes: Client, after: emptyTimeout, how: closeConn},
		{name: "the client's queue is unknown", act: func(d *fakeDriver) {
			d.finishClosing()
			d.sample(Client).isQueueUnknown = true
			d.end(Backend, io.EOF)
		}, closes: Client, after: unknownTimeout, how: closeConn},
		{name: "the client takes its queue in 10 s", act: func(d *fakeDriver) {
			d.finishClosing()
			d.end(Backend, io.EOF)
			n := 0
			d.also(func() {
				n++
				d.sample(Client).isQueued = n <= 40
			})
		}, closes: Client, after: emptyTimeout + 39*tickInterval, how: closeConn},
		{name: "the client sends on after its Close", act: func(d *fakeDriver) {
			d.finishClosing()
			d.end(Backend, io.EOF)
			d.sends(Client, wstest.Text("ignored"))
		}, closes: Client, after: emptyTimeout, how: closeConn},
		{name: "the backend does not end its stream", act: func(d *fakeDriver) {
			d.finishClosing()
			d.end(Client, io.EOF)
		}, closes: Backend, after: endTimeout, how: closeConn},
		{name: "the backend broke the protocol", act: func(d *fakeDriver) {
			d.receiveRaw(Backend, []byte{0xff, 0})
			d.end(Client, io.EOF)
		}, closes: Backend, after: endTimeout, how: closeConn},

		{name: "the backend ends its stream behind its Close, and the client sends nothing", act: func(d *fakeDriver) {
			d.receive(Backend, wstest.Close(1000, ""))
			d.end(Backend, io.EOF)
		}, closes: Backend, after: goneTimeout, how: closeConn},

		// A write has failed.
		{name: "a write to the client has failed", act: func(d *fakeDriver) {
			d.client.fails = true
			d.receive(Backend, wstest.Text("hello"))
		}, closes: Client, after: lostTimeout, how: abandonConn},
		{name: "a write to the backend has failed", act: func(d *fakeDriver) {
			d.backend.fails = true
			d.receive(Client, wstest.Text("hello"))
		}, closes: Backend, after: lostTimeout, how: abandonConn},

		// A peer has gone, and cannot be read.
		{name: "the client hangs up behind unread data", act: func(d *fakeDriver) {
			d.block(Backend)
			d.sample(Client).hangUp = hungUp
		}, closes: Client, after: hangUpTimeout, how: abandonConn, isCut: true},
		{name: "the backend hangs up behind unread data", act: func(d *fakeDriver) {
			d.block(Client)
			d.sample(Backend).hangUp = hungUp
		}, closes: Backend, after: hangUpTimeout, how: abandonConn, isCut: true},
		{name: "the client half-closes behind unread data", act: func(d *fakeDriver) {
			d.block(Backend)
			d.sample(Client).hangUp = halfClosed
		}, closes: Client, after: halfCloseTimeout, how: abandonConn, isCut: true},
		{name: "the client hangs up, but the backend takes what it sent", act: func(d *fakeDriver) {
			d.block(Backend)
			d.takes(Backend)
			d.sample(Client).hangUp = hungUp
		}, closes: Client, after: tooLate},
		{name: "the client hangs up, and is read", act: func(d *fakeDriver) {
			d.sample(Client).hangUp = hungUp
		}, closes: Client, after: tooLate},
		{name: "the backend takes nothing, and the client is there", act: func(d *fakeDriver) {
			d.block(Backend)
		}, closes: Backend, after: tooLate},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newFake(t, tt.limits)
			tt.act(d)
			c := d.fake(tt.closes)
			if c.closed != 0 {
				t.Fatal("it is closed before the first tick")
			}
			got := d.after(func() bool { return c.closed != 0 })
			wantAfter(t, "closed", got, tt.after)
			if c.closed != tt.how {
				t.Errorf("closed by action %b; want %b", c.closed, tt.how)
			}
			if tt.after < tooLate && d.r.closing.end.Cut != tt.isCut {
				t.Errorf("Cut is %v; want %v", !tt.isCut, tt.isCut)
			}
		})
	}
}

func TestTickEndsEveryTunnelThatIsEnding(t *testing.T) {
	acts := map[string]func(*fakeDriver){
		"shutdown":                     func(d *fakeDriver) { d.close(CauseShutdown) },
		"the client closes":            func(d *fakeDriver) { d.receive(Client, wstest.Close(1000, "")) },
		"the backend closes":           func(d *fakeDriver) { d.receive(Backend, wstest.Close(1000, "")) },
		"the client is lost":           func(d *fakeDriver) { d.end(Client, io.EOF) },
		"the backend is lost":          func(d *fakeDriver) { d.end(Backend, io.EOF) },
		"the client is reset":          func(d *fakeDriver) { d.end(Client, errBroken) },
		"the backend is reset":         func(d *fakeDriver) { d.end(Backend, errBroken) },
		"the client breaks a rule":     func(d *fakeDriver) { d.receiveRaw(Client, []byte{0xff, 0}) },
		"the backend breaks a rule":    func(d *fakeDriver) { d.receiveRaw(Backend, []byte{0xff, 0}) },
		"a write to the client fails":  func(d *fakeDriver) { d.client.fails = true; d.receive(Backend, wstest.Text("x")) },
		"a write to the backend fails": func(d *fakeDriver) { d.backend.fails = true; d.receive(Client, wstest.Text("x")) },
	}
	before := map[string]func(*fakeDriver){
		"idle":                       func(*fakeDriver) {},
		"the client takes nothing":   func(d *fakeDriver) { d.block(Client); d.receive(Backend, wstest.Text("waits")) },
		"the backend takes nothing":  func(d *fakeDriver) { d.block(Backend); d.receive(Client, wstest.Text("waits")) },
		"within the client's frame":  func(d *fakeDriver) { d.receiveRaw(Client, wire(Client, wstest.Text("under way"))[:10]) },
		"within the backend's frame": func(d *fakeDriver) { d.receiveRaw(Backend, wire(Backend, wstest.Text("under way"))[:10]) },
		"both take nothing": func(d *fakeDriver) {
			d.block(Client)
			d.block(Backend)
			d.receive(Client, wstest.Text("waits"))
			d.receive(Backend, wstest.Text("waits"))
		},
	}
	for state, prepare := range before {
		for name, act := range acts {
			if strings.HasPrefix(state, "within the client") && strings.HasPrefix(name, "the client") ||
				strings.HasPrefix(state, "within the backend") && strings.HasPrefix(name, "the backend") {
				continue // the act would be the rest of the frame
			}
			t.Run(state+", "+name, func(t *testing.T) {
				d := newFake(t, Limits{CloseTimeout: time.Minute})
				prepare(d)
				act(d)
				if got := d.after(func() bool { return d.client.closed != 0 && d.backend.closed != 0 }); got > 2*stuckTimeout {
					t.Errorf("both legs are closed after %v; want 30 s at most", got)
				}
			})
		}
	}
}

func TestTickGivesUpAskingTheBackend(t *testing.T) {
	causes := map[string]func(*fakeDriver){
		"shutdown":                       func(d *fakeDriver) { d.close(CauseShutdown) },
		"the client breaks the protocol": func(d *fakeDriver) { d.receiveRaw(Client, []byte{0xff, 0}) },
	}
	tests := []struct {
		name string
		act  func(*fakeDriver)
		want time.Duration
	}{
		{"a backend that sends nothing", func(*fakeDriver) {}, answerTimeout},
		{"a backend that sends on", func(d *fakeDriver) { d.sends(Backend, wstest.Text("on and on")) }, answersTimeout},
		{"a backend that is not read", func(d *fakeDriver) {
			d.sample(Client).isBlocked = true
			d.sample(Client).isQueued = true
			d.takes(Client)
		}, tooLate},
	}
	for cause, begin := range causes {
		for _, tt := range tests {
			t.Run(cause+", "+tt.name, func(t *testing.T) {
				d := newFake(t, Limits{})
				begin(d)
				tt.act(d)
				if len(d.backend.written) == 0 {
					t.Fatal("the backend was not sent its Close frame at once")
				}
				got := d.after(func() bool { return d.r.client.write != writeOpen })
				wantAfter(t, "the client's Close frame is written", got, tt.want)
			})
		}
	}
}

func TestBackendThatAnswersEndsTheAsking(t *testing.T) {
	acts := map[string]func(*fakeDriver){
		"by its Close frame":          func(d *fakeDriver) { d.receive(Backend, wstest.Close(1001, "")) },
		"by the end of its stream":    func(d *fakeDriver) { d.end(Backend, io.EOF) },
		"by a reset":                  func(d *fakeDriver) { d.end(Backend, errBroken) },
		"by a violation":              func(d *fakeDriver) { d.receiveRaw(Backend, []byte{0xff, 0}) },
		"by a Close of its own codes": func(d *fakeDriver) { d.receive(Backend, wstest.Close(4001, "")) },
	}
	for name, answer := range acts {
		t.Run(name, func(t *testing.T) {
			d := newFake(t, Limits{})
			d.close(CauseShutdown)
			d.receive(Backend, wstest.Text("before"))
			if d.r.client.write != writeOpen {
				t.Fatal("the client's Close frame does not wait for the backend")
			}
			answer(d)
			if d.r.client.write == writeOpen {
				t.Error("the client's Close frame is not written behind the answer")
			}
		})
	}
}

func TestTickEndsATunnelWhoseSideTakesNothing(t *testing.T) {
	const limit = 40 * time.Second // more than the limits of a tunnel that is ending
	tests := []struct {
		name  string
		limit time.Duration
		act   func(*fakeDriver)
		after time.Duration
		want  End
		reset []Side
	}{
		{name: "the client", limit: limit, act: func(d *fakeDriver) {
			d.block(Client)
			d.receive(Backend, wstest.Text("waits"))
		}, after: limit, want: End{Side: Client, Cause: CauseStalled, Cut: true}, reset: []Side{Client}},
		{name: "the backend", limit: limit, act: func(d *fakeDriver) {
			d.block(Backend)
			d.receive(Client, wstest.Text("waits"))
		}, after: limit, want: End{Side: Backend, Cause: CauseStalled, Cut: true}, reset: []Side{Backend}},
		{name: "both", limit: limit, act: func(d *fakeDriver) {
			d.block(Client)
			d.block(Backend)
		}, after: limit, want: End{Side: Client, Cause: CauseStalled, Cut: true}, reset: []Side{Client, Backend}},
		{name: "the client, and the backend takes slowly", limit: limit, act: func(d *fakeDriver) {
			d.block(Client)
			d.block(Backend)
			d.takes(Backend)
		}, after: limit, want: End{Side: Client, Cause: CauseStalled, Cut: true}, reset: []Side{Client}},
		{name: "a client that takes something in the end", limit: limit, act: func(d *fakeDriver) {
			d.block(Client)
			n := 0
			d.also(func() {
				if n++; n == 100 {
					d.sample(Client).taken++
				}
			})
		}, after: 99*tickInterval + limit, want: End{Side: Client, Cause: CauseStalled, Cut: true}, reset: []Side{Client}},
		{name: "a client that takes a byte now and then", limit: 5 * time.Second, act: func(d *fakeDriver) {
			d.block(Client)
			n := 0
			d.also(func() {
				if n++; n%19 == 0 {
					d.sample(Client).taken++
				}
			})
		}, after: tooLate},
		{name: "a client that takes a part of a write", limit: 5 * time.Second, act: func(d *fakeDriver) {
			d.block(Client)
			n := 0
			d.also(func() {
				n++
				d.sample(Client).isQueueShorter = n%19 == 0
			})
		}, after: tooLate},
		{name: "a client that has a full queue in the system", limit: 5 * time.Second, act: func(d *fakeDriver) {
			d.sample(Client).isQueued = true // the system ends it
		}, after: tooLate},
		{name: "no limit", act: func(d *fakeDriver) { d.block(Client) }, after: tooLate},
		{name: "the client, which has hung up", limit: limit, act: func(d *fakeDriver) {
			d.block(Backend)
			d.sample(Client).hangUp = hungUp
		}, after: hangUpTimeout, want: End{Side: Client, Cause: CauseLost, Cut: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newFake(t, Limits{WriteStall: tt.limit})
			tt.act(d)
			got := d.after(func() bool { return d.r.IsEnding() })
			wantAfter(t, "ended", got, tt.after)
			if tt.after == tooLate {
				return
			}
			end := d.r.closing.end
			if end.Err == nil {
				t.Error("ended without an error")
			}
			if end.Err = nil; end != tt.want {
				t.Errorf("ended with %+v; want %+v", end, tt.want)
			}
			for _, side := range bothSides {
				want := slices.Contains(tt.reset, side)
				if isReset := d.fake(side).closed&resetConn != 0; isReset != want {
					t.Errorf("the %v is reset: %v; want %v", side, isReset, want)
				}
			}
		})
	}
}

// While a tunnel ends, other limits hold.
func TestWriteStallIsNotForTunnelsThatAreEnding(t *testing.T) {
	d := newFake(t, Limits{WriteStall: time.Second})
	d.block(Client)
	d.receive(Backend, wstest.Text("waits"), wstest.Close(1000, ""))
	got := d.after(func() bool { return d.client.closed != 0 })
	wantAfter(t, "closed", got, stuckTimeout)
	if c := d.r.closing.end.Cause; c != CauseClosed {
		t.Errorf("ended by %v; want %v", c, CauseClosed)
	}
}

func TestTimeoutOfTheSystemIsAStallWhereBytesWait(t *testing.T) {
	timedOut := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}
	unreachable := &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", syscall.EHOSTUNREACH)}
	reset := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	tests := []struct {
		name     string
		off      bool
		inSystem int // bytes that wait
		act      func(*leg)
		isStall  bool
		err      error
	}{
		{name: "a read", inSystem: 9, act: func(l *leg) { l.ended(timedOut) }, isStall: true, err: syscall.ETIMEDOUT},
		{name: "a read, and a router has answered", inSystem: 9, act: func(l *leg) { l.ended(unreachable) }, isStall: true, err: syscall.EHOSTUNREACH},
		{name: "a write, and then the end", inSystem: 9, act: func(l *leg) { l.writeFailed(timedOut); l.ended(io.EOF) }, isStall: true, err: syscall.ETIMEDOUT},
		{name: "the end, and then a write", inSystem: 9, act: func(l *leg) { l.ended(io.EOF); l.writeFailed(timedOut) }, isStall: true, err: syscall.ETIMEDOUT},
		{name: "a read, though nothing waits", act: func(l *leg) { l.ended(timedOut) }, err: syscall.ETIMEDOUT},
		{name: "a reset", inSystem: 9, act: func(l *leg) { l.ended(reset) }, err: syscall.ECONNRESET},
		{name: "the end", inSystem: 9, act: func(l *leg) { l.ended(io.EOF) }, err: io.EOF},
		{name: "a read without a limit", off: true, inSystem: 9, act: func(l *leg) { l.ended(timedOut) }, err: syscall.ETIMEDOUT},
	}
	for _, tt := range tests {
		for _, side := range bothSides {
			t.Run(tt.name+" of the "+side.String(), func(t *testing.T) {
				limits := Limits{WriteStall: 3 * time.Second}
				if tt.off {
					limits.WriteStall = 0
				}
				d := newFake(t, limits)
				d.receive(otherSide(side), wstest.Text("0123456789"))
				d.fake(side).inSystem = tt.inSystem
				tt.act(d.r.leg(side))
				d.settle()
				want := End{Side: side, Cause: CauseLost}
				if tt.isStall {
					want.Cause, want.Cut = CauseStalled, true
				}
				got := d.r.closing.end
				if !errors.Is(got.Err, tt.err) || isStall(got.Err) != tt.isStall {
					t.Errorf("ended with error %v; want %v in it", got.Err, tt.err)
				}
				if text := "took nothing for 3s: "; tt.isStall && !strings.HasPrefix(got.Err.Error(), text) {
					t.Errorf("ended with error %v; want %s", got.Err, text)
				}
				if got.Err = nil; got != want {
					t.Errorf("ended with %+v; want %+v", got, want)
				}
				if side == Backend && len(d.client.written) == 0 {
					t.Error("the client gets no Close frame")
				}
				before := d.r.leg(side).kept().Bytes
				if d.r.end(); tt.isStall && d.r.leg(side).kept().Bytes != before-uint64(tt.inSystem) {
					t.Error("bytes that the system has dropped count as passed")
				}
			})
		}
	}
}

func TestTickStopsWhenNothingIsPending(t *testing.T) {
	d := newFake(t, Limits{})
	d.block(Client)
	d.receive(Backend, wstest.Text("waits"))
	for range 3 {
		if !d.tick() {
			t.Fatal("the tunnel is not looked at any more, though a side takes nothing")
		}
	}
	d.unblock(Client)
	*d.sample(Client) = sample{}
	if d.tick() || d.r.closing != nil || d.r.attention.Load() {
		t.Error("the tunnel is still looked at, though nothing is pending")
	}
	if d.close(CauseShutdown); !d.tick() {
		t.Error("a tunnel that is ending is not looked at")
	}
}

func TestStalledForIsTheLongerStall(t *testing.T) {
	d := newFake(t, Limits{})
	wantStall := func(want time.Duration, wantSide Side) {
		t.Helper()
		if got, side := d.r.stalledFor(d.samples[0], d.samples[1]); got != want || side != wantSide {
			t.Errorf("stalled for %v, by the %v; want %v, by the %v", got, side, want, wantSide)
		}
	}
	wantStall(0, Proxy)
	d.block(Backend)
	d.tick()
	d.block(Client)
	d.tick()
	d.tick()
	wantStall(2*tickInterval, Backend)
	d.sample(Backend).taken = 1
	d.tick()
	wantStall(2*tickInterval, Client)
	d.close(CauseShutdown)
	wantStall(0, Proxy) // the end bounds it
}

// What the system drops with a reset was not passed.
func TestResetLegCountsOnlyWhatItsPeerHas(t *testing.T) {
	d := newFake(t, Limits{})
	d.receive(Backend, wstest.Text("0123456789"))
	d.finishClosing()
	d.client.inSystem = 9
	d.sample(Client).isQueued = true
	if d.after(func() bool { return d.client.closed&resetConn != 0 }) == tooLate {
		t.Fatal("the client is not reset")
	}
	d.r.end()
	if _, toClient := d.r.Counts(); toClient.Bytes != 12+4-9 {
		t.Errorf("%d bytes were passed to the client; want 7: a message of 12 and a Close of 4, without 9", toClient.Bytes)
	}
}

// The system counts the queue of a unix socket in other bytes than those of the stream,
// and TLS adds some, so that more may be queued than was passed.
func TestPeerThatReadsIsNotStuckWhateverTheQueueSays(t *testing.T) {
	d := newFake(t, Limits{})
	d.receive(Backend, wstest.Text("hello"), wstest.Close(1000, ""))
	*d.sample(Client) = sample{taken: -100_000, isQueued: true}
	d.takes(Client)
	if after := d.after(func() bool { return d.client.closed != 0 }); after < 2*stuckTimeout {
		t.Errorf("the client was closed after %v, though it reads", after)
	}
}

func TestTunnelWithTwoSidesToWhichWritesFailEndsWithTheFirst(t *testing.T) {
	for _, first := range bothSides {
		d := newFake(t, Limits{})
		d.client.fails, d.backend.fails = true, true
		d.receive(otherSide(first), wstest.Text("fails"))
		d.receive(first, wstest.Text("fails too"))
		if d.client.closed == 0 || d.backend.closed == 0 {
			t.Errorf("the client is closed as %v, and the backend as %v", d.client.closed, d.backend.closed)
		}
		if end := d.r.end(); end.Side != first || end.Cause != CauseLost || end.Err != errBroken {
			t.Errorf("ended with %+v; want that the %v is lost", end, first)
		}
	}
}
