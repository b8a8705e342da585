package soak_test

import (
	"context"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A hidden connection gets the portable engine.
type hidden struct{ *net.TCPConn }

func dialHidden(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return hidden{c.(*net.TCPConn)}, nil
}

// A direction that always finds data never waits, so that others wait for it.
func TestPortableEngineSharesTheProcessorWithAFlood(t *testing.T) {
	if soakTime() == 0 {
		t.Skip("a figure; WSPROXY_SOAK=10s measures it")
	}
	if os.Getenv("WSPROXY_CLOSING") != "1" {
		t.Skip("the rule is not built yet; WSPROXY_CLOSING=1 runs its test")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p, err := wsproxy.New(
		wsproxy.WithBackends("http://"+ln.Addr().String()),
		wsproxy.WithDialer(dialHidden),
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
	)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	srv := httptest.NewUnstartedServer(p)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Start()
	defer srv.Close()

	open := func() (client, backend *wstest.Peer) {
		client = wstest.Dial(t, "http://"+srv.Listener.Addr().String())
		client.RequestUpgrade("/", nil)
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		backend = wstest.NewBackend(t, c)
		backend.AcceptUpgrade(nil)
		client.WantUpgrade()
		return client, backend
	}
	var pings []byte
	for range 4096 {
		pings = wstest.AppendFrame(pings, wstest.Ping(""), &[4]byte{1, 2, 3, 4})
	}
	for range 4 {
		client, backend := open()
		go io.Copy(io.Discard, backend) // until the test ends
		go func() {
			for {
				if _, err := client.Write(pings); err != nil {
					return
				}
			}
		}()
	}
	client, backend := open()
	go func() {
		for {
			f, err := backend.ReadFrame()
			if err != nil || backend.WriteFrames(f) != nil {
				return
			}
		}
	}()
	var took []time.Duration
	for give := time.Now().Add(min(soakTime(), 10*time.Second)); time.Now().Before(give); time.Sleep(10 * time.Millisecond) {
		begin := time.Now()
		client.Send(wstest.Text("hello"))
		client.Want(wstest.Text("hello"))
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	t.Logf("%d echoes: p50 %v, p99 %v", len(took), p50, p99)
	if p50 > 10*time.Millisecond {
		t.Errorf("p50 of an echo is %v; want 10 ms at most", p50)
	}
}
