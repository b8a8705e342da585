package stacks_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
)

// results has what has come of all tunnels.
type results struct {
	mu       sync.Mutex
	numOK    int // guarded by mu, as are the tables
	byServer *table
	byRoute  *table // of clients
	ofServer *table // by route
	byClient *table // of cases
	onServer *table // of cases
}

func newResults(clients []*client, servers []*server) *results {
	var clientNames, serverNames, routeNames, caseNames []string
	for _, c := range clients {
		clientNames = append(clientNames, c.name)
	}
	for _, s := range servers {
		serverNames = append(serverNames, s.name)
	}
	for _, r := range routes {
		routeNames = append(routeNames, r.String())
	}
	for _, c := range cases {
		caseNames = append(caseNames, c.name)
	}
	return &results{
		byServer: newTable("client, server", clientNames, serverNames),
		byRoute:  newTable("client, route", clientNames, routeNames),
		ofServer: newTable("server, route", serverNames, routeNames),
		byClient: newTable("case, client", caseNames, clientNames),
		onServer: newTable("case, server", caseNames, serverNames),
	}
}

// add adds what has come of a tunnel.
func (r *results) add(m meeting, c testCase, isOK bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if isOK {
		r.numOK++
	}
	if m.route == plain {
		r.byServer.add(m.client.name, m.server.name, isOK)
	}
	if m.server.name == commonServer {
		r.byRoute.add(m.client.name, m.route.String(), isOK)
	}
	if m.client.name == commonClient {
		r.ofServer.add(m.server.name, m.route.String(), isOK)
	}
	r.byClient.add(c.name, m.client.name, isOK)
	r.onServer.add(c.name, m.server.name, isOK)
}

// check returns an error unless each case was run with each stack, but for those that the stack
// has no function for.
func (r *results) check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.byClient.check(clientCannot), r.onServer.check(serverCannot))
}

func (r *results) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprintf("%d tunnels were as they should.\n\nEach client with each server, %s:\n\n%s\n"+
		"Each client with the server of %s:\n\n%s\nEach server with the client of %s:\n\n%s\n"+
		"Cases of clients:\n\n%s\nCases of servers:\n\n%s", r.numOK, plain, r.byServer,
		commonServer, r.byRoute, commonClient, r.ofServer, r.byClient, r.onServer)
}

// A table counts tunnels.
type table struct {
	corner     string
	rows, cols []string
	cells      map[[2]string]cell
}

// A cell counts the tunnels of a row and a column.
type cell struct{ numOK, numFailed int }

func newTable(corner string, rows, cols []string) *table {
	return &table{corner, rows, cols, make(map[[2]string]cell)}
}

func (t *table) add(row, col string, isOK bool) {
	c := t.cells[[2]string{row, col}]
	if isOK {
		c.numOK++
	} else {
		c.numFailed++
	}
	t.cells[[2]string{row, col}] = c
}

// check is that of results, for a table with the stacks as its columns.
func (t *table) check(cannot map[string]map[string]string) error {
	numEmpty, numCannot := 0, 0
	for _, stack := range t.cols {
		for _, name := range t.rows {
			if t.cells[[2]string{name, stack}] != (cell{}) {
				continue
			}
			if numEmpty++; cannot[stack][name] == "" {
				return fmt.Errorf("%s: %s was not run", stack, name)
			}
		}
	}
	for _, reasons := range cannot {
		numCannot += len(reasons)
	}
	if numEmpty != numCannot {
		return fmt.Errorf("%d cases were not run; %d are said to be impossible", numEmpty, numCannot)
	}
	return nil
}

// String returns the table in the format of Markdown.
func (t *table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | %s |\n", t.corner, strings.Join(t.cols, " | "))
	b.WriteString("|---|" + strings.Repeat(":---:|", len(t.cols)) + "\n")
	for _, row := range t.rows {
		fmt.Fprintf(&b, "| %s |", row)
		for _, col := range t.cols {
			fmt.Fprintf(&b, " %s |", t.cells[[2]string{row, col}])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (c cell) String() string {
	switch {
	case c.numFailed > 0:
		return fmt.Sprintf("%d of %d FAILED", c.numFailed, c.numFailed+c.numOK)
	case c.numOK > 0:
		return "ok"
	}
	return "–"
}
