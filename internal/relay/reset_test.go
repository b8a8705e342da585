package relay

import (
	"errors"
	"syscall"
	"testing"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// forEachReset runs test for a reset from each side, where there are resets.
func forEachReset(t *testing.T, test func(t *testing.T, s *scene, from Side)) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		if n.cannotReset {
			t.Skip("there are no resets")
		}
		forEachSide(t, func(t *testing.T, from Side) { test(t, e.start(t, n, setup{}), from) })
	})
}

func otherSide(side Side) Side {
	if side == Client {
		return Backend
	}
	return Client
}

// lossOf returns the end of a tunnel whose one side is lost.
func lossOf(side Side) End {
	return End{Side: side, Cause: CauseLost, Code: map[Side]int{Client: 0, Backend: 1012}[side]}
}

// wantLossOf wants the other side to be told that from is lost: the backend by the end of
// its stream, the client by a Close frame.
func (s *scene) wantLossOf(from Side) {
	s.t.Helper()
	if from == Client {
		s.backend.WantEOF()
	} else {
		s.client.WantClose(1012)
	}
}

// wantLoss wants a tunnel whose from was reset to end as one whose from is lost.
func (s *scene) wantLoss(from Side) {
	s.t.Helper()
	_, dst := s.peers(from)
	s.wantLossOf(from)
	if from == Backend {
		dst.Send(wstest.Close(1012, ""))
	}
	dst.Close()
	if err := s.wantEnd(lossOf(from)); !errors.Is(err, syscall.ECONNRESET) {
		s.t.Errorf("ended with error %v; want the reset", err)
	}
}

func TestResetOfAnIdleSideIsToldToTheOther(t *testing.T) {
	forEachReset(t, func(t *testing.T, s *scene, from Side) {
		src, dst := s.peers(from)
		src.Send(wstest.Text("hello"))
		dst.Want(wstest.Text("hello"))
		reset(t, src)
		s.wantLoss(from)
	})
}

func TestResetInsideAFrameHeaderLeavesABoundary(t *testing.T) {
	forEachReset(t, func(t *testing.T, s *scene, from Side) {
		src, dst := s.peers(from)
		src.Send(wstest.Text("whole"))
		src.SendRaw(wire(from, wstest.Binary(make([]byte, 300)))[:3])
		dst.Want(wstest.Text("whole"))
		reset(t, src)
		s.wantLoss(from)
	})
}

func TestResetBetweenFragmentsLeavesABoundary(t *testing.T) {
	forEachReset(t, func(t *testing.T, s *scene, from Side) {
		src, dst := s.peers(from)
		first := wstest.Fragment(wstest.OpText, false, "a part")
		src.Send(first)
		dst.Want(first)
		reset(t, src)
		s.wantLoss(from)
	})
}

// A reset inside a payload is in TestSourceThatEndsInsideAFrameCutsTheDestination,
// one with a leftover waiting in TestResetWhileALeftoverWaits.

func TestResetBehindItsOwnCloseIsAClosingHandshake(t *testing.T) {
	forEachReset(t, func(t *testing.T, s *scene, from Side) {
		src, dst := s.peers(from)
		src.Send(wstest.Close(4000, "bye"))
		dst.WantClose(4000)
		reset(t, src)
		dst.Close()
		s.wantEnd(End{Side: from, Cause: CauseClosed, Code: 4000})
	})
}

func TestResetInsteadOfAnAnswerToACloseIsAnsweredForTheOther(t *testing.T) {
	forEachReset(t, func(t *testing.T, s *scene, from Side) {
		src, dst := s.peers(from)
		dst.Send(wstest.Close(4000, "bye"))
		src.WantClose(4000)
		reset(t, src)
		dst.WantClose(4000)
		dst.Close()
		s.wantEnd(End{Side: otherSide(from), Cause: CauseClosed, Code: 4000})
	})
}

func TestResetDuringAShutdownChangesNothing(t *testing.T) {
	forEachReset(t, func(t *testing.T, s *scene, from Side) {
		src, dst := s.peers(from)
		s.Close(CauseShutdown, 0, "")
		s.backend.WantClose(1001)
		if from == Client {
			dst.Send(wstest.Close(1001, ""))
			src.WantClose(1001)
			reset(t, src)
		} else {
			reset(t, src)
			dst.WantClose(1001)
			dst.Send(wstest.Close(1001, ""))
		}
		dst.Close()
		s.wantEnd(End{Side: Proxy, Cause: CauseShutdown, Code: 1001})
	})
}

func TestResetBehindBothClosesChangesNothing(t *testing.T) {
	forEachReset(t, func(t *testing.T, s *scene, from Side) {
		src, dst := s.peers(from)
		src.Send(wstest.Close(1000, ""))
		dst.WantClose(1000)
		dst.Send(wstest.Close(1000, ""))
		src.WantClose(1000)
		reset(t, src)
		dst.Close()
		s.wantEnd(End{Side: from, Cause: CauseClosed, Code: 1000})
	})
}

func TestBothSidesResetAtOnce(t *testing.T) {
	forEachReset(t, func(t *testing.T, s *scene, from Side) {
		src, dst := s.peers(from)
		src.SendRaw(wire(from, wstest.Text("never whole"))[:10])
		reset(t, src)
		reset(t, dst)
		if got := s.wait(); got.Cause != CauseLost {
			t.Errorf("ended with %+v; want a side lost", got)
		}
	})
}
