package e2etest

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// callTimeout is for one call of a Remote.
const callTimeout = 2 * time.Minute

// A Remote is a program with functions that the test calls, several at once if it wants to: see
// remote.js.
type Remote struct {
	program *Program

	mu      sync.Mutex
	lastID  int                // guarded by mu
	waiting map[int]chan reply // by ID, guarded by mu; nil when the program has ended
}

type call struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
	Args []any  `json:"args"`
}

type reply struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  string          `json:"error"`
}

// StartRemote starts a script of the test's directory that calls serve of remote.js.
func StartRemote(t testing.TB, script string, args ...string) *Remote {
	t.Helper()
	r := &Remote{program: StartNode(t, script, args...), waiting: make(map[int]chan reply)}
	go r.receive() // ends with the program
	return r
}

func (r *Remote) receive() {
	for line := range r.program.Lines {
		var answer reply
		if err := json.Unmarshal([]byte(line), &answer); err != nil {
			answer.Error = fmt.Sprintf("%v: %s", err, line)
		}
		r.mu.Lock()
		if c := r.waiting[answer.ID]; c != nil {
			c <- answer
			delete(r.waiting, answer.ID)
		}
		r.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.waiting {
		c <- reply{Error: "the program has ended"}
	}
	r.waiting = nil
}

// Call calls a function, and stores what it returns in the value to which result points,
// unless that is nil. The error has the text of what the function has thrown.
func (r *Remote) Call(result any, name string, args ...any) error {
	if args == nil {
		args = []any{}
	}
	c := make(chan reply, 1)
	r.mu.Lock()
	if r.waiting == nil {
		r.mu.Unlock()
		return fmt.Errorf("%s: the program has ended", name)
	}
	r.lastID++
	id := r.lastID
	r.waiting[id] = c
	line, err := json.Marshal(call{id, name, args})
	if err == nil {
		_, err = r.program.Stdin.Write(append(line, '\n'))
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case answer := <-c:
		switch {
		case answer.Error != "":
			return errors.New(answer.Error)
		case result == nil:
			return nil
		}
		return json.Unmarshal(answer.Result, result)
	case <-time.After(callTimeout):
		return fmt.Errorf("%s has not returned within %v", name, callTimeout)
	}
}
