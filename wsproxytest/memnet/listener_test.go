package memnet

import (
	"context"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"

	"golang.org/x/net/nettest"
)

func TestListenerConnBehavesLikeNetConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		ln := Listen(4096)
		front, err := ln.Dial(context.Background())
		if err != nil {
			return nil, nil, nil, err
		}
		back, err := ln.Accept()
		return front, back, func() { front.Close(); back.Close(); ln.Close() }, err
	})
}

func TestListenerServesHTTPInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := Listen(4096)
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			host, _, err := net.SplitHostPort(r.RemoteAddr)
			if err != nil {
				t.Errorf("RemoteAddr %q: %v", r.RemoteAddr, err)
			}
			io.WriteString(w, host)
		})}
		donec := make(chan error, 1)
		go func() { donec <- srv.Serve(ln) }()

		transport := &http.Transport{DialContext: ln.DialContext}
		client := &http.Client{Transport: transport}
		resp, err := client.Get("http://wherever.example/")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got := string(body); got != "192.0.2.1" {
			t.Errorf("handler saw %q; want 192.0.2.1", got)
		}

		transport.CloseIdleConnections()
		srv.Close()
		if err := <-donec; err != http.ErrServerClosed {
			t.Errorf("Serve = %v; want ErrServerClosed", err)
		}
	})
}

func TestListenerCloseWakesAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := Listen(1)
		errc := make(chan error, 1)
		go func() {
			_, err := ln.Accept()
			errc <- err
		}()
		synctest.Wait()
		ln.Close()
		wantErr(t, "Accept", <-errc, net.ErrClosed)
		wantErr(t, "second Close", ln.Close(), net.ErrClosed)
	})
}

func TestListenerCloseResetsQueuedConns(t *testing.T) {
	ln := Listen(1)
	front, err := ln.Dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	wantErr(t, "Read", second(front.Read(make([]byte, 1))), syscall.ECONNRESET)
}

func TestDialFails(t *testing.T) {
	done, cancel := context.WithCancel(context.Background())
	cancel()
	closed := Listen(1)
	closed.Close()
	for _, tt := range []struct {
		name string
		ln   *Listener
		ctx  context.Context
		want error
	}{
		{"context done", Listen(1), done, context.Canceled},
		{"listener closed", closed, context.Background(), syscall.ECONNREFUSED},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.ln.Dial(tt.ctx)
			wantErr(t, "Dial", err, tt.want)
		})
	}
}

func TestDialedConnsHaveDistinctAddresses(t *testing.T) {
	ln := Listen(1)
	var addrs [2]string
	for i := range addrs {
		front, err := ln.Dial(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		back, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		addrs[i] = front.LocalAddr().String()
		if got := back.RemoteAddr().String(); got != addrs[i] {
			t.Errorf("accepted RemoteAddr = %s; want the dialer's %s", got, addrs[i])
		}
		if got := front.RemoteAddr(); got != ln.Addr() {
			t.Errorf("dialed RemoteAddr = %s; want %s", got, ln.Addr())
		}
	}
	if addrs[0] == addrs[1] {
		t.Errorf("two connections come from %s", addrs[0])
	}
}
