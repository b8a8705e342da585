package wsproxy_test

import (
	"fmt"
	"testing"

	"github.com/wsproxy/wsproxy"
)

// An engine is a way to relay, with the options that make a proxy use it. What is
// tested over each of engines here is what takes a whole proxy; the rest of the
// suite is in internal/relay.
type engine struct {
	name string
	opts []wsproxy.Option
}

var engines = []engine{
	{name: "default"}, // the one that the proxy chooses for plain sockets
	{name: "portable", opts: []wsproxy.Option{wsproxy.WithPortableEngine()}},
}

// engineNamed is for child processes.
func engineNamed(t testing.TB, name string) engine {
	t.Helper()
	for _, e := range engines {
		if e.name == name {
			return e
		}
	}
	t.Fatalf("there is no engine %q", name)
	return engine{}
}

// with returns the options of a proxy that uses e.
func (e engine) with(opts ...wsproxy.Option) []wsproxy.Option {
	return append(append([]wsproxy.Option{}, e.opts...), opts...)
}

func forEachEngine(t *testing.T, test func(t *testing.T, e engine)) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) { test(t, e) })
	}
}

// forEachWay runs test over each engine, blocking and detached.
func forEachWay(t *testing.T, test func(t *testing.T, e engine)) {
	forEachEngine(t, func(t *testing.T, e engine) {
		for _, detached := range []bool{false, true} {
			t.Run(fmt.Sprintf("detached %t", detached), func(t *testing.T) {
				test(t, engine{e.name, e.with(wsproxy.WithDetached(detached))})
			})
		}
	})
}
