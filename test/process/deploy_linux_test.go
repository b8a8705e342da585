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
func TestSIGTERMWithDrainDelayCutsNobody(t *testing.T) {
	t.Parallel()                       // most of it is waiting
	const numClients, hurry = 100, 2.5 // hurry divides the time of -drain-delay
	d := readDeploy(t)
	if d.killed < d.delay+d.grace+time.Second {
		t.Errorf("Kubernetes kills the pod after %v; want more than -drain-delay=%v and -grace=%v", d.killed, d.delay, d.grace)
	}
	delay := d.delay
	if proxytest.SoakTime(t) == 0 {
		delay = time.Duration(float64(delay) / hurry)
	}
	g := startGateway(t, append(d.args, fmt.Sprint("-drain-delay=", delay)), startCounters(t), startCounters(t))
	if got := g.probe(t, d.ready); got != http.StatusOK {
		t.Errorf("before SIGTERM, %s = %d; want 200", d.ready, got)
	}
	var clients []*counted
	for range numClients {
		clients = append(clients, g.openCounted(t))
	}

	// The pod is deleted. Clients still come, because not everything has noticed.
	sent := time.Now()
	g.terminate(t)
	for g.probe(t, d.ready) != http.StatusServiceUnavailable { // until the signal has arrived
		if time.Since(sent) > delay/2 {
			t.Fatalf("%v after SIGTERM, %s is not 503", delay/2, d.ready)
		}
	}
	for more := true; more; <-time.After(20 * time.Millisecond) {
		clients = append(clients, g.openCounted(t))
		more = time.Since(sent) < delay/4 // so that a slow host opens the last one in time
	}
	if got := g.probe(t, "/livez"); got != http.StatusOK {
		t.Errorf("after SIGTERM, /livez = %d; want 200", got)
	}
	g.wait(t, d.killed)
	took := time.Since(sent)
	t.Logf("with %d clients the gateway has exited %v after SIGTERM", len(clients), took)
	if took < delay || took > delay+d.grace {
		t.Errorf("the gateway has exited %v after SIGTERM; want its -drain-delay=%v, and at most its -grace=%v after that", took, delay, d.grace)
	}
	for i, c := range clients {
		if err := <-c.ended; err != nil {
			t.Errorf("client %d: %v", i, err)
		}
	}
}

// A deploy is what docs/production.md says about the pods of the gateway.
type deploy struct {
	killed time.Duration // after the pod was deleted
	delay  time.Duration // -drain-delay
	grace  time.Duration // -grace
	ready  string        // the path of the readiness probe
	args   []string      // of the gateway
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
		killed: duration(find(`terminationGracePeriodSeconds: (\d+)`) + "s"),
		delay:  duration(find(`"-drain-delay=(\w+)"`)),
		grace:  duration(find(`"-grace=(\w+)"`)),
		ready:  find(`readinessProbe:\s+httpGet: \{path: (\S+), port: 9090\}`),
		args:   strings.Split(strings.ReplaceAll(find(`args: \[(.*)\]`), `"`, ""), ", "),
	}
}

// A gateway is a process of examples/gateway.
type gateway struct {
	cmd     *exec.Cmd
	addr    string
	metrics string // the URL of -metrics, without a path
	stderr  bytes.Buffer
}

// startGateway runs a gateway with these arguments, but with other backends and on free ports.
func startGateway(t *testing.T, args []string, backends ...string) *gateway {
	t.Helper()
	own := []string{"-listen=127.0.0.1:0", "-metrics=127.0.0.1:0"}
	for _, url := range backends {
		own = append(own, "-backend="+url)
	}
	for _, a := range args {
		switch name, _, _ := strings.Cut(a, "="); name {
		case "-listen", "-metrics", "-backend":
		default:
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
	if _, err := fmt.Fscanf(stdout, "listening on %s\nmetrics on %s\n", &g.addr, &g.metrics); err != nil {
		g.cmd.Process.Kill()
		g.cmd.Wait()
		t.Fatalf("%v: %v\n%s", g.cmd.Args, err, &g.stderr)
	}
	g.metrics = strings.TrimSuffix(g.metrics, "/metrics")
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

// probe returns the status of a path of the listener of -metrics.
func (g *gateway) probe(t *testing.T, path string) (status int) {
	t.Helper()
	r, err := http.NewRequest("GET", g.metrics+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("a probe gets %v; want a response", err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func (g *gateway) terminate(t *testing.T) {
	t.Helper()
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// wait waits until the gateway has exited. It must exit with status 0, cut no tunnel, and not
// use all of its time.
func (g *gateway) wait(t *testing.T, most time.Duration) {
	t.Helper()
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
