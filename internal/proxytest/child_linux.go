//go:build linux

package proxytest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Descriptors, memory and CPU time belong to a process, so tests of their limits need
// child processes. A child is the test binary again. Its TestChild calls [PlayRole],
// which runs the commands that the parent writes to it, a line at a time, and answers
// each in JSON on a descriptor of its own. The child fails, like any test binary, if
// it leaves goroutines or descriptors behind.

// roleVariable is the environment variable that names the role of a child.
const roleVariable = "WSPROXY_TEST_ROLE"

// A Role returns the commands that a child runs.
type Role func(t *testing.T) map[string]Command

// A Command gets the words after its name, and returns the answer.
type Command func(args ...string) any

// answersFD is the first of a child's extra files.
const answersFD = 3

// ChildTimeout limits the time that a child has for an answer, and for its end.
const ChildTimeout = 60 * time.Second

// PlayRole is the body of TestChild: in a child it plays the role that the parent
// named, and returns when the parent closes the child's standard input. Elsewhere it
// skips the test.
func PlayRole(t *testing.T, roles map[string]Role) {
	name, isChild := os.LookupEnv(roleVariable)
	if !isChild {
		t.Skip("this is for processes that other tests start")
	}
	commands := roles[name](t)
	answers := json.NewEncoder(os.NewFile(answersFD, "answers"))
	answers.Encode("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if err := answers.Encode(commands[words[0]](words[1:]...)); err != nil {
			t.Fatal(err)
		}
	}
}

// A Child is a child process that plays a role until the test ends.
type Child struct {
	t       testing.TB
	Role    string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	answers *os.File
	decoder *json.Decoder // of answers
	hasDied bool          // by Kill
}

// StartChild starts a child that plays a role, and waits until it is ready. The functions
// configure its process.
func StartChild(t testing.TB, role string, configure ...func(*exec.Cmd)) *Child {
	t.Helper()
	answers, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.timeout=0")
	cmd.Env = append(os.Environ(), roleVariable+"="+role,
		"GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE")) // else it sleeps for a second at its end
	cmd.ExtraFiles = []*os.File{theirs}
	for _, f := range configure {
		f(cmd)
	}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &Child{t: t, Role: role, cmd: cmd, stdin: stdin, answers: answers, decoder: json.NewDecoder(answers)}
	t.Cleanup(func() {
		defer answers.Close()
		stdin.Close()
		if c.hasDied {
			return
		}
		kill := time.AfterFunc(ChildTimeout, func() { cmd.Process.Kill() })
		defer kill.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("child that plays %s: %v\n%s", role, err, output.String())
		}
	})
	c.Answer("its start", new(string))
	return c
}

// Kill kills the child by SIGKILL, and returns when it has ended.
func (c *Child) Kill() {
	c.t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		c.t.Fatalf("child that plays %s: %v", c.Role, err)
	}
	c.cmd.Wait() // its error is the signal
	c.hasDied = true
}

// Pid returns the child's process ID.
func (c *Child) Pid() int { return c.cmd.Process.Pid }

// Signal sends the child a signal.
func (c *Child) Signal(s os.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatalf("child that plays %s: %v: %v", c.Role, s, err)
	}
}

// Ask sends the child a command, and waits for its answer.
func (c *Child) Ask(answer any, words ...any) {
	c.t.Helper()
	c.Tell(words...)
	c.Answer(fmt.Sprint(words...), answer)
}

// Tell sends the child a command. Answer must be called before the next one.
func (c *Child) Tell(words ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.stdin, words...); err != nil {
		c.t.Fatalf("child that plays %s: asked for %v: %v", c.Role, words, err)
	}
}

// Answer waits for the answer to the command that Tell sent.
func (c *Child) Answer(what string, answer any) {
	c.t.Helper()
	c.answers.SetReadDeadline(time.Now().Add(ChildTimeout))
	if err := c.decoder.Decode(answer); err != nil {
		c.t.Fatalf("child that plays %s: answer to %s: %v", c.Role, what, err)
	}
}
