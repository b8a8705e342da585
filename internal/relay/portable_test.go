package relay

import (
	"testing"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// The sweeper looks at a connection while the tunnel's goroutine reads it, and with it
// what was read before the tunnel began. The race detector sees whether they meet.
func TestSweeperLeavesEarlyBytesToTheirReader(t *testing.T) {
	forEachNetworkAtOnce(t, func(t *testing.T, e engine, n network) {
		s := e.start(t, n, setup{fromClient: masked(wstest.Text("early"))[:1]})
		s.backend.Send(wstest.Close(1000, ""))
		s.client.WantClose(1000)
		s.backend.Close()
		s.client.WantEOF() // after ticks
		s.client.Close()
		s.wantEnd(End{Side: Backend, Cause: CauseClosed, Code: 1000})
	})
}
