//go:build linux

package relay

import (
	"bytes"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A read stops at the mark of TCP's urgent data, and a splice finds nothing there. The
// one byte that is urgent is no part of the stream.
func TestUrgentDataStopsNothing(t *testing.T) {
	forEachEngine(t, func(t *testing.T, e engine) {
		for _, size := range []int{10, 200_000} {
			s := e.prepare(t, networks[0], setup{})
			all := masked(wstest.Binary(make([]byte, size)), wstest.Text("two"))
			half := len(all) / 2
			sent := make(chan error, 1)
			go func() {
				_, err := s.client.Conn().Write(all[:half])
				if err == nil {
					err = sendUrgent(s.client.Conn())
				}
				if err == nil {
					_, err = s.client.Conn().Write(all[half:])
				}
				sent <- err
			}()
			if size == 10 {
				s.checkSent(<-sent) // all of it is there when the first read is made
			}
			s.begin()
			s.backend.Conn().SetReadDeadline(time.Now().Add(10 * time.Second))
			got := make([]byte, len(all))
			if _, err := io.ReadFull(s.backend.Conn(), got); err != nil || !bytes.Equal(got, all) {
				t.Errorf("backend got %d bytes, %v; want all %d", len(got), err, len(all))
			}
			if size != 10 {
				s.checkSent(<-sent)
			}
			s.Abort(CauseShutdown)
			s.wait()
		}
	})
}

// checkSent ends the test if what was to be sent was not.
func (s *scene) checkSent(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// sendUrgent sends a byte of urgent data.
func sendUrgent(c net.Conn) error {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		sendErr = syscall.Sendto(int(fd), []byte("!"), syscall.MSG_OOB, nil)
		return sendErr != syscall.EAGAIN
	})
	if err != nil {
		return err
	}
	return sendErr
}
