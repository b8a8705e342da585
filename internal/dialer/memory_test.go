package dialer

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// at returns a time in a test.
func at(d time.Duration) time.Time { return time.Unix(1e9, 0).Add(d) }

// addrs returns the addresses that letters stand for: 10.0.0.97:80 for "a".
func addrs(letters string) []netip.AddrPort {
	var all []netip.AddrPort
	for _, c := range []byte(letters) {
		all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, c}), 80))
	}
	return all
}

// letters is the inverse of addrs.
func letters(addrs []netip.AddrPort) string {
	var s strings.Builder
	for _, a := range addrs {
		s.WriteByte(a.Addr().As4()[3])
	}
	return s.String()
}

func TestMemoryPutsFailedAddressesLast(t *testing.T) {
	type event struct {
		at     time.Duration
		failed string // of these addresses a dial failed
		worked string // and of these it succeeded
	}
	for _, tt := range []struct {
		name   string
		events []event
		addrs  string
		now    time.Duration
		good   string // in any order
		last   string // in this order
	}{
		{"no failure", nil, "abc", 0, "abc", ""},
		{"one failure", []event{{failed: "b"}}, "abc", 0, "ac", "b"},
		{"just before 30 s", []event{{failed: "b"}}, "abc", 30*time.Second - 1, "ac", "b"},
		{"after 30 s", []event{{failed: "b"}}, "abc", 30 * time.Second, "abc", ""},
		{"a further failure", []event{{failed: "b"}, {at: 20 * time.Second, failed: "b"}}, "abc", 49 * time.Second, "ac", "b"},
		{"oldest failure first", []event{{failed: "c"}, {at: 1, failed: "a"}, {at: 2, failed: "b"}}, "abcd", 3, "d", "cab"},
		{"all failed", []event{{failed: "b"}, {at: 1, failed: "a"}}, "ab", 2, "", "ba"},
		{"success after a failure", []event{{failed: "ab"}, {at: 1, worked: "a"}}, "abc", 2, "ac", "b"},
		{"failure of another name", []event{{failed: "z"}}, "abc", 1, "abc", ""},
		{"one address", []event{{failed: "a"}}, "a", 1, "", "a"},
		{"no address", nil, "", 0, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMemory(1)
			for _, e := range tt.events {
				for _, a := range addrs(e.failed) {
					m.recordFailure(a, at(e.at))
				}
				for _, a := range addrs(e.worked) {
					m.recordSuccess(a)
				}
			}
			given := addrs(tt.addrs)
			got := letters(m.order(given, at(tt.now)))
			if n := len(tt.good); len(got) != len(tt.addrs) || sorted(got[:n]) != tt.good || got[n:] != tt.last {
				t.Errorf("order(%s) is %s; want %s in any order, then %q", tt.addrs, got, tt.good, tt.last)
			}
			if letters(given) != tt.addrs {
				t.Errorf("order changed its argument from %s to %s", tt.addrs, letters(given))
			}
		})
	}
}

func sorted(s string) string {
	b := []byte(s)
	slices.Sort(b)
	return string(b)
}

func TestMemoryDistinguishesPorts(t *testing.T) {
	m := newMemory(1)
	a := addrs("a")[0]
	m.recordFailure(netip.AddrPortFrom(a.Addr(), 81), at(0))
	if m.hasFailed(a, at(0)) {
		t.Errorf("after a failure of port 81 of %v the memory says that %v has failed", a.Addr(), a)
	}
}

func TestMemoryBeginsEquallyOftenWithEachGoodAddress(t *testing.T) {
	for _, tt := range []struct{ addrs, failed, good string }{
		{"ab", "", "ab"}, {"abc", "", "abc"}, {"abcd", "d", "abc"}, {"abcdef", "be", "acdf"},
	} {
		m := newMemory(7)
		for _, a := range addrs(tt.failed) {
			m.recordFailure(a, at(0))
		}
		firsts := make(map[string]int)
		for range 300 {
			firsts[letters(m.order(addrs(tt.addrs), at(0))[:1])]++
		}
		for _, a := range strings.Split(tt.good, "") {
			if want := 300 / len(tt.good); firsts[a] != want {
				t.Errorf("300 orders of %s, %q failed: %s is first %d times; want %d", tt.addrs, tt.failed, a, firsts[a], want)
			}
		}
	}
}

// Names take turns from one counter. No name may be pinned by that.
func TestMemoryBalancesSeveralNames(t *testing.T) {
	m := newMemory(7)
	names := []string{"ab", "cd", "efg"}
	firsts := make(map[string]int)
	for i := range 1800 {
		firsts[letters(m.order(addrs(names[i%3]), at(0))[:1])]++
	}
	for _, name := range names {
		for _, a := range strings.Split(name, "") {
			if got, want := firsts[a], 600/len(name); got < want*8/10 || got > want*12/10 {
				t.Errorf("600 orders of %s, by turns with other names: %s is first %d times; want about %d", name, a, got, want)
			}
		}
	}
}

func TestMemoryOrdersAtRandom(t *testing.T) {
	m := newMemory(7)
	orders := make(map[string]int)
	for range 600 {
		orders[letters(m.order(addrs("abc"), at(0)))]++
	}
	for _, o := range []string{"abc", "acb", "bac", "bca", "cab", "cba"} {
		if n := orders[o]; n < 70 || n > 130 {
			t.Errorf("of 600 orders %d are %s; want about 100 of each: %v", n, o, orders)
		}
	}
	var first [2]string
	for i := range first {
		m := newMemory(uint64(i))
		for range 10 {
			first[i] += letters(m.order(addrs("abcdef"), at(0)))
		}
	}
	if first[0] == first[1] {
		t.Errorf("with two seeds the first orders are the same: %s", first[0])
	}
}

// A name server may give the addresses in another order each time.
func TestMemoryOrderDoesNotDependOnItsArgument(t *testing.T) {
	m, n := newMemory(7), newMemory(7)
	for i, given := range []string{"abc", "cab", "bca", "cba", "acb"} {
		want := letters(m.order(addrs("abc"), at(0)))
		if got := letters(n.order(addrs(given), at(0))); got != want {
			t.Errorf("order %d of %s is %s; want %s, as that of abc", i, given, got, want)
		}
	}
}

func TestMemoryBoundsItsFailures(t *testing.T) {
	address := func(i int) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(i)) }
	for _, tt := range []struct {
		name string
		step time.Duration // between two failures
	}{
		{"at once", 0}, {"in some seconds", time.Millisecond}, {"in an hour", time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMemory(1)
			const numFailures = maxFailures + 200
			var now time.Time
			for i := range numFailures {
				now = at(time.Duration(i) * tt.step)
				m.recordFailure(address(i), now)
				if len(m.failed) > maxFailures {
					t.Fatalf("after %d failures the memory has %d; want at most %d", i+1, len(m.failed), maxFailures)
				}
				if !m.hasFailed(address(i), now) {
					t.Fatalf("the memory has forgotten failure %d at once", i+1)
				}
			}
			if tt.step == time.Millisecond && !m.hasFailed(address(numFailures-maxFailures), now) {
				t.Errorf("of %d failures the memory has forgotten one of the last %d", numFailures, maxFailures)
			}
		})
	}
}
