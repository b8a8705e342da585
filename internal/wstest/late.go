package wstest

import (
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// The program's lateness: how much longer than a millisecond two goroutines have taken, in
// all, for a byte from one to the other and back, 200 times a second. On a machine with
// too much to do that is most of the time.
var late struct {
	mu   sync.Mutex
	at   []time.Time     // when a byte came back late, in order
	sums []time.Duration // lateness up to then
}

// MeasureLateness begins to measure the program's lateness, for [Took]. Its goroutines and
// descriptors stay until the program ends: a TestMain calls it once, before it looks for
// leaks.
func MeasureLateness() {
	there, fromHere, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	here, fromThere, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	go io.Copy(fromThere, struct{ io.Reader }{there})
	go measureLateness(here, fromHere)
}

func measureLateness(here io.Reader, fromHere io.Writer) {
	for b := make([]byte, 1); ; time.Sleep(5 * time.Millisecond) {
		start := time.Now()
		fromHere.Write(b)
		here.Read(b)
		end := time.Now()
		if d := end.Sub(start) - time.Millisecond; d > 0 {
			addLateness(end, d)
		}
	}
}

func addLateness(at time.Time, d time.Duration) {
	late.mu.Lock()
	defer late.mu.Unlock()
	if n := len(late.sums); n > 0 {
		d += late.sums[n-1]
	}
	late.at, late.sums = append(late.at, at), append(late.sums, d)
}

// numWaits is how often something goes from one goroutine to another, as that byte does,
// until a test sees it: from a peer to the proxy, to the other peer, to the test.
const numWaits = 3

// Took returns how long something took from start to end, less the time for which
// goroutines were kept waiting. It is for upper bounds of tests on sockets, which would
// otherwise fail on a machine with too much else to do; there they say nothing.
func Took(start, end time.Time) time.Duration {
	return max(end.Sub(start)-numWaits*(latenessUntil(end)-latenessUntil(start)), 0)
}

func latenessUntil(t time.Time) time.Duration {
	late.mu.Lock()
	defer late.mu.Unlock()
	n, isThere := slices.BinarySearchFunc(late.at, t, time.Time.Compare)
	if isThere {
		n++
	}
	if n == 0 {
		return 0
	}
	return late.sums[n-1]
}
