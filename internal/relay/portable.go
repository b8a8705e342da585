package relay

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/wsproxy/wsproxy/internal/netconn"
)

// The portable engine: a goroutine for each direction, which waits in Fill. It is
// woken by a read deadline in the past.

// A portable is this engine's part of a relay.
type portable struct {
	*Relay
	client, backend blockingLink
	running         sync.WaitGroup // the goroutine of down
	stalled         *stalls        // nil if they are not watched

	// Guarded by mu.
	timer *time.Timer // calls expire; nil before it is needed
}

func newPortable(c Config) *Relay {
	both := new(struct {
		relay    Relay
		portable portable
	})
	both.relay.init(&both.portable, c)
	both.portable.fill(&both.relay, c.Client, c.Backend, newStalls(c))
	return &both.relay
}

func (p *portable) greet(b []byte, timeout time.Duration) error { return p.client.greet(b, timeout) }

func (p *portable) fill(r *Relay, client, backend *netconn.Conn, s *stalls) {
	p.Relay, p.client, p.backend = r, blocking{client}, blocking{backend}
	if p.stalled = s; s != nil {
		p.client, p.backend = watched{blocking{client}, &s.client}, watched{blocking{backend}, &s.backend}
	}
}

// run uses the calling goroutine and one more.
func (p *portable) run() End {
	p.running.Add(1)
	go p.runDown() // ends with the backend's stream, at the latest when cut
	p.up.pump()
	p.running.Wait()
	p.mu.Lock()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.mu.Unlock()
	return p.close()
}

func (p *portable) runDown() {
	defer p.running.Done()
	p.down.pump()
}

func (p *portable) start(done func(End)) {
	go func() { done(p.run()) }() // ends with the tunnel
}

func (p *portable) expireInLocked(d time.Duration) {
	if p.timer == nil {
		p.timer = time.AfterFunc(d, p.expire) // each call ends soon; stopped by run
		return
	}
	p.timer.Reset(d)
}

func (p *portable) link(s Side) link {
	if s == Client {
		return p.client
	}
	return p.backend
}

func (p *portable) stalls() *stalls { return p.stalled }

func (*portable) kind() Engine { return Portable }

// pump moves frames until the source has ended.
func (d *direction) pump() {
	src := d.src().(blockingLink)
	for {
		d.obey()
		b, err := src.Fill(d.head())
		if err != nil {
			if isDeadline(err) && !d.isOver() {
				continue
			}
			d.finish(err)
			return
		}
		d.held = nil
		d.take(b.Bytes())
		b.Free()
	}
}

// isDeadline reports whether err says that a read deadline has passed. What the
// kernel says of a peer that is dead, ETIMEDOUT, is a timeout as well.
func isDeadline(err error) bool {
	return os.IsTimeout(err) && !errors.Is(err, syscall.ETIMEDOUT)
}

// A blockingLink is a [blocking] or a [watched].
type blockingLink interface {
	link
	Fill(head []byte) (*netconn.Buffer, error)
	greet(p []byte, timeout time.Duration) error
}

// A blocking link writes until all is written, so that it never keeps anything.
type blocking struct{ *netconn.Conn }

func (b blocking) greet(p []byte, timeout time.Duration) error {
	b.SetWriteDeadline(time.Now().Add(timeout))
	_, err := b.Write(p)
	b.SetWriteDeadline(time.Time{})
	return err
}

func (b blocking) write(p []byte, _ bool) (int, error) { return b.Write(p) }
func (b blocking) isFlushed() bool                     { return true }
func (b blocking) takeBack(uint64) bool                { return false }
func (b blocking) drop() int                           { return 0 }
func (b blocking) closeWrite() error                   { return b.CloseWrite() }
func (b blocking) canCloseWrite() bool                 { return b.CanCloseWrite() }
func (b blocking) wake()                               { b.SetReadDeadline(longAgo) }
func (b blocking) rearm(until time.Time)               { b.SetReadDeadline(until) }
func (b blocking) interruptWrite()                     { b.SetWriteDeadline(longAgo) }
func (b blocking) interrupt()                          { b.Interrupt() }
func (b blocking) reset()                              { b.Reset() }
func (b blocking) close()                              { b.Close() }
func (b blocking) abandon()                            { b.Abandon() }

func (b blocking) limit(until time.Time) {
	if b.SetReadDeadline(until) != nil { // it has no deadlines
		time.AfterFunc(time.Until(until), b.abandon)
	}
}

// A watched link notes since when a write waits. One write is of one buffer at
// most, and counts as taken when it has returned: it cannot be seen how far it is.
type watched struct {
	blocking
	wait *wait
}

func (w watched) write(p []byte, isLast bool) (int, error) {
	w.wait.begin()
	defer w.wait.end()
	return w.blocking.write(p, isLast)
}
