package wsotel

import (
	"slices"
	"sync"

	"go.opentelemetry.io/otel/trace"
)

// links are the span contexts of the upgrades that have opened tunnels, until these are closed.
// One needs 32 bytes, and on average less than 10 that are free, for any number of tunnels: a map
// needs between 38 and 75.
type links struct {
	mu       sync.Mutex
	isClosed bool
	shards   [numShards][]link // by the tunnel's ID; each in ascending order
}

const numShards = 256

// A link is the span context of an upgrade that was sampled. It has no pointer, and no trace state.
type link struct {
	tunnel uint64 // its ID
	trace  trace.TraceID
	span   trace.SpanID
}

// add adds the link of a tunnel.
func (l *links) add(tunnel uint64, upgrade trace.SpanContext) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		return
	}
	shard := &l.shards[tunnel%numShards]
	if len(*shard) == cap(*shard) {
		*shard = resized(*shard)
	}
	at, _ := slices.BinarySearchFunc(*shard, tunnel, compareID)
	*shard = slices.Insert(*shard, at, link{tunnel, upgrade.TraceID(), upgrade.SpanID()})
}

// take removes the link of a tunnel. It returns false if there is none.
func (l *links) take(tunnel uint64) (upgrade trace.SpanContext, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	shard := &l.shards[tunnel%numShards]
	at, ok := slices.BinarySearchFunc(*shard, tunnel, compareID)
	if !ok {
		return trace.SpanContext{}, false
	}
	found := (*shard)[at]
	*shard = slices.Delete(*shard, at, at+1)
	if n := len(*shard); n == 0 {
		*shard = nil
	} else if cap(*shard) > 2+n+n/4 {
		*shard = resized(*shard)
	}
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: found.trace, SpanID: found.span, TraceFlags: trace.FlagsSampled,
	}), true
}

// close removes all links, and those that are added later.
func (l *links) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.isClosed = true
	l.shards = [numShards][]link{}
}

func compareID(l link, tunnel uint64) int {
	switch {
	case l.tunnel < tunnel:
		return -1
	case l.tunnel > tunnel:
		return 1
	}
	return 0
}

// resized returns a copy with room for an eighth more, and for one.
func resized(shard []link) []link {
	n := len(shard)
	return append(make([]link, 0, n+n/8+1), shard...)
}
