package stacks_test

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/wsproxy/wsproxy/e2e/internal/e2etest"
)

// A client is one of a stack. It runs one order after the other.
type client struct {
	name string
	run  func(testing.TB, order) result
}

// startClients starts one of each stack. They run until the test ends. The directory has the
// files for programs.
func startClients(t *testing.T, dir string) []*client {
	ca := filepath.Join(dir, "ca.pem")
	clients := []*client{
		newProgramClient("Chromium", e2etest.StartNode(t, "browser-client.js")),
		newProgramClient("ws", e2etest.StartNode(t, "ws-client.js", ca)),
		newProgramClient("websockets", e2etest.Start(t, "python3", "websockets_client.py", ca)),
	}
	for _, s := range goStacks {
		clients = append(clients, &client{s.name, func(_ testing.TB, o order) result { return s.run(o) }})
	}
	return clients
}

// newProgramClient returns the client that a program is: orders are lines of its input, results
// those of its output.
func newProgramClient(name string, p *e2etest.Program) *client {
	isLost := false // it has not answered an order
	return &client{name, func(t testing.TB, o order) (r result) {
		t.Helper()
		if isLost {
			t.Fatalf("%s has stopped before", name)
		}
		isLost = true
		if err := json.NewEncoder(p.Stdin).Encode(o); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		line := p.Line(t)
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%s: %v in %q", name, err, line)
		}
		isLost = false
		return r
	}}
}
