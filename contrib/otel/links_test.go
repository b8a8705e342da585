package wsotel

import (
	"math/rand/v2"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

// numLinks returns the number of links, and the number that there is room for.
func (l *links) numLinks() (n, room int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, shard := range l.shards {
		n, room = n+len(shard), room+cap(shard)
	}
	return n, room
}

// sampled returns a span context that is another one for each number.
func sampled(n uint64) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{15: 1, 7: byte(n), 6: byte(n >> 8)}, SpanID: trace.SpanID{7: 1, 0: byte(n), 1: byte(n >> 8)},
		TraceFlags: trace.FlagsSampled,
	})
}

func TestLinksReturnWhatWasAddedOnce(t *testing.T) {
	const seed = 16
	r := rand.New(rand.NewPCG(seed, seed))
	var l links
	open := make(map[uint64]bool)
	for range 50_000 {
		id := r.Uint64N(5000)
		if _, ok := l.take(id); ok != open[id] {
			t.Fatalf("take(%d) = %t; want %t", id, ok, open[id])
		}
		delete(open, id)
		if r.IntN(3) > 0 {
			l.add(id, sampled(id))
			open[id] = true
		}
	}
	for id := range open {
		if got, ok := l.take(id); !ok || !got.Equal(sampled(id)) {
			t.Fatalf("take(%d) = %v, %t; want %v", id, got, ok, sampled(id))
		}
	}
	if n, room := l.numLinks(); n != 0 || room != 0 {
		t.Errorf("%d links are left, and room for %d; want none", n, room)
	}
}

// The room is that of a shard: an eighth above what is used, a quarter after some were taken.
func TestLinksHaveLittleRoom(t *testing.T) {
	var l links
	want := func(most float64) {
		t.Helper()
		if n, room := l.numLinks(); n >= 4096 && float64(room) > most*float64(n) {
			t.Fatalf("%d links have room for %d; want at most %.2f of them", n, room, most)
		}
	}
	for id := range uint64(20_000) {
		l.add(id, sampled(id))
		want(1.2)
	}
	for id := range uint64(16_000) {
		l.take(id)
		want(1.4)
	}
}

func TestClosedLinksKeepNothing(t *testing.T) {
	var l links
	l.add(1, sampled(1))
	l.close()
	l.add(2, sampled(2))
	if n, room := l.numLinks(); n != 0 || room != 0 {
		t.Errorf("closed links have %d, and room for %d; want none", n, room)
	}
}
