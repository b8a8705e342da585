package relay

import (
	"sync"
	"testing"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// repeat runs test several times over each network: what happens at once happens
// in another order each time.
func repeat(t *testing.T, test func(t *testing.T, s *scene)) {
	rounds := 30
	if testing.Short() {
		rounds = 3
	}
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		for range rounds {
			test(t, e.start(t, n, setup{}))
		}
	})
}

// together calls all functions at once, and waits for them.
func together(functions ...func()) {
	var wg sync.WaitGroup
	for _, f := range functions {
		wg.Go(f)
	}
	wg.Wait()
}

func TestCloseFramesOfBothSidesCross(t *testing.T) {
	repeat(t, func(t *testing.T, s *scene) {
		together(
			func() { s.client.WriteFrames(wstest.Text("last words"), wstest.Close(4001, "client")) },
			func() { s.backend.WriteFrames(wstest.Text("last words"), wstest.Close(4002, "backend")) })
		s.client.Want(wstest.Text("last words"), wstest.Close(4002, "backend"))
		s.backend.Want(wstest.Text("last words"), wstest.Close(4001, "client"))
		s.hangUp()
		code := map[Side]int{Client: 4001, Backend: 4002}[s.wait().Side]
		s.wantEnd(End{Side: s.end.Side, Cause: CauseClosed, Code: code})
	})
}

func TestStreamsOfBothSidesEndAtOnce(t *testing.T) {
	repeat(t, func(t *testing.T, s *scene) {
		together(s.client.Close, s.backend.Close)
		want := lossOf(s.wait().Side)
		if s.end.Code == 0 {
			want.Code = 0 // the client was gone before it could be told
		}
		s.wantEnd(want)
	})
}
