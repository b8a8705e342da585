//go:build linux

package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Limits of descriptors, memory and CPU time are a process's: what is tested about
// them takes child processes. A child is the test binary again, whose TestChild
// plays a role: it does what its parent asks for, a line at a time, and answers in
// JSON on a descriptor of its own. Like any test binary it fails if it leaves
// something behind.

// roleVariable tells a process that it is a child, and which role it plays.
const roleVariable = "WSPROXY_TEST_ROLE"

// A role makes the commands that a child obeys.
type role func(t *testing.T) map[string]command

// A command takes the words after its name, and returns the answer.
type command func(args ...string) any

const (
	answersFD     = 3                // in a child: the first of its extra files
	childPatience = 60 * time.Second // with what a child is asked
)

func TestChild(t *testing.T) {
	name, isChild := os.LookupEnv(roleVariable)
	if !isChild {
		t.Skip("this is no child process")
	}
	roles := map[string]role{"proxy": playProxy, "clients": playClients, "backends": playBackends, "bystander": playBystander}
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

// A child is a child process that plays a role until the test ends.
type child struct {
	t       testing.TB
	role    string
	stdin   io.WriteCloser
	answers *os.File
	decoder *json.Decoder // of answers
}

func startChild(t testing.TB, role string) *child {
	t.Helper()
	answers, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	ctx, kill := context.WithTimeout(context.Background(), 2*childPatience)
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestChild$", "-test.timeout=0")
	cmd.Env = append(os.Environ(), roleVariable+"="+role,
		"GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE")) // else it sleeps for a second at its end
	cmd.ExtraFiles = []*os.File{theirs}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer kill()
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("child that plays %s: %v\n%s", role, err, output.String())
		}
		answers.Close()
	})
	c := &child{t: t, role: role, stdin: stdin, answers: answers, decoder: json.NewDecoder(answers)}
	c.answer("its start", new(string))
	return c
}

// ask asks the child for something, and waits for its answer.
func (c *child) ask(answer any, words ...any) {
	c.t.Helper()
	c.tell(words...)
	c.answer(fmt.Sprint(words...), answer)
}

// tell is ask without the answer, which must be taken before the next.
func (c *child) tell(words ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.stdin, words...); err != nil {
		c.t.Fatalf("child that plays %s: asked for %v: %v", c.role, words, err)
	}
}

// answer takes the answer to what the child was told.
func (c *child) answer(what string, answer any) {
	c.t.Helper()
	c.answers.SetReadDeadline(time.Now().Add(childPatience))
	if err := c.decoder.Decode(answer); err != nil {
		c.t.Fatalf("child that plays %s: answer to %s: %v", c.role, what, err)
	}
}

// A bystander does nothing; it is just there.
func playBystander(*testing.T) map[string]command { return nil }

// maxDescriptors returns how many descriptors this process may have.
func maxDescriptors(t testing.TB) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return int(min(limit.Cur, 1<<20))
}
