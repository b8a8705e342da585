//go:build linux

package process_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// What the kernel says of a connection that was reset it says again and again to
// who does not listen.
func TestTunnelUsesNoCPUTimeAfterReset(t *testing.T) {
	scenes := []stalled{
		{name: "client paused", side: sideClient, isPaused: true},
		{name: "backend paused", side: sideBackend, isPaused: true},
		{name: "client half-closed", side: sideClient, isHalfClosed: true, isFlooded: true},
		{name: "backend half-closed", side: sideBackend, isHalfClosed: true, isFlooded: true},
		{name: "client paused and half-closed", side: sideClient, isPaused: true, isHalfClosed: true},
		{name: "backend paused and half-closed", side: sideBackend, isPaused: true, isHalfClosed: true},
		{name: "both paused, client half-closed", side: sideClient, isPaused: true, isFlooded: true, isHalfClosed: true},
		{name: "both paused, backend half-closed", side: sideBackend, isPaused: true, isFlooded: true, isHalfClosed: true},
	}
	const periods, period = 8, 250 * time.Millisecond
	var flooding sync.WaitGroup
	for i := range scenes {
		scenes[i].open(t)
		flooding.Go(func() { scenes[i].flood(t) })
	}
	flooding.Wait()
	for _, s := range scenes { // all at the same time: they have a process each
		s.reset()
		s.proxy.Tell("cpu", periods, period.Milliseconds())
	}
	for _, s := range scenes {
		var micros []int64
		s.proxy.Answer("cpu", &micros)
		wantIdle(t, s.name, micros, period)
	}
}

const sideClient, sideBackend = 0, 1

// A stalled is a tunnel in a process of its own, where a leftover waits for one of
// the peers or for both.
type stalled struct {
	name         string
	side         int  // who is reset
	isPaused     bool // it floods the other, and so is not read any more
	isFlooded    bool // the other floods it
	isHalfClosed bool // it ends its stream before

	proxy *proxytest.Child
	peers [2]*wstest.Peer
}

func (s *stalled) open(t *testing.T) {
	t.Helper()
	b := wstest.StartBackend(t)
	s.proxy = proxytest.StartChild(t, "proxy")
	var url string
	s.proxy.Ask(&url, "serve", b.URL())
	s.peers[sideClient], s.peers[sideBackend] = proxytest.OpenThrough(t, url, b)
}

func (s *stalled) flood(t *testing.T) {
	keys := [2]*[4]byte{{}, nil}
	var flooding sync.WaitGroup
	flood := func(from int) {
		f := &flooder{conn: s.peers[from].Conn(), flood: floods(keys[from])["big messages"]}
		flooding.Go(func() { f.untilStalled(t) })
	}
	if s.isPaused {
		flood(s.side)
	}
	if s.isFlooded {
		flood(1 - s.side)
	}
	flooding.Wait()
}

func (s *stalled) reset() {
	p := s.peers[s.side]
	if s.isHalfClosed {
		p.CloseWrite()
	}
	p.Reset()
}

// wantIdle wants less than 5 ms of CPU time a second. What is done once, such as to
// discard what is left, is in one or two of the periods: it does not count.
func wantIdle(t *testing.T, name string, micros []int64, period time.Duration) {
	t.Helper()
	most := 5 * time.Millisecond
	if proxytest.IsRace {
		most *= 3 // the detector makes code slower, not calls of the system
	}
	t.Logf("%s: %d µs of CPU time in periods of %v", name, micros, period)
	slices.Sort(micros)
	counted := micros[:len(micros)-2]
	var took time.Duration
	for _, m := range counted {
		took += time.Duration(m) * time.Microsecond
	}
	if rate := took * time.Second / (time.Duration(len(counted)) * period); rate > most {
		t.Errorf("%s: takes %v of CPU time a second; want at most %v", name, rate, most)
	}
}
