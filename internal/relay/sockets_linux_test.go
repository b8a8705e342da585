//go:build linux

package relay

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// Who closes first keeps a port in TIME_WAIT for a minute. A proxy that did would
// run out of ports towards a backend.
func TestTimeWaitIsTheBackends(t *testing.T) {
	ways := map[string]struct {
		act  func(*scene)
		code uint16
	}{
		"closed by the client":  {func(s *scene) { s.client.Send(wstest.Close(1000, "")) }, 1000},
		"sent away by us":       {func(s *scene) { s.Close(CauseShutdown, 0, "") }, 1001},
		"client breaks a rule":  {func(s *scene) { s.client.SendRaw([]byte("GET / HTTP/1.1\r\n")) }, 1001},
		"backend breaks a rule": {func(s *scene) { s.backend.SendRaw(masked(wstest.Text(""))) }, 1002},
	}
	forEachEngine(t, func(t *testing.T, e engine) {
		for name, way := range ways {
			t.Run(name, func(t *testing.T) {
				s := e.start(t, networks[0], setup{})
				near, far := addrOf(s.backend.Conn().RemoteAddr()), addrOf(s.backend.Conn().LocalAddr())
				way.act(s)
				s.backend.WantClose(way.code)
				s.backend.Send(wstest.Close(way.code, ""))
				s.backend.Close() // at once, as a server must
				s.client.Conn().Close()
				s.wait()
				wantTimeWait(t, near, far)
			})
		}
	})
}

func addrOf(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

// wantTimeWait wants the far end to be in TIME_WAIT, and the near one to be gone.
func wantTimeWait(t *testing.T, near, far netip.AddrPort) {
	t.Helper()
	const timeWait = "06"
	var nearState, farState string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		nearState, farState = tcpState(t, near, far), tcpState(t, far, near)
		if nearState == "" && farState == timeWait || nearState == timeWait {
			break
		}
	}
	if nearState != "" || farState != timeWait {
		t.Errorf("our end is in state %q, the backend's in %q; want none and TIME_WAIT, %q", nearState, farState, timeWait)
	}
}

// tcpState returns the state of the connection from local to remote, as the
// kernel writes it, or "".
func tcpState(t *testing.T, local, remote netip.AddrPort) string {
	t.Helper()
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	want := kernelAddr(local) + " " + kernelAddr(remote) + " "
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if _, state, ok := strings.Cut(lines.Text(), want); ok {
			return state[:2]
		}
	}
	return ""
}

// kernelAddr returns a as /proc/net/tcp has it: the address is in the machine's
// byte order.
func kernelAddr(a netip.AddrPort) string {
	ip := a.Addr().Unmap().As4()
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip[:]), a.Port())
}
