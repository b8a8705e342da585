// Package e2etest starts the programs of others that the tests of this module need: Node.js
// with the npm packages of package.json, Chromium, and servers.
package e2etest

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// requireVar makes a test fail that would be skipped for want of a program.
const requireVar = "WSPROXY_REQUIRE_E2E"

// debianPackages have the commands that tests need.
var debianPackages = map[string]string{
	"chromium": "chromium", "haproxy": "haproxy", "mosquitto": "mosquitto",
	"nginx": "nginx", "node": "nodejs", "python3": "python3-websockets",
}

// Need skips the test unless all commands are installed, and node's packages too, with a line
// that says what to install. Where WSPROXY_REQUIRE_E2E is set, the test fails instead.
func Need(t testing.TB, commands ...string) {
	t.Helper()
	var missing []string
	for _, c := range commands {
		if lookPath(c) == "" {
			missing = append(missing, "apt-get install "+debianPackages[c])
		} else if _, err := os.Stat(filepath.Join(Root(), "node_modules")); c == "node" && err != nil {
			missing = append(missing, "npm ci --prefix "+Root())
		}
	}
	switch {
	case len(missing) == 0:
	case os.Getenv(requireVar) != "":
		t.Fatalf("%s is set, and this is not installed: %s", requireVar, strings.Join(missing, "; "))
	default:
		t.Skipf("to run it: %s", strings.Join(missing, "; "))
	}
}

// lookPath returns the path of a command, or "". Servers may be in directories that are not in
// the PATH of an ordinary user.
func lookPath(command string) string {
	if command == "python3" {
		return debianPython()
	}
	for _, name := range []string{command, "/usr/sbin/" + command} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// debianPython returns the path of Debian's Python, or "" unless it has its package websockets.
// Another Python may come first in the PATH, and has not.
var debianPython = sync.OnceValue(func() string {
	const path = "/usr/bin/python3"
	if exec.Command(path, "-c", "import websockets").Run() != nil {
		return ""
	}
	return path
})

// Root returns the directory of the module, which has node_modules.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Chromium returns the path of the browser.
func Chromium() string { return lookPath("chromium") }

// BuildProgram builds a package of this module or of the core, and returns the path of the
// program.
func BuildProgram(t testing.TB, pkg string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(pkg))
	build := exec.Command("go", "build", "-o", file, pkg)
	build.Dir = Root()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	return file
}

// RunNode runs a script of the test's directory to its end, and returns what it has printed.
// The test fails unless its status is 0. The script finds the browser in CHROMIUM.
func RunNode(t testing.TB, script string, args ...string) string {
	t.Helper()
	p := StartNode(t, script, args...)
	var out strings.Builder
	for line := range p.Lines {
		out.WriteString(line + "\n")
	}
	if err := p.Wait(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out.String())
	}
	return out.String()
}

// StartNode starts a script of the test's directory.
func StartNode(t testing.TB, script string, args ...string) *Program {
	t.Helper()
	path, err := filepath.Abs(script)
	if err != nil {
		t.Fatal(err)
	}
	return Start(t, "node", append([]string{path}, args...)...)
}

// A Program is a process that runs until the test ends, at most.
type Program struct {
	// Lines are the lines that it prints to its standard output. It blocks when 1,000 have
	// not been received.
	Lines <-chan string

	Stdin io.WriteCloser

	cmd    *exec.Cmd
	exited chan struct{}
	err    error // after exited
}

// Start starts a command. What it prints to its standard error is in the log of the test if that
// fails. Its standard input ends with the test, and so does it: killed, if SIGTERM does nothing.
func Start(t testing.TB, command string, args ...string) *Program {
	t.Helper()
	cmd := exec.Command(lookPath(command), args...)
	cmd.Env = append(os.Environ(), "CHROMIUM="+Chromium(), "NODE_PATH="+filepath.Join(Root(), "node_modules"))
	var stderr lockedBuilder
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1000)
	p := &Program{Lines: lines, Stdin: stdin, cmd: cmd, exited: make(chan struct{})}
	stopped := make(chan struct{})
	go func() { // ends with the process
		defer close(p.exited)
		defer close(lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			select {
			case lines <- s.Text():
			case <-stopped:
			}
		}
		p.err = cmd.Wait()
	}()
	t.Cleanup(func() {
		close(stopped)
		stdin.Close()
		p.Stop()
		if text := stderr.String(); t.Failed() && text != "" {
			t.Logf("%s %s:\n%s", command, strings.Join(args, " "), text)
		}
	})
	return p
}

// Line returns the next line, and fails the test if there is none within a minute.
func (p *Program) Line(t testing.TB) string {
	t.Helper()
	select {
	case line, ok := <-p.Lines:
		if !ok {
			t.Fatalf("%v has ended: %v", p.cmd.Args, p.Wait())
		}
		return line
	case <-time.After(time.Minute):
		t.Fatalf("%v prints no line", p.cmd.Args)
	}
	panic("unreachable")
}

// Signal sends a signal.
func (p *Program) Signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

// Wait returns when the process has ended, with the error of its status.
func (p *Program) Wait() error {
	<-p.exited
	return p.err
}

// Stop ends the process.
func (p *Program) Stop() {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(5 * time.Second):
		p.Signal(syscall.SIGKILL)
		<-p.exited
	}
}

// A lockedBuilder may be written to while it is read.
type lockedBuilder struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuilder) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// FreeAddr returns a TCP address of this machine at which nothing listens.
func FreeAddr(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// WaitForListener returns when a server listens at an address, and fails the test if there is
// none within 10 s.
func WaitForListener(t testing.TB, network, addr string) {
	t.Helper()
	var err error
	listens := func() bool {
		var conn net.Conn
		if conn, err = net.Dial(network, addr); err == nil {
			conn.Close()
		}
		return err == nil
	}
	if !proxytest.Becomes(listens) {
		t.Fatal(err)
	}
}
