//go:build linux

package process_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A pod of a gateway is replaced as docs/production.md, "Deploys", configures it.
func TestSIGTERMAfterPreStopCutsNobody(t *testing.T) {
	t.Parallel()                       // most of it is waiting
	const numClients, hurry = 100, 5.0 // hurry divides the time of preStop
	d := readDeploy(t)
	if d.killed < d.preStop+d.grace+time.Second {
		t.Errorf("Kubernetes kills the pod after %v; want more than preStop's %v and -grace=%v", d.killed, d.preStop, d.grace)
	}
	pause := d.preStop
	if proxytest.SoakTime(t) == 0 {
		pause = time.Duration(float64(pause) / hurry)
	}
	g := startGateway(t, d.args, startCounters(t), startCounters(t))
	var clients []*counted
	for range numClients {
		clients = append(clients, g.openCounted(t))
	}

	// The pod is deleted. Clients still come, because not everything has noticed.
	for end := time.Now().Add(pause); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		clients = append(clients, g.openCounted(t))
	}
	sent := time.Now()
	g.terminate(t, d.killed-d.preStop)
	took := time.Since(sent)
	t.Logf("with %d clients the gateway has exited %v after SIGTERM", len(clients), took)
	if took > d.grace {
		t.Errorf("the gateway has exited %v after SIGTERM; want at most its -grace=%v", took, d.grace)
	}
	for i, c := range clients {
		if err := <-c.ended; err != nil {
			t.Errorf("client %d: %v", i, err)
		}
	}
}

// A deploy is what docs/production.md says about the pods of the gateway.
type deploy struct {
	preStop time.Duration
	killed  time.Duration // after the pod was deleted
	grace   time.Duration
	args    []string // of the gateway
}

func readDeploy(t *testing.T) deploy {
	t.Helper()
	const file = "../../docs/production.md"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, config, ok := strings.Cut(string(b), "```yaml\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: gateway\n")
	config, _, closed := strings.Cut(config, "```")
	if !ok || !closed {
		t.Fatalf("%s has no Deployment of the gateway", file)
	}
	find := func(pattern string) string {
		t.Helper()
		m := regexp.MustCompile(pattern).FindAllStringSubmatch(config, -1)
		if len(m) != 1 {
			t.Fatalf("the gateway's Deployment in %s has %d matches of %s; want one", file, len(m), pattern)
		}
		return m[0][1]
	}
	duration := func(s string) time.Duration {
		t.Helper()
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	return deploy{
		preStop: duration(find(`preStop:\s+sleep: \{seconds: (\d+)\}`) + "s"),
		killed:  duration(find(`terminationGracePeriodSeconds: (\d+)`) + "s"),
		grace:   duration(find(`"-grace=(\w+)"`)),
		args:    strings.Split(strings.ReplaceAll(find(`args: \[(.*)\]`), `"`, ""), ", "),
	}
}

// A gateway is a process of examples/gateway.
type gateway struct {
	cmd    *exec.Cmd
	addr   string
	stderr bytes.Buffer
}

// startGateway runs a gateway with these arguments, but with other backends and on a free port.
func startGateway(t *testing.T, args []string, backends ...string) *gateway {
	t.Helper()
	own := []string{"-listen=127.0.0.1:0"}
	for _, url := range backends {
		own = append(own, "-backend="+url)
	}
	for _, a := range args {
		if !strings.HasPrefix(a, "-listen=") && !strings.HasPrefix(a, "-backend=") {
			own = append(own, a)
		}
	}
	g := &gateway{cmd: exec.Command(buildGateway(t), own...)}
	g.cmd.Stderr = &g.stderr
	stdout, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.cmd.Process.Kill() // if the test has failed before terminate
		g.cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %v\n%s", g.cmd.Args, err, &g.stderr)
	}
	g.addr = strings.TrimPrefix(strings.TrimSpace(line), "listening on ")
	return g
}

// buildGateway builds examples/gateway with the tags of this binary.
func buildGateway(t *testing.T) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "gateway")
	args := []string{"build", "-buildvcs=false", "-o", file}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "-tags" {
				args = append(args, "-tags", s.Value)
			}
		}
	}
	const dir = "../../examples/gateway"
	os.ReadDir(dir) // so that the go command knows that a cached result depends on it
	if out, err := exec.Command("go", append(args, dir)...).CombinedOutput(); err != nil {
		t.Fatalf("go %v: %v\n%s", args, err, out)
	}
	return file
}

