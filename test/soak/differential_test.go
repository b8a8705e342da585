package soak_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A proxy changes no byte after the handshake: what a peer receives is the same
// whether there is one or not.
func TestTunnelPassesRandomScriptsUnchanged(t *testing.T) {
	backend := wstest.StartBackend(t)
	p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
	for seed := range uint64(12) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			toBackend, toClient := randomScript(random, true), randomScript(random, false)
			for name, url := range map[string]string{"directly": backend.URL(), "through the proxy": s.URL} {
				gotBackend, gotClient := play(t, url, backend, toBackend, toClient, seed)
				wantBytes(t, "backend "+name, gotBackend, toBackend)
				wantBytes(t, "client "+name, gotClient, toClient)
			}
		})
	}
	s.Wait()
	proxytest.WantNoTunnels(t, p)
	if st := p.Stats(); st.Opened != 12 || st.ToBackend.Messages == 0 || st.ToClient.Messages == 0 {
		t.Errorf("Stats() = %+v; want 12 tunnels, with messages both ways", st)
	}
}

// play opens a WebSocket at url, which leads to backend, sends both scripts at
// once, split at random, and returns what each side received until its end.
func play(t *testing.T, url string, backend *wstest.Backend, toBackend, toClient []byte, seed uint64) (gotBackend, gotClient []byte) {
	t.Helper()
	client := wstest.Dial(t, url)
	client.RequestUpgrade("/chat", http.Header{"Sec-WebSocket-Extensions": {"permessage-deflate"}})
	leg := backend.Accepted(t)
	leg.AcceptUpgrade(http.Header{"Sec-WebSocket-Extensions": {"permessage-deflate"}})
	client.WantUpgrade()
	var running sync.WaitGroup
	send := func(p *wstest.Peer, script []byte, stream uint64) {
		writeSplit(t, p, script, rand.New(rand.NewPCG(seed, stream)))
		if err := p.Conn().(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Errorf("CloseWrite after a script of %d bytes: %v", len(script), err)
		}
	}
	receive := func(p *wstest.Peer, got *[]byte) {
		var err error
		if *got, err = io.ReadAll(p); err != nil {
			t.Errorf("after %d bytes: got error %v; want the end of the stream", len(*got), err)
		}
	}
	running.Go(func() { send(client, toBackend, 2) })
	running.Go(func() { send(leg, toClient, 3) })
	running.Go(func() { receive(leg, &gotBackend) })
	running.Go(func() { receive(client, &gotClient) })
	running.Wait()
	client.Close()
	leg.Close()
	return gotBackend, gotClient
}

// randomScript returns the bytes of random messages, which are fragmented or
// compressed at times and have control frames within and between them, and of a
// Close frame.
func randomScript(random *rand.Rand, isMasked bool) []byte {
	var script []byte
	add := func(f wstest.Frame) {
		if !isMasked {
			script = wstest.AppendFrame(script, f, nil)
			return
		}
		var key [4]byte
		binary.BigEndian.PutUint32(key[:], random.Uint32())
		script = wstest.AppendFrame(script, f, &key)
	}
	for range 5 + random.IntN(20) {
		f := wstest.Frame{Opcode: wstest.OpText + byte(random.IntN(2)), RSV: 4 * byte(random.IntN(2))}
		for left := 1 + max(0, random.IntN(6)-2); left > 0; left-- {
			f.Fin = left == 1
			f.Payload = randomBytes(random, randomSize(random))
			add(f)
			f.Opcode, f.RSV = wstest.OpContinuation, 0
			for random.IntN(3) == 0 {
				add(wstest.Frame{Fin: true, Opcode: wstest.OpPing + byte(random.IntN(2)), Payload: randomBytes(random, random.IntN(126))})
			}
		}
	}
	add(wstest.Close(1000, "bye"))
	return script
}

// randomSize is from 0 B to 1 MiB, often one where the length's form changes, and
// seldom large.
func randomSize(random *rand.Rand) int {
	edges := []int{0, 1, 125, 126, 127, 4095, 4096, 65535, 65536}
	switch n := random.IntN(80); {
	case n == 0:
		return 1 << 20
	case n < 3:
		return random.IntN(1 << 18)
	case n < 25:
		return edges[random.IntN(len(edges))]
	}
	return random.IntN(2000)
}

func randomBytes(random *rand.Rand, n int) []byte {
	b := make([]byte, n, n+8)
	for i := 0; i < n; i += 8 {
		binary.NativeEndian.PutUint64(b[i:i+8], random.Uint64())
	}
	return b
}

// writeSplit writes script in pieces: at first small ones, to split headers, then
// larger ones, to come to an end.
func writeSplit(t *testing.T, p *wstest.Peer, script []byte, random *rand.Rand) {
	for piece := 0; len(script) > 0; piece++ {
		n := min(len(script), 1+random.IntN(1<<min(3+piece/20, 18)))
		if _, err := p.Write(script[:n]); err != nil {
			t.Errorf("with %d bytes to go: %v", len(script), err)
			return
		}
		script = script[n:]
	}
}

// wantBytes compares what a side received.
func wantBytes(t *testing.T, side string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	same := 0
	for same < min(len(got), len(want)) && got[same] == want[same] {
		same++
	}
	t.Errorf("%s got %d bytes, of which %d are as sent; want all %d as sent", side, len(got), same, len(want))
}
