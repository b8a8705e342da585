//go:build !go1.27

//lint:file-ignore SA1019 http.Transport refuses a request with :protocol

package wsproxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"testing"

	"golang.org/x/net/http2"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// The transport of x/net is a client that others have written. Since Go 1.27 it is that of
// net/http, which refuses a request with :protocol.
func TestHTTP2TunnelOfTransportOfXNet(t *testing.T) {
	ends, trace := proxytest.TraceEnds()
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), trace)
	s := proxytest.ServeHTTP2(t, wsproxy.Front(p))
	transport := &http2.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()

	open := func() (resp *http.Response, send *io.PipeWriter, cancel context.CancelFunc) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		body, send := io.Pipe()
		r, err := http.NewRequestWithContext(ctx, http.MethodConnect, s.URL+"/ws", body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}}
		resp, err = transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		proxytest.WantStatus(t, resp, 200)
		return resp, send, cancel
	}
	var key [4]byte
	echo := func(send io.Writer, r *bufio.Reader, f wstest.Frame) {
		t.Helper()
		send.Write(wstest.AppendFrame(nil, f, &key))
		if got, err := wstest.ReadFrame(r); err != nil || got.Opcode != f.Opcode || string(got.Payload) != string(f.Payload) {
			t.Errorf("got %v, %v; want %v", got, err, f)
		}
	}

	resp, send, cancel := open()
	defer cancel()
	r := bufio.NewReader(resp.Body)
	echo(send, r, wstest.Text("hello"))
	echo(send, r, wstest.Binary(make([]byte, 1<<20)))
	echo(send, r, wstest.Close(1000, ""))
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("after the Close frame: %v; want the end of the stream", err)
	}
	if e := <-ends; e.Cause != wsproxy.CauseClosed || e.Code != 1000 {
		t.Errorf("the end is %+v; want closed, 1000", e)
	}
	send.Close()

	resp, send, cancel = open()
	defer cancel()
	echo(send, bufio.NewReader(resp.Body), wstest.Text("hello"))
	resp.Body.Close() // which resets the stream
	if e := <-ends; e.Cause != wsproxy.CauseLost || e.Side != wsproxy.SideClient {
		t.Errorf("the end is %+v; want a lost client", e)
	}
	send.Close()
}
