package soak_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// What clients do before and right after their 101 is in
// TestVanishedClientLeavesNothing.

func TestBackendResetBeforeResponseBecomes502(t *testing.T) {
	answers := map[string]string{
		"at once":         "",
		"inside the line": "HTTP/1.1 10",
		"inside a field":  strings.TrimSuffix(proxytest.Switching, "cept: {accept}\r\n\r\n"),
		"before its end":  strings.TrimSuffix(proxytest.Switching, "\r\n"),
	}
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		for name, part := range answers {
			t.Run(name, func(t *testing.T) {
				leaktest.Check(t)
				b := wstest.StartBackend(t)
				p, s := proxytest.Start(t, way, wsproxy.WithBackends(b.URL()))
				client := wstest.Dial(t, s.URL)
				client.WriteRequest(proxytest.UpgradeTo("/"))
				leg := b.Accepted(t)
				leg.ReadRequest()
				leg.SendRaw([]byte(part))
				leg.Reset()
				resp := client.ReadResponse()
				proxytest.WantStatus(t, resp, http.StatusBadGateway)
				io.Copy(io.Discard, resp.Body)
				client.WantEOF()
				s.Wait()
				proxytest.WantNoTunnels(t, p)
			})
		}
	})
}

func TestBackendResetAfter101IsLost(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		leaktest.Check(t)
		b := wstest.StartBackend(t)
		ends, trace := proxytest.TraceEnds()
		p, s := proxytest.Start(t, way, wsproxy.WithBackends(b.URL()), trace)
		client := wstest.Dial(t, s.URL)
		client.RequestUpgrade("/", nil)
		leg := b.Accepted(t)
		leg.AcceptUpgrade(nil)
		leg.Reset()
		// The reset may have overtaken the 101.
		if resp := client.ReadResponse(); resp.StatusCode != http.StatusSwitchingProtocols {
			proxytest.WantStatus(t, resp, http.StatusBadGateway)
			return
		}
		client.WantClose(1012)
		client.Send(wstest.Close(1012, ""))
		client.WantEOF()
		client.Close()
		if e := <-ends; e.Side != wsproxy.SideBackend || e.Cause != wsproxy.CauseLost {
			t.Errorf("tunnel ended by %v, %v; want the backend lost", e.Side, e.Cause)
		}
		s.Wait()
		p.Close() // a detached tunnel leaves after its hook
		proxytest.WantNoTunnels(t, p)
	})
}

// All that both peers ever send comes a byte at a time.
func TestTunnelPassesWritesOfOneByte(t *testing.T) {
	slowly := func(p *wstest.Peer, b []byte) {
		for i := range b {
			p.SendRaw(b[i : i+1])
		}
	}
	up := []wstest.Frame{
		wstest.Text("hello"), wstest.Ping("?"), wstest.Fragment(wstest.OpText, false, "a "),
		wstest.Fragment(wstest.OpContinuation, true, "message"), wstest.Binary(make([]byte, 300)), wstest.Close(1000, "bye"),
	}
	down := append([]wstest.Frame{wstest.Pong("!"), wstest.Binary(make([]byte, 300))}, up...)
	bytesOf := func(frames []wstest.Frame, key *[4]byte) (b []byte) {
		for _, f := range frames {
			b = wstest.AppendFrame(b, f, key)
		}
		return b
	}
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		b := wstest.StartBackend(t)
		_, s := proxytest.Start(t, way, wsproxy.WithBackends(b.URL()))
		client := wstest.Dial(t, s.URL)
		slowly(client, []byte(proxytest.UpgradeTo("/")))
		leg := b.Accepted(t)
		key := leg.ReadRequest().Header.Get("Sec-WebSocket-Key")
		slowly(leg, []byte(wstest.UpgradeAnswer(key, nil)))
		proxytest.WantSwitch(t, client)
		slowly(leg, bytesOf(down, nil))
		client.Want(down...)
		slowly(client, bytesOf(up, &[4]byte{1, 2, 3, 4}))
		leg.Want(up...)
		leg.Close()
		client.WantEOF()
	})
}

// A hook for one of many tunnels: it is told by the request's path.
func TestHooksThatBlockOrPanicLeaveOtherTunnelsAlone(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		release := make(chan struct{})
		asleep := make(chan string, 2)
		book := new(proxytest.LogBook)
		ends := make(chan wsproxy.TunnelEnd, 200)
		atPath := func(path, want string) {
			switch {
			case path != want:
			case strings.HasPrefix(path, "/sleep"):
				asleep <- path
				<-release
			default:
				panic("hook of one tunnel")
			}
		}
		_, s := proxytest.Start(t, way, wsproxy.WithBackends(wstest.StartEcho(t)), book.Option(), wsproxy.WithTrace(&wsproxy.Trace{
			Opened: func(i wsproxy.OpenedInfo) {
				atPath(i.Request.URL.Path, "/sleep")
				atPath(i.Request.URL.Path, "/panic")
			},
			Closed: func(e wsproxy.TunnelEnd) {
				ends <- e
				atPath(e.URL.Path, "/sleep-at-the-end")
				atPath(e.URL.Path, "/panic-at-the-end")
			},
		}))
		wake := sync.OnceFunc(func() { close(release) })
		defer wake() // else nobody could close the proxy
		others := make([]*wstest.Peer, 100)
		for i := range others {
			others[i], _ = proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
		}
		sleeping, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/sleep"))
		sleeping.Send(wstest.Text("early"))
		last, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/sleep-at-the-end"))
		proxytest.HangUp(t, last)
		<-asleep
		<-asleep
		<-ends
		panicking, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/panic"))
		panicking.WantClose(1011)
		panicking.Close()
		if e := <-ends; e.Cause != wsproxy.CausePanic {
			t.Errorf("tunnel of the hook that panics ended by %v; want panic", e.Cause)
		}
		last, _ = proxytest.Open(t, s.URL, proxytest.UpgradeTo("/panic-at-the-end"))
		proxytest.HangUp(t, last)
		<-ends
		for _, client := range others {
			proxytest.WantEcho(t, client)
		}
		wake()
		sleeping.Want(wstest.Text("early"))
		for _, client := range others {
			proxytest.HangUp(t, client)
		}
		for range others {
			<-ends
		}
		if got := book.Lines("level=ERROR", "panic in a hook"); len(got) != 2 {
			t.Errorf("%d panics were logged; want 2", len(got))
		}
	})
}
