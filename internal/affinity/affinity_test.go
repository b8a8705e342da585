package affinity

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"
)

// now is the time at which bindings are made in these tests.
const now = 1_800_000_000

const day = 24 * 60 * 60

var (
	secretA = []byte("0123456789abcdef")
	secretB = []byte("fedcba9876543210")
)

// newTestTable returns a table with backends whose IDs are the letters of ids.
func newTestTable(s *Signer, ids string) *Table[string] {
	t := NewTable[string](s, len(ids))
	for _, id := range strings.Split(ids, "") {
		t.Add(s.Hashes(id), id)
	}
	return t
}

func newTestSigner(secrets ...[]byte) *Signer { return New("wsproxy", secrets, day*time.Second) }

func TestFindReturnsBackendOfBinding(t *testing.T) {
	s := newTestSigner(secretA)
	table := newTestTable(s, "abc")
	for _, id := range []string{"a", "b", "c"} {
		value := s.Sign(s.Hashes(id), now)
		if len(value) != ValueLen {
			t.Errorf("value %q has %d bytes; want %d", value, len(value), ValueLen)
		}
		if b, isDue, ok := table.Find(value, now); b != id || isDue || !ok {
			t.Errorf("Find(value of %s) = %q, %t, %t; want it, not due", id, b, isDue, ok)
		}
	}
}

func TestFindIgnoresWhatIsNotItsOwn(t *testing.T) {
	s := newTestSigner(secretA)
	table := newTestTable(s, "abc")
	good := s.Sign(s.Hashes("a"), now)
	otherVersion := func() string {
		raw, _ := base64.RawURLEncoding.DecodeString(good)
		raw[0] = version + 1
		mac := s.keys[0].mac(raw[:bindingLen])
		return base64.RawURLEncoding.EncodeToString(append(raw[:bindingLen], mac[:]...))
	}()
	for _, tt := range []struct{ name, value string }{
		{"empty", ""},
		{"the ID", "a"},
		{"too short", good[1:]},
		{"too long", good + "A"},
		{"oversized", strings.Repeat("A", 1<<20)},
		{"other bytes of the same length", strings.Repeat("A", ValueLen)},
		{"bytes that are no base64url", strings.Repeat("+", ValueLen)},
		{"a line feed in it", good[:10] + "\n" + good[11:]},
		{"padding", good[:ValueLen-1] + "="},
		{"another version", otherVersion},
		{"another secret", newTestSigner(secretB).Sign(newTestSigner(secretB).Hashes("a"), now)},
		{"another name", New("other", [][]byte{secretA}, day*time.Second).Sign(s.Hashes("a"), now)},
		{"a backend that is not in the table", s.Sign(s.Hashes("d"), now)},
		{"the hash of another secret", s.Sign(newTestSigner(secretB).Hashes("a"), now)},
	} {
		if b, _, ok := table.Find(tt.value, now); ok || b != "" {
			t.Errorf("%s: Find() = %q, %t; want nothing", tt.name, b, ok)
		}
	}
	if _, _, ok := table.Find(good, now); !ok {
		t.Error("the value that the others were made of is not found")
	}
}

func TestSignerKnowsWhatItHasSigned(t *testing.T) {
	s := newTestSigner(secretA, secretB)
	changed := []byte(s.Sign(s.Hashes("a"), now))
	changed[20]++
	for _, tt := range []struct {
		name, value string
		want        bool
	}{
		{"a value", s.Sign(s.Hashes("a"), now), true},
		{"by the second secret", newTestSigner(secretB).Sign(newTestSigner(secretB).Hashes("a"), now), true},
		{"about a backend that nobody knows", s.Sign([]Hash{{1, 2, 3}}, now), true},
		{"expired", s.Sign(s.Hashes("a"), now-day), false},
		{"another secret", newTestSigner([]byte("another secret of 24 B.")).Sign(s.Hashes("a"), now), false},
		{"another name", New("other", [][]byte{secretA}, day*time.Second).Sign(s.Hashes("a"), now), false},
		{"changed", string(changed), false},
		{"too short", string(changed[1:]), false},
		{"empty", "", false},
	} {
		if got := s.HasSigned(tt.value, now); got != tt.want {
			t.Errorf("%s: HasSigned() = %t; want %t", tt.name, got, tt.want)
		}
	}
}

