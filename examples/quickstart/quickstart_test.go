package main

import (
	"context"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

func TestCheckPasses(t *testing.T) {
	out := new(strings.Builder)
	err := check(t.Context(), out)
	t.Logf("it saw:\n%s", out)
	if err != nil {
		t.Fatalf("check() = %v; want nil", err)
	}
}

func TestListenUsesAnotherPortWhenTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	said := new(strings.Builder)
	logf := func(format string, args ...any) { said.WriteString(format) }
	ln, err := listen(taken.Addr().String(), logf)
	if err != nil {
		t.Fatalf("listen(a taken port) = %v; want another port", err)
	}
	defer ln.Close()
	if said.Len() == 0 {
		t.Error("listen(a taken port) said nothing; want it to tell which port it uses")
	}
}

func TestAdminPageIsForThisMachine(t *testing.T) {
	tests := []struct {
		peer, host string
		want       bool
	}{
		{"127.0.0.1:1234", "127.0.0.1:8000", true},
		{"127.0.0.1:1234", "localhost:8000", true},
		{"127.0.0.1:1234", "localhost", true},
		{"[::1]:1234", "[::1]:8000", true},
		{"[::1]:1234", "[::1]", true},
		{"192.0.2.1:1234", "127.0.0.1:8000", false},
		{"127.0.0.1:1234", "rebound.example:8000", false},
		{"127.0.0.1:1234", "127.0.0.1.example", false},
		{"127.0.0.1:1234", "", false},
		{"", "127.0.0.1:8000", false},
	}
	for _, tt := range tests {
		_, err := authorizeLocal(&http.Request{RemoteAddr: tt.peer, Host: tt.host})
		if got := err == nil; got != tt.want {
			t.Errorf("from %q to host %q: error %v; want it let in: %t", tt.peer, tt.host, err, tt.want)
		}
	}
}

func TestShutdownEndsTheStreamOfTheAdminPage(t *testing.T) {
	d := startDemo(t)
	resp, err := http.Get(d.url() + adminPath + "stream")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != "text/event-stream" {
		t.Fatalf("the stream is %s, %q; want 200 and server-sent events", resp.Status, got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), shutdownTimeout/2) // Shutdown would wait for the stream
	defer cancel()
	if err := d.shutdown(ctx); err != nil {
		t.Errorf("with a stream, shutdown() = %v; want nil", err)
	}
}

func TestRoomNamesAreChecked(t *testing.T) {
	tests := []struct {
		name string
		want bool
	}{
		{"design", true},
		{"Büro-2", true},
		{strings.Repeat("ü", maxRoomName), true},
		{strings.Repeat("ü", maxRoomName+1), false},
		{"", false},
		{"two words", false},
		{"../etc", false},
		{"a\nb", false},
		{"\xff", false},
	}
	for _, tt := range tests {
		if got := isRoomName(tt.name); got != tt.want {
			t.Errorf("isRoomName(%q) = %t; want %t", tt.name, got, tt.want)
		}
	}
}

