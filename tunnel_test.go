package wsproxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestATunnelEndTellsSideCauseAndCode(t *testing.T) {
	tests := []struct {
		name  string
		limit int64
		do    func(t *testing.T, p *proxytest.Pair)
		side  wsproxy.Side
		cause wsproxy.Cause
		code  int
		err   string // within the error's text; empty: no error
	}{
		{name: "closed-by-client", side: wsproxy.SideClient, cause: wsproxy.CauseClosed, code: 1000,
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Client.Send(wstest.Close(1000, "bye"))
				p.Backend.Want(wstest.Close(1000, "bye"))
				p.Backend.Send(wstest.Close(1000, ""))
				p.Client.WantClose(1000)
			}},
		{name: "closed-by-backend-without-a-code", side: wsproxy.SideBackend, cause: wsproxy.CauseClosed, code: 1005,
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Backend.Send(wstest.Close(0, ""))
				p.Client.Want(wstest.Close(0, ""))
				p.Client.Send(wstest.Close(0, ""))
				p.Backend.Want(wstest.Close(0, ""))
			}},
		{name: "client-lost", side: wsproxy.SideClient, cause: wsproxy.CauseLost, code: 1001, err: "EOF",
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Client.CloseWrite()
				p.Backend.WantClose(1001)
			}},
		{name: "client-reset", side: wsproxy.SideClient, cause: wsproxy.CauseLost, code: 1001, err: syscall.ECONNRESET.Error(),
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Client.Reset()
				p.Backend.WantClose(1001)
			}},
		{name: "backend-lost", side: wsproxy.SideBackend, cause: wsproxy.CauseLost, code: 1012, err: "EOF",
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Backend.Close()
				p.Client.WantClose(1012)
			}},
		{name: "client-breaks-the-protocol", side: wsproxy.SideClient, cause: wsproxy.CauseProtocol, code: 1002, err: "not masked",
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Client.SendRaw(wstest.AppendFrame(nil, wstest.Text("hi"), nil))
				p.Client.WantClose(1002)
				p.Backend.WantClose(1001)
			}},
		{name: "backend-breaks-the-protocol", side: wsproxy.SideBackend, cause: wsproxy.CauseProtocol, code: 1012, err: "is masked",
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Backend.SendRaw(wstest.AppendFrame(nil, wstest.Text("hi"), &[4]byte{1, 2, 3, 4}))
				p.Client.WantClose(1012)
				p.Backend.WantClose(1002)
			}},
		{name: "client-too-big", limit: 10, side: wsproxy.SideClient, cause: wsproxy.CauseTooBig, code: 1009, err: "larger",
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Client.Send(wstest.Binary(make([]byte, 11)))
				p.Client.WantClose(1009)
				p.Backend.WantClose(1001)
			}},
		{name: "backend-too-big", limit: 10, side: wsproxy.SideBackend, cause: wsproxy.CauseTooBig, code: 1011, err: "larger",
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Backend.Send(wstest.Binary(make([]byte, 11)))
				p.Client.WantClose(1011)
				p.Backend.WantClose(1009)
			}},
		{name: "closed-by-the-program", side: wsproxy.SideProxy, cause: wsproxy.CauseApplication, code: 4321,
			do: func(t *testing.T, p *proxytest.Pair) {
				if err := proxytest.OnlyTunnel(t, p.Proxy).Close(4321, "no reason"); err != nil {
					t.Error(err)
				}
				p.Client.Want(wstest.Close(4321, "no reason"))
				p.Backend.WantClose(1001)
			}},
		{name: "shutdown", side: wsproxy.SideProxy, cause: wsproxy.CauseShutdown, code: 1001,
			do: func(t *testing.T, p *proxytest.Pair) {
				go p.Proxy.Shutdown(t.Context()) // ends when both peers are gone
				p.Client.WantClose(1001)
				p.Backend.WantClose(1001)
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := proxytest.OpenPair(t, wsproxy.WithLimits(wsproxy.Limits{MessageSize: tt.limit}))
			tt.do(t, p)
			p.Client.Conn().Close() // perhaps again
			p.Backend.Conn().Close()
			e := p.End(t)
			if e.Side != tt.side || e.Cause != tt.cause || e.Code != tt.code {
				t.Errorf("tunnel ended by %v, %v, code %d; want %v, %v, code %d", e.Side, e.Cause, e.Code, tt.side, tt.cause, tt.code)
			}
			if got := fmt.Sprint(e.Err); tt.err == "" && e.Err != nil || !strings.Contains(got, tt.err) {
				t.Errorf("error %q; want %q in it", got, tt.err)
			}
			if e.Duration <= 0 || e.Backend == nil || e.ID != 1 {
				t.Errorf("end %+v lacks duration, backend or ID", e)
			}
		})
	}
}