func TestFindIgnoresEachChangedByte(t *testing.T) {
	s := newTestSigner(secretA)
	table := newTestTable(s, "ab")
	good := s.Sign(s.Hashes("a"), now)
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range good {
		for _, c := range alphabet {
			changed := good[:i] + string(c) + good[i+1:]
			if _, _, ok := table.Find(changed, now); ok != (changed == good) {
				t.Errorf("Find(%q), where byte %d was %q: %t", changed, i, good[i], ok)
			}
		}
	}
}

func TestBindingIsDueAfterHalfAndExpires(t *testing.T) {
	for _, tt := range []struct {
		ttl       time.Duration
		after     int64 // seconds
		isDue, ok bool
	}{
		{day * time.Second, 0, false, true},
		{day * time.Second, day / 2, false, true},
		{day * time.Second, day/2 + 1, true, true},
		{day * time.Second, day - 1, true, true},
		{day * time.Second, day, false, false},
		{day * time.Second, -1, true, true}, // made by a clock that is ahead
		{time.Second, 0, false, true},
		{time.Second, 1, false, false},
		{time.Nanosecond, 0, false, true},
		{time.Nanosecond, 1, false, false},
		{1<<63 - 1, 100 * 365 * day, false, true},
		{-1, 0, false, true},
		{-1, 1000 * 365 * day, false, true},
	} {
		s := New("wsproxy", [][]byte{secretA}, tt.ttl)
		value := s.Sign(s.Hashes("a"), now)
		if _, isDue, ok := newTestTable(s, "a").Find(value, now+tt.after); isDue != tt.isDue || ok != tt.ok {
			t.Errorf("ttl %v, after %d s: Find() = due %t, %t; want due %t, %t", tt.ttl, tt.after, isDue, ok, tt.isDue, tt.ok)
		}
	}
}

func TestBindingOfAnotherTTLIsDue(t *testing.T) {
	for _, tt := range []struct{ signed, found time.Duration }{
		{day * time.Second, time.Hour}, {-1, time.Hour}, {time.Hour, -1},
	} {
		old := New("wsproxy", [][]byte{secretA}, tt.signed)
		s := New("wsproxy", [][]byte{secretA}, tt.found)
		if _, isDue, ok := newTestTable(s, "a").Find(old.Sign(old.Hashes("a"), now), now); !isDue || !ok {
			t.Errorf("made for %v, found with %v: due %t, %t; want true, true", tt.signed, tt.found, isDue, ok)
		}
	}
}

// With an end, all bindings by an old key end by themselves.
func TestBindingWithoutEndIsDueIfItsKeySignsNoLonger(t *testing.T) {
	for _, tt := range []struct {
		ttl     time.Duration
		secrets [][]byte
		isDue   bool
	}{
		{-1, [][]byte{secretA}, false},
		{-1, [][]byte{secretA, secretB}, false},
		{-1, [][]byte{secretB, secretA}, true},
		{time.Hour, [][]byte{secretB, secretA}, false},
	} {
		value := New("wsproxy", [][]byte{secretA}, tt.ttl).Sign(newTestSigner(secretA).Hashes("a"), now)
		s := New("wsproxy", tt.secrets, tt.ttl)
		if _, isDue, ok := newTestTable(s, "a").Find(value, now); isDue != tt.isDue || !ok {
			t.Errorf("ttl %v, secrets %q: due %t, %t; want %t, true", tt.ttl, tt.secrets, isDue, ok, tt.isDue)
		}
	}
}

func TestEachKeyVerifiesAndTheFirstSigns(t *testing.T) {
	signers := map[string]*Signer{
		"a":  newTestSigner(secretA),
		"b":  newTestSigner(secretB),
		"ab": newTestSigner(secretA, secretB),
		"ba": newTestSigner(secretB, secretA),
	}
	for signedBy, signer := range signers {
		value := signer.Sign(signer.Hashes("x"), now)
		for foundBy, s := range signers {
			want := strings.Contains(foundBy, signedBy[:1])
			if _, _, ok := newTestTable(s, "wxyz").Find(value, now); ok != want {
				t.Errorf("signed by %s, found by %s: %t; want %t", signedBy, foundBy, ok, want)
			}
		}
	}
}

