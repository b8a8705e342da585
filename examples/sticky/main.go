// Sticky shows clients that come back to the same backend: by wsproxy.WithAffinity, and
// together with a custom balancer, which chooses where they begin.
//
//	go run ./examples/sticky
//
// Clients with cookie jars connect, and connect again after a backend was added and
// after one was removed. Then clients of two regions connect to backends of these regions, and
// connect again from the other region. The program prints the backend of each client, and the
// clients that moved. Its exit status is 0 only if no client moved while its backend
// was still there.
//
// See newService for the option, and balancer.go for the balancer. The other files are clients
// and backends.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/wsproxy/wsproxy"
)

const timeout = 30 * time.Second // for the whole program

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sticky:", err)
		os.Exit(1)
	}
}

// run performs both parts, and returns an error if the result of one is wrong.
func run(ctx context.Context, out io.Writer) error {
	if err := runAffinity(ctx, out); err != nil {
		return err
	}
	return runBalancer(ctx, out)
}

// runAffinity performs three rounds with a set of backends that changes.
func runAffinity(ctx context.Context, out io.Writer) error {
	s, err := newService(wsproxy.LeastTunnels(), "A", "B")
	if err != nil {
		return err
	}
	defer s.close()

	fmt.Fprintln(out, "Backends A and B. Six clients connect for the first time.")
	regulars, err := newClients("ann", "ben", "cleo", "dan", "eva", "finn")
	if err != nil {
		return err
	}
	if err := s.round(ctx, out, regulars); err != nil {
		return err
	}

	fmt.Fprintln(out, "\nBackend C is added. The six connect again, and six new clients.")
	newcomers, err := newClients("gus", "hana", "ivo", "joy", "kim", "lea")
	if err != nil {
		return err
	}
	if err := s.add("C"); err != nil {
		return err
	}
	all := slices.Concat(regulars, newcomers)
	if err := s.round(ctx, out, all); err != nil {
		return err
	}
	if !slices.ContainsFunc(newcomers, func(c *client) bool { return c.backend == "C" }) {
		return errors.New("no newcomer reached backend C")
	}

	fmt.Fprintln(out, "\nBackend A is removed. All connect again. Only its clients can move.")
	if err := s.remove("A"); err != nil {
		return err
	}
	return s.round(ctx, out, all)
}

// runBalancer performs two rounds with clients of two regions, which then travel.
func runBalancer(ctx context.Context, out io.Writer) error {
	s, err := newService(newRegional(), "eu-1", "eu-2", "us-1")
	if err != nil {
		return err
	}
	defer s.close()

	fmt.Fprintln(out, "\nBackends eu-1, eu-2 and us-1. Four clients in Europe connect, and two in America.")
	clients, err := newClients("ann", "ben", "cleo", "dan", "eva", "finn")
	if err != nil {
		return err
	}
	for i, c := range clients {
		c.region = "eu"
		if i >= 4 {
			c.region = "us"
		}
	}
	if err := s.round(ctx, out, clients); err != nil {
		return err
	}
	for _, c := range clients {
		if !strings.HasPrefix(c.backend, c.region) {
			return fmt.Errorf("%s is in %s, and has reached backend %s", c.name, c.region, c.backend)
		}
	}

	fmt.Fprintln(out, "\nThey travel to the other region, and connect again.")
	for _, c := range clients {
		c.region = map[string]string{"eu": "us", "us": "eu"}[c.region]
	}
	return s.round(ctx, out, clients)
}

// A service is a proxy with affinity, and the backends that it may use.
type service struct {
	proxy    *wsproxy.Proxy
	server   *http.Server
	backends []wsproxy.BackendConfig
	running  []*http.Server // of the backends, removed ones included
}

// newService returns a service whose clients come back to the backend that the balancer has
// chosen for them.
func newService(balancer wsproxy.Balancer, backends ...string) (*service, error) {
	key := []byte(rand.Text()) // a real service gives all its replicas the same key
	proxy, err := wsproxy.New(
		wsproxy.WithBackends(), // none yet
		wsproxy.WithBalancer(balancer),
		wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{key}}),
	)
	if err != nil {
		return nil, err
	}
	s := &service{proxy: proxy}
	for _, id := range backends {
		if err := s.add(id); err != nil {
			return nil, err
		}
	}
	s.server, err = serve(proxy)
	return s, err
}

// add starts a backend and adds it to the proxy. Open tunnels stay open.
func (s *service) add(id string) error {
	server, err := serve(greeter(id))
	if err != nil {
		return err
	}
	s.running = append(s.running, server)
	s.backends = append(s.backends, wsproxy.BackendConfig{ID: id, URL: "http://" + server.Addr})
	return s.proxy.SetBackends(s.backends...)
}

// remove removes a backend from the proxy. Its open tunnels would stay open.
func (s *service) remove(id string) error {
	s.backends = slices.DeleteFunc(s.backends, func(b wsproxy.BackendConfig) bool { return b.ID == id })
	return s.proxy.SetBackends(s.backends...)
}

func (s *service) close() {
	s.server.Close()
	s.proxy.Close()
	for _, b := range s.running {
		b.Close()
	}
}

// round connects all clients, and disconnects them when all are connected. It
// returns an error if a client has moved though its backend is still there.
func (s *service) round(ctx context.Context, out io.Writer, clients []*client) error {
	var moved []string
	for _, c := range clients {
		before := c.backend
		if err := c.visit(ctx, "http://"+s.server.Addr); err != nil {
			return err
		}
		defer c.leave() // after the round
		if before == "" || before == c.backend {
			continue
		}
		moved = append(moved, fmt.Sprintf("%s (from %s to %s)", c.name, before, c.backend))
		if s.has(before) {
			return fmt.Errorf("%s moved from backend %s to %s, though it had a cookie", c.name, before, c.backend)
		}
	}
	for _, b := range s.backends {
		fmt.Fprintf(out, "  %s: %s\n", b.ID, strings.Join(namesOn(b.ID, clients), ", "))
	}
	fmt.Fprintf(out, "  moved: %s\n", orNobody(moved))
	return nil
}

func (s *service) has(id string) bool {
	return slices.ContainsFunc(s.backends, func(b wsproxy.BackendConfig) bool { return b.ID == id })
}

func namesOn(backend string, clients []*client) []string {
	var names []string
	for _, c := range clients {
		if c.backend == backend {
			names = append(names, c.name)
		}
	}
	return names
}

func orNobody(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}

// serve serves h on a free port until the server is closed. The server's Addr is
// the address of its listener.
func serve(h http.Handler) (*http.Server, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Addr: ln.Addr().String(), Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(ln) // ends with Close
	return server, nil
}