func TestATunnelCountsWhatPassesEachWay(t *testing.T) {
	p := proxytest.OpenPair(t)
	p.Client.Send(wstest.Text("12345"), wstest.Fragment(wstest.OpText, false, "1"), wstest.Ping("x"), wstest.Fragment(wstest.OpContinuation, true, "2"))
	p.Backend.Want(wstest.Text("12345"), wstest.Fragment(wstest.OpText, false, "1"), wstest.Ping("x"), wstest.Fragment(wstest.OpContinuation, true, "2"))
	p.Backend.Send(wstest.Binary(make([]byte, 300)))
	p.Client.Want(wstest.Binary(make([]byte, 300)))
	toBackend := wsproxy.Traffic{Bytes: 4*6 + 5 + 1 + 1 + 1, Messages: 2}
	toClient := wsproxy.Traffic{Bytes: 4 + 300, Messages: 1}
	if !proxytest.Becomes(func() bool {
		s := p.Proxy.Stats()
		return s.ToBackend == toBackend && s.ToClient == toClient && s.Tunnels == 1 && s.Opened == 1
	}) {
		t.Errorf("Stats() of the open tunnel = %+v; want %+v to the backend, %+v to the client", p.Proxy.Stats(), toBackend, toClient)
	}
	proxytest.OnlyTunnel(t, p.Proxy).Close(1000, "") // the proxy's own frames do not count
	p.Client.Close()
	p.Backend.Close()
	if e := p.End(t); e.ToBackend != toBackend || e.ToClient != toClient {
		t.Errorf("tunnel ended with %+v to the backend, %+v to the client; want %+v, %+v", e.ToBackend, e.ToClient, toBackend, toClient)
	}
	if s := p.Proxy.Stats(); s.ToBackend != toBackend || s.ToClient != toClient {
		t.Errorf("Stats() after the end = %+v; want %+v to the backend, %+v to the client", s, toBackend, toClient)
	}
}

func TestTraceAndLogSeeATunnelUnderTheSameID(t *testing.T) {
	opened, closed := make(chan uint64, 2), make(chan uint64, 2)
	book := new(proxytest.LogBook)
	_, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)), book.Option(), wsproxy.WithTrace(&wsproxy.Trace{
		Opened: func(i wsproxy.TunnelInfo) { opened <- i.ID },
		Closed: func(e wsproxy.TunnelEnd) { closed <- e.ID },
	}))
	for want := range uint64(2) {
		client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
		proxytest.HangUp(t, client)
		if a, b := <-opened, <-closed; a != want+1 || b != want+1 {
			t.Errorf("Opened saw tunnel %d, Closed tunnel %d; want %d", a, b, want+1)
		}
	}
	for _, event := range []string{"tunnel opened", "tunnel closed"} {
		for id := range 2 {
			if got := book.Lines(event, fmt.Sprintf("tunnel=%d ", id+1)); len(got) != 1 {
				t.Errorf("%q of tunnel %d has %d log lines; want 1", event, id+1, len(got))
			}
		}
	}
}

func TestHooksAfterTheUpgradeSeeASnapshotOfTheRequest(t *testing.T) {
	infos := make(chan wsproxy.TunnelInfo, 2)
	ends := make(chan wsproxy.TunnelEnd, 1)
	var kept *http.Request
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithTrace(&wsproxy.Trace{
		Opened: func(i wsproxy.TunnelInfo) {
			kept.Header.Set("X-Kept", "changed") // as a router that reuses what hangs on a request
			kept.URL.Path = "/changed"
			infos <- i
		},
		Closed: func(e wsproxy.TunnelEnd) { ends <- e },
	}))
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kept = r
		p.ServeHTTP(w, r)
	}))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/room?x=1", "X-Kept: original"))
	proxytest.HangUp(t, client)
	end := <-ends
	for _, i := range []wsproxy.TunnelInfo{<-infos, end.TunnelInfo} {
		if i.Method != "GET" || i.Host != "chat.example" || i.URL.String() != "/room?x=1" || i.Header.Get("X-Kept") != "original" {
			t.Errorf("hook saw %s %s %s with %q; want the request as it came", i.Method, i.Host, i.URL, i.Header)
		}
		if i.RemoteAddr == "" || i.LocalAddr != strings.TrimPrefix(s.URL, "http://") || i.ClientAddr.String() != "127.0.0.1" {
			t.Errorf("hook saw addresses %q, %q, %v", i.RemoteAddr, i.LocalAddr, i.ClientAddr)
		}
	}
}

func TestAnIdleTunnelCarriesNoHeaderForNobody(t *testing.T) {
	p, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	proxytest.WantEcho(t, client)
	i := proxytest.OnlyTunnel(t, p).Info()
	if i.Header != nil {
		t.Errorf("Info().Header = %q without a trace; want nil", i.Header)
	}
	if i.Attempts != 1 {
		t.Errorf("Info().Attempts = %d; want 1", i.Attempts)
	}
}

