package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

// A timeless connection has no deadlines, as those through an SSH client.
type timeless struct{ *memnet.Conn }

var errNoDeadlines = errors.New("deadlines are not supported")

func (timeless) SetDeadline(time.Time) error      { return errNoDeadlines }
func (timeless) SetReadDeadline(time.Time) error  { return errNoDeadlines }
func (timeless) SetWriteDeadline(time.Time) error { return errNoDeadlines }

func TestConnectionsWithoutDeadlines(t *testing.T) {
	plain := memory(32 << 10).client
	without := func(t testing.TB) (near, far net.Conn) {
		a, b := memnet.Pipe(32 << 10)
		return timeless{a}, b
	}
	n := network{client: plain, backend: without}

	t.Run("an abort does not wait", func(t *testing.T) {
		inBubble(t, func(t *testing.T, e engine) {
			s := e.start(t, n, setup{})
			go s.client.WriteFrames(wstest.Binary(make([]byte, 1<<20)))
			synctest.Wait()
			start := time.Now()
			s.Abort(CauseShutdown)
			<-s.done
			if took := time.Since(start); took != 0 || !s.end.Cut {
				t.Errorf("ended with %+v after %v; want a cut at once", s.end, took)
			}
		})
	})
	t.Run("a shutdown reaches both", func(t *testing.T) {
		inBubble(t, func(t *testing.T, e engine) {
			s := e.start(t, n, setup{})
			start := time.Now()
			s.Close(CauseShutdown, 0, "")
			s.backend.WantClose(1001)
			s.backend.Send(wstest.Close(1001, "")) // this wakes the other direction
			s.client.WantClose(1001)
			s.client.Send(wstest.Close(1001, ""))
			s.client.WantEOF()
			s.client.Close()
			<-s.done
			if took := time.Since(start); took < endTimeout || took > 2*endTimeout || s.end.Cut {
				t.Errorf("ended with %+v after %v; want an end in order after %v", s.end, took, endTimeout)
			}
		})
	})
}

// A dying connection has been given up by the kernel, after probes or bytes that
// were not acknowledged.
type dying struct{ *memnet.Conn }

func (d dying) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	if err == io.EOF {
		err = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}
	}
	return n, err
}

func dyingPair(testing.TB) (near, far net.Conn) {
	a, b := memnet.Pipe(32 << 10)
	return dying{a}, b
}

func TestPeerThatTheKernelHasGivenUpIsLost(t *testing.T) {
	plain := memory(32 << 10).client
	inBubble(t, func(t *testing.T, e engine) {
		s := e.start(t, network{client: plain, backend: dyingPair}, setup{})
		s.backend.CloseWrite()
		s.client.WantClose(1012)
		s.client.Send(wstest.Close(1012, ""))
		s.client.WantEOF()
		s.client.Close()
		err := s.wantEnd(End{Side: Backend, Cause: CauseLost, Code: 1012})
		if !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("ended with error %v; want ETIMEDOUT", err)
		}
	})
}

func TestWriteToALostSideIsInterrupted(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		s := e.start(t, network{client: memory(32 << 10).client, backend: dyingPair}, setup{})
		start := time.Now()
		go s.client.WriteFrames(wstest.Binary(make([]byte, 1<<20)), wstest.Close(1012, ""))
		synctest.Wait() // the backend takes nothing
		s.backend.CloseWrite()
		s.client.WantClose(1012)
		s.client.WantEOF()
		s.client.Close()
		s.wantEndAfter(start, 0, End{Side: Backend, Cause: CauseLost, Code: 1012})
	})
}

// An unwritable connection takes nothing more, but its peer has not said why.
type unwritable struct{ *memnet.Conn }

func (unwritable) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func unwritablePair(testing.TB) (near, far net.Conn) {
	a, b := memnet.Pipe(1 << 10)
	return unwritable{a}, b
}

func TestSideThatTakesNothingMoreIsLost(t *testing.T) {
	plain := memory(1 << 10).client
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		n := network{client: plain, backend: unwritablePair}
		if from == Backend {
			n = network{client: unwritablePair, backend: plain}
		}
		s := e.start(t, n, setup{})
		src, _ := s.peers(from)
		start := time.Now()
		src.Send(wstest.Text("hello?"))
		other := otherSide(from)
		s.wantLossOf(other)
		src.Send(wstest.Close(1000, ""))
		src.CloseWrite()
		src.WantEOF()
		src.Close()
		err := s.wantEndAfter(start, lostTimeout, lossOf(other))
		if !errors.Is(err, syscall.EPIPE) {
			t.Errorf("ended with error %v; want that of the write", err)
		}
	})
}

func TestShutdownOfASideThatTakesNothingMore(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		s := e.start(t, network{client: memory(1 << 10).client, backend: unwritablePair}, setup{})
		start := time.Now()
		s.Close(CauseShutdown, 0, "")
		s.client.WantClose(1001)
		s.client.Send(wstest.Close(1001, ""))
		s.client.WantEOF()
		s.client.Close()
		s.wantEndAfter(start, lostTimeout, End{Side: Proxy, Cause: CauseShutdown, Code: 1001})
	})
}

func TestSideThatIsLostWhileTheOtherIsStalledEndsTheTunnel(t *testing.T) {
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		plain, small := memory(1<<10).client, unwritablePair
		n := network{client: plain, backend: small}
		if from == Backend {
			n = network{client: small, backend: plain}
		}
		s := e.start(t, n, setup{})
		src, lost := s.peers(from)
		start := time.Now()
		go lost.WriteFrames(wstest.Binary(make([]byte, 1<<20))) // src never reads; ends with the tunnel
		synctest.Wait()
		src.Send(wstest.Text("hello?"))
		<-s.done
		other := otherSide(from)
		if took := time.Since(start); took < hangUpTimeout || took > hangUpTimeout+2*tickInterval || s.end.Side != other || s.end.Cause != CauseLost || !s.end.Cut {
			t.Errorf("ended with %+v after %v; want %v lost and a cut after %v", s.end, took, other, hangUpTimeout)
		}
		if !errors.Is(s.end.Err, syscall.EPIPE) {
			t.Errorf("ended with error %v; want that of the write", s.end.Err)
		}
	})
}

func TestBackendThatPushesOnToALostClientIsClosedSoon(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		s := e.start(t, memory(32<<10), setup{})
		start := time.Now()
		s.client.Conn().(*memnet.Conn).Reset()
		s.backend.WantEOF()
		s.backend.Send(wstest.Text("news")) // and no Close
		s.wantEndAfter(start, unknownTimeout, lossOf(Client))
	})
}
