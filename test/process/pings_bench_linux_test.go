package process_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// BenchmarkIdleTunnelsWithPings measures what 9,000 idle tunnels take whose clients are pinged
// every 25 s, and what they take without pings. It needs 18,000 descriptors.
//
//	go test ./test/process -run '^$' -bench IdleTunnelsWithPings -benchtime 1x
func BenchmarkIdleTunnelsWithPings(b *testing.B) {
	const (
		tunnels  = 9000
		interval = 25 * time.Second
		rest     = 2 * interval
	)
	for _, mode := range []string{memoryBlocking, memoryDetached} {
		for _, ping := range []time.Duration{0, interval} {
			name := mode + "/no pings"
			if ping > 0 {
				name = mode + "/pings"
			}
			b.Run(name, func(b *testing.B) {
				for b.Loop() {
					p := startMemoryProcess(b, mode, wstest.StartEcho(b), memoryPingEnv+"="+ping.String())
					before := p.measure(b)
					c := openAnsweringClients(b, p.url, tunnels)
					time.Sleep(interval) // each has been pinged once
					after := p.measure(b)
					start, cpu, pings := time.Now(), processCPUTime(b, p.pid), c.numPings()
					time.Sleep(rest)
					used, took := processCPUTime(b, p.pid)-cpu, time.Since(start)
					pings = c.numPings() - pings
					c.close()
					b.ReportMetric(float64(used.Nanoseconds())/took.Seconds()/tunnels, "cpu-ns/tunnel/s")
					b.ReportMetric((after.Bytes-before.Bytes)/tunnels, "bytes/tunnel")
					b.ReportMetric(float64(pings)/took.Seconds()*interval.Seconds()/tunnels, "pings/tunnel/25s")
					b.ReportMetric(0, "ns/op")
				}
			})
		}
	}
}

// answeringClients have tunnels that they leave idle, and answer pings.
type answeringClients struct {
	conns   []net.Conn
	reading sync.WaitGroup

	mu    sync.Mutex
	pings int
}

func openAnsweringClients(t testing.TB, url string, n int) *answeringClients {
	c := new(answeringClients)
	for range n {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		c.conns = append(c.conns, conn)
		if _, err := io.WriteString(conn, proxytest.UpgradeTo("/")); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReaderSize(conn, 512)
		for line := ""; line != "\r\n"; {
			if line, err = r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		c.reading.Go(func() { c.answer(conn, r) })
	}
	return c
}

// answer answers pings until the connection is closed.
func (c *answeringClients) answer(conn net.Conn, r *bufio.Reader) {
	for {
		f, err := wstest.ReadFrame(r)
		if err != nil || f.Opcode != wstest.OpPing {
			return
		}
		c.mu.Lock()
		c.pings++
		c.mu.Unlock()
		conn.Write(wstest.AppendFrame(nil, wstest.Pong(string(f.Payload)), &[4]byte{1, 2, 3, 4}))
	}
}

func (c *answeringClients) numPings() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pings
}

func (c *answeringClients) close() {
	for _, conn := range c.conns {
		conn.Close()
	}
	c.reading.Wait()
}