func TestTunnelCloseRefusesWhatMayNotBeSent(t *testing.T) {
	p := proxytest.OpenPair(t)
	tunnel := proxytest.OnlyTunnel(t, p.Proxy)
	for _, code := range []int{0, 999, 1004, 1005, 1006, 1015, 2999, 5000} {
		if err := tunnel.Close(code, ""); err == nil || !strings.Contains(err.Error(), fmt.Sprint(code)) {
			t.Errorf("Close(%d) = %v; want an error that names the code", code, err)
		}
	}
	if err := tunnel.Close(1000, strings.Repeat("x", 124)); err == nil {
		t.Error("Close with a reason of 124 bytes succeeded; want an error")
	}
	for _, reason := range []string{"\xff", "caf\xc3", "\xed\xa0\x80"} {
		if err := tunnel.Close(4000, reason); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", reason)) {
			t.Errorf("Close with reason %q = %v; want an error that names the reason: it is not UTF-8", reason, err)
		}
	}
	p.Client.Send(wstest.Text("still open"))
	p.Backend.Want(wstest.Text("still open"))
}

func TestTheMessageLimitIsOfWholeMessages(t *testing.T) {
	p := proxytest.OpenPair(t, wsproxy.WithLimits(wsproxy.Limits{MessageSize: 10}))
	ten := wstest.Binary(bytes.Repeat([]byte{1}, 10))
	for range 3 {
		p.Client.Send(ten)
		p.Backend.Want(ten)
		p.Backend.Send(ten)
		p.Client.Want(ten)
	}
	p.Client.Send(wstest.Fragment(wstest.OpBinary, false, "123456"))
	p.Backend.Want(wstest.Fragment(wstest.OpBinary, false, "123456"))
	p.Client.Send(wstest.Fragment(wstest.OpContinuation, true, "78901"))
	p.Client.WantClose(1009)
	p.Backend.WantClose(1001)
}

func TestExtensionsDecideWhatReservedBitsMean(t *testing.T) {
	compressed := wstest.Frame{Fin: true, RSV: 4, Opcode: wstest.OpText, Payload: []byte{0xAA, 0x00}}
	tests := []struct {
		name, extension string
		frame           wstest.Frame
		passes          bool
	}{
		{"none", "", compressed, false},
		{"deflate", "permessage-deflate", compressed, true},
		{"deflate-and-another-bit", "permessage-deflate", wstest.Frame{Fin: true, RSV: 2, Opcode: wstest.OpText}, false},
		{"unknown", "x-unknown", wstest.Frame{Fin: true, RSV: 2, Opcode: 3, Payload: []byte("?")}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := wstest.StartBackend(t)
			_, s := proxytest.Start(t, wsproxy.WithBackends(b.URL()))
			h := http.Header{}
			if tt.extension != "" {
				h.Set("Sec-Websocket-Extensions", tt.extension)
			}
			client := wstest.Dial(t, s.URL)
			client.RequestUpgrade("/", h)
			backend := b.Accepted(t)
			backend.AcceptUpgrade(h)
			client.WantUpgrade()
			client.Send(tt.frame)
			if tt.passes {
				backend.Want(tt.frame)
				return
			}
			client.WantClose(1002)
			backend.WantClose(1001)
		})
	}
}

func TestClosedIsCalledOnceForEachOpened(t *testing.T) {
	var log []string
	events := make(chan string, 10)
	_, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithTrace(&wsproxy.Trace{
		Picked:    func(i wsproxy.PickedInfo) { events <- fmt.Sprintf("picked %d of %d", i.Attempt, i.Candidates) },
		Attempted: func(i wsproxy.AttemptInfo) { events <- fmt.Sprintf("attempted %d: %v", i.Status, i.Err) },
		Opened:    func(wsproxy.TunnelInfo) { events <- "opened" },
		Closed:    func(wsproxy.TunnelEnd) { events <- "closed" },
	}))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	proxytest.HangUp(t, client)
	for range 4 {
		log = append(log, <-events)
	}
	if got, want := strings.Join(log, ", "), "picked 1 of 1, attempted 101: <nil>, opened, closed"; got != want {
		t.Errorf("hooks were called: %s; want %s", got, want)
	}
	s.Wait()
	select {
	case e := <-events:
		t.Errorf("one more hook was called: %s", e)
	default:
	}
}

func TestSidesAndCausesHaveNames(t *testing.T) {
	for _, s := range []wsproxy.Side{wsproxy.SideProxy, wsproxy.SideClient, wsproxy.SideBackend} {
		if regexp.MustCompile(`\d`).MatchString(s.String()) {
			t.Errorf("side %d is called %q", s, s)
		}
	}
	for c := wsproxy.CauseClosed; c <= wsproxy.CauseStalled; c++ {
		if regexp.MustCompile(`\d`).MatchString(c.String()) {
			t.Errorf("cause %d is called %q", c, c)
		}
	}
}

func TestTheErrorOfALostClientIsItsConnections(t *testing.T) {
	p := proxytest.OpenPair(t)
	p.Client.Reset()
	p.Backend.WantClose(1001)
	p.Backend.Close()
	if e := p.End(t); !errors.Is(e.Err, syscall.ECONNRESET) || e.Cut {
		t.Errorf("tunnel ended with error %v, cut %t; want a reset, not cut", e.Err, e.Cut)
	}
}
