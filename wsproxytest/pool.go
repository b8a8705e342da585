package wsproxytest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"

	"github.com/wsproxy/wsproxy"
)

// A pool provides the backends that balancers choose from. Some of them have
// tunnels.
type pool struct {
	configs  []wsproxy.BackendConfig
	all      []*wsproxy.Backend // one for each of configs
	loaded   *wsproxy.Proxy     // the proxy of all
	changing *wsproxy.Proxy     // a proxy whose backends change, with the same configs

	upgrades sync.WaitGroup
	end      context.CancelFunc // ends upgrades
}

// newPool returns a pool. Its backends are not sorted by ID, weight or tunnels, so
// that a balancer that sorts candidates changes their order.
func newPool() (*pool, error) {
	p := new(pool)
	for i := range 1001 {
		p.configs = append(p.configs, wsproxy.BackendConfig{
			URL:    fmt.Sprintf("ws://backend-%d.example", i*7919%1009),
			Weight: 1 + (i+1)%3,
		})
	}
	if err := p.open(); err != nil {
		p.close()
		return nil, fmt.Errorf("wsproxytest: %w", err)
	}
	return p, nil
}

func (p *pool) open() (err error) {
	if p.changing, err = wsproxy.New(wsproxy.WithBackends()); err != nil {
		return err
	}
	dialed := make(chan struct{})
	p.loaded, err = wsproxy.New(
		wsproxy.WithBackendConfigs(p.configs...),
		wsproxy.WithBalancer(wsproxy.BalancerFunc(pickRequested)),
		wsproxy.WithDialer(func(ctx context.Context, _, _ string) (net.Conn, error) {
			dialed <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}),
		wsproxy.WithTimeouts(wsproxy.Timeouts{Handshake: -1}),
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
	)
	if err != nil {
		return err
	}
	p.all = p.loaded.Backends()
	return p.load(dialed)
}

// load begins upgrades at the first twelve backends: 1, 0, 2, 1, 0, 2 and so on.
// An upgrade counts as a tunnel while it dials, and these dial until the pool is
// closed.
func (p *pool) load(dialed <-chan struct{}) error {
	var ctx context.Context
	ctx, p.end = context.WithCancel(context.Background())
	for i, b := range p.all[:12] {
		for range (1 + 2*i) % 3 {
			r := ordinary.new(ctx)
			r.Header.Set("Backend", b.ID())
			refused := make(chan struct{})
			p.upgrades.Go(func() {
				defer close(refused)
				p.loaded.ServeHTTP(discardWriter{}, r)
			})
			select {
			case <-dialed:
			case <-refused:
				return errors.New("an upgrade was refused before its dial")
			}
		}
	}
	return nil
}

func (p *pool) close() {
	for _, proxy := range []*wsproxy.Proxy{p.loaded, p.changing} {
		if proxy != nil {
			proxy.Close()
		}
	}
	if p.end != nil {
		p.end()
	}
	p.upgrades.Wait()
}

// some returns the first n backends. n must be at most 1000.
func (p *pool) some(n int) []*wsproxy.Backend { return p.all[:n] }

// outsider returns a backend that some does not return.
func (p *pool) outsider() *wsproxy.Backend { return p.all[len(p.all)-1] }

// change sets the nth set of backends and returns it. From one set to the next some
// backends stay, some are removed, some are added, and some are added again.
func (p *pool) change(n int) ([]*wsproxy.Backend, error) {
	first := n * 3 % 20
	if err := p.changing.SetBackends(p.configs[first : first+5]...); err != nil {
		return nil, fmt.Errorf("wsproxytest: %w", err)
	}
	return p.changing.Backends(), nil
}

// Which of the backends of flagged have a flag, if it is not the index of one.
const (
	noneFlagged = -1
	allFlagged  = -2
)

// flagged returns four backends with tunnels. The one at index, or all, has the flag f.
func flagged(index int, f wsproxy.Flag) []*wsproxy.Backend {
	backends := make([]Backend, 4)
	for i := range backends {
		backends[i] = Backend{ID: fmt.Sprintf("backend-%d.example", (i+2)%4), Weight: 1 + i%2, NumTunnels: 2 - i%2}
		if i == index || index == allFlagged {
			backends[i].Flags = []wsproxy.Flag{f}
		}
	}
	return NewBackends(backends...)
}

// pickRequested returns the backend that the request's Backend field names.
func pickRequested(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
	isRequested := func(b *wsproxy.Backend) bool { return b.ID() == r.Header.Get("Backend") }
	return candidates[slices.IndexFunc(candidates, isRequested)], nil
}

// discardWriter is the ResponseWriter of an upgrade that never gets a response.
type discardWriter struct{ http.Hijacker }

func (discardWriter) Header() http.Header         { return make(http.Header) }
func (discardWriter) WriteHeader(int)             {}
func (discardWriter) Write(b []byte) (int, error) { return 0, errors.ErrUnsupported }