// terminate sends SIGTERM, and waits until the gateway has exited. It must exit with status 0,
// cut no tunnel, and not use all of its time.
func (g *gateway) terminate(t *testing.T, most time.Duration) {
	t.Helper()
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(most, func() { g.cmd.Process.Kill() })
	defer kill.Stop()
	if err := g.cmd.Wait(); err != nil {
		t.Errorf("the gateway has ended with %v; want status 0", err)
	}
	if g.stderr.Len() > 0 {
		t.Errorf("the gateway has warned:\n%s", &g.stderr)
	}
}

// counted is a client that gets the numbers that a counter sends.
type counted struct {
	conn  net.Conn
	r     *bufio.Reader
	ended chan error // receives nil if the client has got all numbers and Close 1001
}

// openCounted opens a tunnel to a counter, and waits for the first number.
func (g *gateway) openCounted(t *testing.T) *counted {
	t.Helper()
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatalf("a client cannot connect: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &counted{conn, bufio.NewReader(conn), make(chan error, 1)}
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, proxytest.UpgradeTo("/")) // where it fails, so does the response
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("a client gets %+v, %v; want a tunnel", resp, err)
	}
	if f, err := wstest.ReadFrame(c.r); err != nil || string(f.Payload) != "0" {
		t.Fatalf("a client gets %v, %v; want the number 0", f, err)
	}
	go func() { c.ended <- c.count() }() // ends with the connection
	return c
}

// count reads the numbers that follow, answers the Close frame, and waits for the end of the
// stream.
func (c *counted) count() error {
	for next := 1; ; next++ {
		f, err := wstest.ReadFrame(c.r)
		if err != nil {
			return fmt.Errorf("after %d numbers: %w; want a Close frame", next, err)
		}
		if f.Opcode == wstest.OpPing { // of the gateway's own: see -ping
			c.conn.Write(wstest.AppendFrame(nil, wstest.Pong(string(f.Payload)), &[4]byte{1, 2, 3, 4}))
			next--
			continue
		}
		if got := string(f.Payload); got == strconv.Itoa(next) {
			continue
		} else if want := fmt.Sprint("all of ", next); got != want {
			return fmt.Errorf("after %d numbers: got %v; want the next one, or %q", next, f, want)
		}
		break
	}
	f, err := wstest.ReadFrame(c.r)
	if err != nil || f.Opcode != wstest.OpClose || !bytes.HasPrefix(f.Payload, []byte{1001 >> 8, 1001 & 0xff}) {
		return fmt.Errorf("after the last message: got %v, %v; want Close 1001", f, err)
	}
	c.conn.Write(wstest.AppendFrame(nil, wstest.Close(1001, ""), &[4]byte{1, 2, 3, 4}))
	if b, err := c.r.ReadByte(); err != io.EOF {
		return fmt.Errorf("after the Close frame: got byte %d, %v; want the end of the stream", b, err)
	}
	return nil
}

// startCounters starts a backend that sends numbers to each client, from 0, one every 5 ms.
// When it gets a Close frame, it says how many it has sent, and answers the frame. It runs until
// the test ends.
func startCounters(t *testing.T) (url string) {
	t.Helper()
	return serveConns(t, serveCounter)
}

func serveCounter(ctx context.Context, c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	io.WriteString(c, wstest.UpgradeAnswer(req.Header.Get("Sec-WebSocket-Key"), nil)) // where it fails, so do the others
	closed := make(chan error, 1)
	go func() { // ends with c
		_, err := wstest.ReadFrame(r) // clients send nothing but a Close frame
		closed <- err
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		if _, err := c.Write(wstest.AppendFrame(nil, wstest.Text(strconv.Itoa(n)), nil)); err != nil {
			return
		}
		select {
		case <-tick.C:
		case err := <-closed:
			if err == nil {
				c.Write(wstest.AppendFrame(wstest.AppendFrame(nil, wstest.Text(fmt.Sprint("all of ", n+1)), nil), wstest.Close(1001, ""), nil))
			}
			return
		}
	}
}
