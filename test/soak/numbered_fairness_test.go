package soak_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

const floods = 4 // clients that send messages without pause

// A direction that always finds data never waits, so that others wait for it. The
// proxy and those that flood it have processes of their own: in one process each
// would wait for the others.
func TestPortableEngineSharesProcessorWithFlood(t *testing.T) {
	if soakTime() == 0 {
		t.Skip("a figure; WSPROXY_SOAK=10s measures it")
	}
	backend := wstest.StartEcho(t)
	flood, floodAddr := startFairnessChild(t, "flood")
	_, proxyAddr := startFairnessChild(t, "proxy", "WSPROXY_BACKENDS="+backend+" http://"+floodAddr)
	fmt.Fprintln(flood, proxyAddr)

	client := wstest.Dial(t, "http://"+proxyAddr)
	client.Handshake("/", nil)
	time.Sleep(500 * time.Millisecond)
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

// startFairnessChild starts a process in a role. It ends when its standard input, which is
// returned, is closed. Its first line is an address.
func startFairnessChild(t *testing.T, role string, env ...string) (stdin io.Writer, addr string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestFairnessChild$")
	cmd.Env = append(os.Environ(), append(env, "WSPROXY_ROLE="+role)...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return in, strings.TrimSpace(line)
}

// TestFairnessChild is what startFairnessChild starts.
func TestFairnessChild(t *testing.T) {
	switch os.Getenv("WSPROXY_ROLE") {
	case "proxy":
		beFloodedProxy(t, strings.Fields(os.Getenv("WSPROXY_BACKENDS")))
	case "flood":
		beFlood(t)
	default:
		t.Skip("this is for processes that other tests start")
	}
}

// A hidden connection gets the portable engine.
type hidden struct{ *net.TCPConn }

func dialHidden(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return hidden{c.(*net.TCPConn)}, nil
}

func beFloodedProxy(t *testing.T, backends []string) {
	p, err := wsproxy.New(
		wsproxy.WithBackends(backends...),
		wsproxy.WithDialer(dialHidden),
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
		wsproxy.WithBalancer(wsproxy.BalancerFunc(
			func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
				if r.URL.Path == "/flood" {
					return candidates[1], nil
				}
				return candidates[0], nil
			})),
	)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	srv := httptest.NewUnstartedServer(p)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Start()
	defer srv.Close()
	fmt.Println(srv.Listener.Addr())
	io.Copy(io.Discard, os.Stdin)
}

// beFlood plays the clients and their backends.
func beFlood(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	fmt.Println(ln.Addr())
	stdin := bufio.NewReader(os.Stdin)
	proxyAddr, err := stdin.ReadString('\n')
	if err != nil {
		return
	}
	var messages []byte
	for range 4096 {
		messages = wstest.AppendFrame(messages, wstest.Text(""), &[4]byte{1, 2, 3, 4})
	}
	for range floods {
		client := wstest.Dial(t, "http://"+strings.TrimSpace(proxyAddr))
		client.RequestUpgrade("/flood", nil)
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		backend := wstest.NewBackend(t, c)
		backend.AcceptUpgrade(nil)
		client.WantUpgrade()
		go io.Copy(io.Discard, backend) // until the process ends
		go func() {
			for {
				if _, err := client.Write(messages); err != nil {
					return
				}
			}
		}()
	}
	io.Copy(io.Discard, stdin)
}
