// Sticky shows a balancer of one's own: it keeps each client on its backend by a
// cookie, which is set in the hook of wsproxy.WithResponse.
//
//	go run ./examples/sticky
//
// Clients with cookie jars come, and come again after a backend was added, and
// after one was removed. The program prints who landed where and who moved, and
// its exit status is 0 only if nobody moved who could have stayed.
//
// Look at balancer.go. The rest is clients and backends.
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

const timeout = 30 * time.Second // for everything

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sticky:", err)
		os.Exit(1)
	}
}

// run plays three rounds, and returns an error if one did not go as it should.
func run(ctx context.Context, out io.Writer) error {
	s, err := newService("A", "B")
	if err != nil {
		return err
	}
	defer s.close()

	fmt.Fprintln(out, "Backends A and B; six clients come for the first time.")
	regulars, err := newClients("ann", "ben", "cleo", "dan", "eva", "finn")
	if err != nil {
		return err
	}
	if err := s.round(ctx, out, regulars); err != nil {
		return err
	}

	fmt.Fprintln(out, "\nBackend C is added; the six come again, and six more with them.")
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

	fmt.Fprintln(out, "\nBackend A is removed; all come again. Only its clients can move.")
	if err := s.remove("A"); err != nil {
		return err
	}
	return s.round(ctx, out, all)
}

// A service is a proxy with the sticky balancer, and the backends that it may use.
type service struct {
	proxy    *wsproxy.Proxy
	server   *http.Server
	backends []wsproxy.BackendConfig
	running  []*http.Server // of the backends, removed ones included
}

func newService(backends ...string) (*service, error) {
	balancer := newSticky([]byte(rand.Text())) // a real one reads its key from where its replicas do
	proxy, err := wsproxy.New(
		wsproxy.WithBackends(), // none yet
		wsproxy.WithBalancer(balancer),
		wsproxy.WithResponse(balancer.setCookie),
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

// add starts a backend and tells the proxy. Tunnels that are open stay open.
func (s *service) add(id string) error {
	server, err := serve(greeter(id))
	if err != nil {
		return err
	}
	s.running = append(s.running, server)
	s.backends = append(s.backends, wsproxy.BackendConfig{ID: id, URL: "http://" + server.Addr})
	return s.proxy.SetBackends(s.backends...)
}

// remove takes a backend out of the set. It would keep the tunnels that it has.
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

// round lets the clients come, all at the same time, and go again. Nobody may
// move whose backend is still there.
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

// serve serves h on a free port until the server is closed. Its Addr tells where.
func serve(h http.Handler) (*http.Server, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Addr: ln.Addr().String(), Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(ln) // ends with Close
	return server, nil
}