func TestEventsTellWhatHappens(t *testing.T) {
	d, err := newDemo(t.Logf, "127.0.0.1:0", [3]string{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	dial := func(wantStatus int) *websocket.Conn {
		t.Helper()
		conn, resp, _ := websocket.Dial(t.Context(), d.url()+"/chat?room=design&author=Ann&client=1", nil)
		if resp == nil || resp.StatusCode != wantStatus {
			t.Fatalf("response = %+v; want status %d", resp, wantStatus)
		}
		return conn
	}
	conn := dial(http.StatusSwitchingProtocols)
	for _, b := range d.backends {
		d.crash(t.Context(), b)
	}
	conn.CloseRead(t.Context()) // answers the Close frame
	dial(http.StatusServiceUnavailable)
	if err := d.shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{
		"picked": 3, "attempted": 3, "opened": 1, "closed": 1, "refused": 1, "backend": 3,
	}
	got := make(map[string]int)
	events, changed := d.events.after(0)
	for _, e := range events {
		got[e.Kind]++
		if e.Kind == "refused" && (e.Status != http.StatusServiceUnavailable || e.Client != client{"1", "Ann", "design"}) {
			t.Errorf("refused = %+v; want status 503 for Ann", e)
		}
	}
	if got["health"] < 2 {
		t.Errorf("%d events of health; want one for each backend that cannot be reached", got["health"])
	}
	delete(got, "health") // a probe, and the tunnel that was lost, may raise other flags
	if !maps.Equal(got, want) {
		t.Errorf("numbers of events = %v; want %v", got, want)
	}
	if changed != nil {
		t.Error("the log is not closed after shutdown")
	}
}

func TestStatusShowsNoRoomOnADeadBackend(t *testing.T) {
	d := startDemo(t)
	choice := func() string { return d.choice("design", d.working(d.proxy.Backends())) }
	first := choice()
	i := slices.IndexFunc(d.backends, func(b *backend) bool { return b.id == first })
	if err := d.crash(t.Context(), d.backends[i]); err != nil {
		t.Fatal(err)
	}
	if got := choice(); got == first || got == "" {
		t.Errorf("after backend %s has crashed, the room's backend is %q; want the other one", first, got)
	}
}

func TestStatusShowsNoRoomOnABackendThatGetsNobody(t *testing.T) {
	tests := []struct {
		name       string
		begin, end func(*demo, context.Context, *backend) error
	}{
		{"frozen", (*demo).freeze, (*demo).goOn},
		{"drained", (*demo).drain, (*demo).resume},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := startDemo(t)
			choice := func() string { return d.choice("design", d.working(d.proxy.Backends())) }
			first := choice()
			b := d.backends[slices.IndexFunc(d.backends, func(b *backend) bool { return b.id == first })]
			if err := tt.begin(d, t.Context(), b); err != nil {
				t.Fatal(err)
			}
			if got := choice(); got == first || got == "" {
				t.Errorf("while backend %s is %s, the room's backend is %q; want the other one", first, tt.name, got)
			}
			if err := tt.end(d, t.Context(), b); err != nil {
				t.Fatal(err)
			}
			if got := choice(); got != first {
				t.Errorf("afterwards the room's backend is %q; want %s", got, first)
			}
		})
	}
}

func TestFreezerHoldsWhatIsReadUntilItThaws(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := net.Pipe()
		defer peer.Close()
		f := newFreezer()
		got := make(chan error, 1)
		read := func() { // ends with peer
			_, err := freezingConn{conn, f}.Read(make([]byte, 1))
			got <- err
		}
		wantNone := func() {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-got:
				t.Fatalf("a frozen Read returns %v; want it to wait", err)
			default:
			}
		}

		go read()
		synctest.Wait()
		f.freeze() // while the Read waits for the peer
		peer.Write([]byte("x"))
		wantNone()
		f.thaw()
		if err := <-got; err != nil {
			t.Fatalf("after thaw, Read() = %v; want nil", err)
		}

		f.freeze()
		go read()
		peer.Write([]byte("x"))
		wantNone()
		f.kill()
		if err := <-got; err == nil {
			t.Error("after kill, Read() = nil; want an error")
		}
	})
}

func TestFrozenBackendCanBeStoppedAndCrashed(t *testing.T) {
	tests := []struct {
		name string
		end  func(*demo, context.Context, *backend) error
		want websocket.StatusCode
	}{
		{"stop", (*demo).stop, websocket.StatusGoingAway},        // of the backend
		{"crash", (*demo).crash, websocket.StatusServiceRestart}, // of the proxy
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := startDemo(t)
			conn, _, err := websocket.Dial(t.Context(), d.url()+"/chat?room=design", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.CloseNow()
			var w welcome
			if err := wsjson.Read(t.Context(), conn, &w); err != nil {
				t.Fatal(err)
			}
			b := d.backends[slices.IndexFunc(d.backends, func(b *backend) bool { return b.id == w.Backend })]
			if err := d.freeze(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- tt.end(d, t.Context(), b) }() // ends when the client answers
			for err == nil {
				_, _, err = conn.Read(t.Context())
			}
			if got := websocket.CloseStatus(err); got != tt.want {
				t.Errorf("the client's connection ended with %v; want code %d", err, tt.want)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// startDemo runs a demo until the test ends.
func startDemo(t *testing.T) *demo {
	t.Helper()
	d, err := newDemo(t.Logf, "127.0.0.1:0", [3]string{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestHistoryIsBounded(t *testing.T) {
	c := newChat("A")
	m := &member{out: make(chan []byte, 10*maxHistory)}
	if !c.join(m, "design") {
		t.Fatal("join() = false; want true")
	}
	for range 2 * maxHistory {
		c.receive(m, "Ann", "again")
	}
	if got := len(m.room.history); got != maxHistory {
		t.Errorf("after %d messages the history has %d; want %d", 2*maxHistory, got, maxHistory)
	}
}