// A program that is updated must find the values of its last version, and so must replicas
// with two versions of this package.
func TestValueStaysTheSame(t *testing.T) {
	const want = "AQAAa0sjgEZZ5M0J-OucG3XfCXa_GlZdpI35LGn_aXsrIWC_o_Hr"
	s := newTestSigner(secretA)
	if got := s.Sign(s.Hashes("http://10.0.0.1:8080"), now); got != want {
		t.Errorf("Sign() = %q; want %q", got, want)
	}
}

func TestMACIsHMAC(t *testing.T) {
	k := newKey(secretA, "wsproxy")
	binding := bytes.Repeat([]byte{7}, bindingLen)
	m := hmac.New(sha256.New, derive(secretA, "wsproxy affinity value", "wsproxy"))
	m.Write(binding)
	want := m.Sum(nil)[:rawLen-bindingLen]
	if got := k.mac(binding); !bytes.Equal(got[:], want) {
		t.Errorf("mac() = %x; want %x", got, want)
	}
}

func TestFindDoesNotAllocate(t *testing.T) {
	s := newTestSigner(secretB, secretA)
	table := newTestTable(s, "abc")
	value := newTestSigner(secretA).Sign(newTestSigner(secretA).Hashes("b"), now)
	if n := testing.AllocsPerRun(100, func() { table.Find(value, now) }); n != 0 {
		t.Errorf("Find allocates %v times; want 0", n)
	}
}

// No value but those of the signer is found, and what is found is what was signed.
func FuzzFind(f *testing.F) {
	s := newTestSigner(secretA, secretB)
	table := newTestTable(s, "abc")
	f.Add(s.Sign(s.Hashes("a"), now), int64(now))
	f.Add(s.Sign(s.Hashes("d"), now), int64(now))
	f.Add(newTestSigner(secretB).Sign(newTestSigner(secretB).Hashes("c"), now), int64(now))
	f.Add("", int64(0))
	f.Add(strings.Repeat("-", ValueLen), int64(-1))
	f.Fuzz(func(t *testing.T, value string, at int64) {
		b, _, ok := table.Find(value, at)
		if !ok {
			return
		}
		raw, err := base64.RawURLEncoding.Strict().DecodeString(value)
		if err != nil || base64.RawURLEncoding.EncodeToString(raw) != value {
			t.Fatalf("Find(%q) finds what is no value", value)
		}
		isSigned := false
		for i := range s.keys {
			mac := s.keys[i].mac(raw[:bindingLen])
			isSigned = isSigned || bytes.Equal(mac[:], raw[bindingLen:]) && s.keys[i].hash(b) == Hash(raw[bindingLen-hashLen:bindingLen])
		}
		if !isSigned || !s.HasSigned(value, at) {
			t.Fatalf("Find(%q) = %q, which was not signed for it", value, b)
		}
	})
}

func FuzzSignedBindingIsFound(f *testing.F) {
	f.Add("http://10.0.0.1:8080", int64(now), int64(day), secretA)
	f.Add("", int64(0), int64(-1), []byte{})
	f.Fuzz(func(t *testing.T, id string, at, ttl int64, secret []byte) {
		if at < 0 || at >= never/2 {
			t.Skip("no time of a cookie")
		}
		s := New("wsproxy", [][]byte{secret}, time.Duration(ttl))
		table := NewTable[string](s, 1)
		table.Add(s.Hashes(id), id)
		if b, isDue, ok := table.Find(s.Sign(s.Hashes(id), at), at); b != id || isDue || !ok {
			t.Errorf("Find() = %q, %t, %t; want %q, not due", b, isDue, ok, id)
		}
	})
}

func BenchmarkFind(b *testing.B) {
	for _, numKeys := range []int{1, 3} {
		b.Run(fmt.Sprintf("keys=%d", numKeys), func(b *testing.B) {
			var secrets [][]byte
			for i := range numKeys {
				secrets = append(secrets, bytes.Repeat([]byte{byte(i)}, 32))
			}
			s := newTestSigner(secrets...)
			table := NewTable[int](s, 100)
			for i := range 100 {
				table.Add(s.Hashes(fmt.Sprint(i)), i)
			}
			value := s.Sign(s.Hashes("50"), now)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, ok := table.Find(value, now); !ok {
					b.Fatal("not found")
				}
			}
		})
	}
}

func BenchmarkSign(b *testing.B) {
	s := newTestSigner(secretA)
	hashes := s.Hashes("a")
	b.ReportAllocs()
	for b.Loop() {
		s.Sign(hashes, now)
	}
}
