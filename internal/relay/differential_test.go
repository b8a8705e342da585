package relay

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// FuzzScriptsArriveAsTheSameBytes sends random scripts of frames in both
// directions at once, split in any way, over any network, and wants the same
// bytes to arrive.
func FuzzScriptsArriveAsTheSameBytes(f *testing.F) {
	for i := range uint64(12) {
		f.Add(i, byte(i), byte(i/3), byte(i))
	}
	f.Fuzz(func(t *testing.T, seed uint64, length, splits, onNetwork byte) {
		for _, e := range engines {
			n := networks[int(onNetwork)%len(networks)]
			if n.isSockets || !e.needsSockets {
				runScripts(t, e, n, rand.New(rand.NewPCG(seed, 2)), int(length)%40, splits)
			}
		}
	})
}

func TestRandomScriptsArriveAsTheSameBytes(t *testing.T) {
	const rounds = 8
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		for round := range rounds {
			seed := rand.Uint64()
			t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
				runScripts(t, e, n, rand.New(rand.NewPCG(seed, 2)), 10+round, byte(round))
			})
		}
	})
}

func runScripts(t *testing.T, e engine, n network, random *rand.Rand, length int, splits byte) {
	fromClient, fromBackend := script(Client, random, length), script(Backend, random, length)
	earlyC, earlyB := random.IntN(len(fromClient)), random.IntN(len(fromBackend))
	s := e.start(t, n, setup{
		Config:     Config{Deflate: true},
		fromClient: fromClient[:earlyC], fromBackend: fromBackend[:earlyB],
	})
	seed := random.Uint64()
	var wg sync.WaitGroup
	wg.Go(func() { send(t, s.client, fromClient[earlyC:], rand.New(rand.NewPCG(seed, 3)), splits) })
	wg.Go(func() { send(t, s.backend, fromBackend[earlyB:], rand.New(rand.NewPCG(seed, 4)), splits) })
	wg.Go(func() { wantSame(t, s.backend, fromClient) })
	wg.Go(func() { wantSame(t, s.client, fromBackend) })
	wg.Wait()
	s.client.Conn().Close()
	s.backend.Conn().Close()
	if end := s.wait(); end.Cause != CauseClosed || end.Cut {
		t.Errorf("ended with %+v; want it closed by a side", end)
	}
}

// script returns the bytes of random frames, and a Close frame.
func script(from Side, random *rand.Rand, length int) []byte {
	var b []byte
	add := func(f wstest.Frame) {
		if from == Backend {
			b = wstest.AppendFrame(b, f, nil)
			return
		}
		b = wstest.AppendFrame(b, f, &[4]byte{byte(random.Uint32()), byte(random.Uint32()), 3, 4})
	}
	control := func() {
		payload := make([]byte, random.IntN(126))
		add(wstest.Frame{Fin: true, Opcode: wstest.OpPing + byte(random.IntN(2)), Payload: payload})
	}
	for range length {
		f := wstest.Frame{Opcode: wstest.OpText + byte(random.IntN(2)), RSV: 4 * byte(random.IntN(2))}
		for fragments := 1 + max(0, random.IntN(6)-2); fragments > 0; fragments-- {
			f.Fin = fragments == 1
			f.Payload = payload(random)
			add(f)
			if random.IntN(3) == 0 {
				control()
			}
			f.Opcode, f.RSV = wstest.OpContinuation, 0
		}
	}
	add(wstest.Close(1000, "bye"))
	return b
}

// payload returns mostly few bytes, and at times up to 1 MiB.
func payload(random *rand.Rand) []byte {
	most := []int{1, 126, 300, 4 << 10, 70_000}[random.IntN(5)]
	if random.IntN(40) == 0 {
		most = 1<<20 + 1
	}
	b := make([]byte, random.IntN(most))
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// send writes b in pieces: small ones first, so that all splits are seen however
// long b is.
func send(t *testing.T, p *wstest.Peer, b []byte, random *rand.Rand, splits byte) {
	for small := 200; len(b) > 0; small-- {
		most := len(b)
		if small > 0 && splits%4 != 0 {
			most = min(most, 1<<(splits%8))
		}
		n := 1 + random.IntN(most)
		if _, err := p.Write(b[:n]); err != nil {
			t.Errorf("after all but %d bytes: %v", len(b), err)
			return
		}
		b = b[n:]
	}
}

// wantSame wants p to read want, and nothing more for now.
func wantSame(t *testing.T, p *wstest.Peer, want []byte) {
	got := make([]byte, len(want))
	if n, err := io.ReadFull(p, got); err != nil {
		t.Errorf("got %d of %d bytes, then %v", n, len(want), err)
		return
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got %d bytes that differ from what was sent", len(got))
	}
}

// BenchmarkRelay tells what a message costs that goes to the backend and back.
func BenchmarkRelay(b *testing.B) {
	for _, e := range engines {
		for _, n := range networks[:3] {
			for _, size := range []int{128, 64 << 10} {
				b.Run(fmt.Sprintf("%s/%s/%dB", e.name, n.name, size), func(b *testing.B) {
					benchmarkEcho(b, e, n, size)
				})
			}
		}
	}
}

func benchmarkEcho(b *testing.B, e engine, n network, size int) {
	nearClient, client := n.client(b)
	nearBackend, backend := n.backend(b)
	tunnel := e.open(end{conn: nearClient}, end{conn: nearBackend}, Config{})
	done := make(chan struct{})
	go func() {
		tunnel.Run()
		close(done)
	}()
	message := masked(wstest.Binary(make([]byte, size)))
	answer := unmasked(wstest.Binary(make([]byte, size)))
	go func() {
		for got := make([]byte, len(message)); ; {
			if _, err := io.ReadFull(backend, got); err != nil {
				return
			}
			backend.Write(answer)
		}
	}()
	b.SetBytes(int64(2 * size))
	b.ReportAllocs()
	got := make([]byte, len(answer))
	for b.Loop() {
		client.Write(message)
		if _, err := io.ReadFull(client, got); err != nil {
			b.Fatal(err)
		}
	}
	tunnel.Abort(CauseShutdown)
	<-done
	client.Close()
	backend.Close()
}
