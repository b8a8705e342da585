package wsproxy

import (
	"context"
	"testing"
	"testing/synctest"
)

// The context ends after the last place was given back, and before that was signaled.
func TestDrainThatEndsAsItsBackendEmptiesReturnsNil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(WithBackends("http://a"))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		b := p.Backends()[0]
		b.reserve()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Drain(ctx, b.ID(), 0) }()
		synctest.Wait()
		b.tunnels.Add(-1) // the first half of release
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Drain() = %v of a backend without tunnels; want nil", err)
		}
	})
}
