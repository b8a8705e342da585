package proxyproto

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"
)

func TestAppendWritesAddressesOfBothFamilies(t *testing.T) {
	const sig = "\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A"
	const mapped = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xFF\xFF"
	const (
		client6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07"
		server6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"
	)
	for _, tt := range []struct {
		name         string
		source, dest string // empty: not valid
		want         string
	}{
		{"IPv4 to IPv4", "192.0.2.7:56324", "198.51.100.1:443", sig + "\x21\x11\x00\x0C" + "\xC0\x00\x02\x07\xC6\x33\x64\x01" + "\xDC\x04\x01\xBB"},
		{"IPv6 to IPv6", "[2001:db8::7]:56324", "[2001:db8::1]:443", sig + "\x21\x21\x00\x24" + client6 + server6 + "\xDC\x04\x01\xBB"},
		{"IPv4 to IPv6", "192.0.2.7:56324", "[2001:db8::1]:443", sig + "\x21\x21\x00\x24" + mapped + "\xC0\x00\x02\x07" + server6 + "\xDC\x04\x01\xBB"},
		{"IPv6 to IPv4", "[2001:db8::7]:56324", "198.51.100.1:443", sig + "\x21\x21\x00\x24" + client6 + mapped + "\xC6\x33\x64\x01" + "\xDC\x04\x01\xBB"},
		{"IPv4-mapped to IPv4", "[::ffff:192.0.2.7]:1", "198.51.100.1:2", sig + "\x21\x11\x00\x0C" + "\xC0\x00\x02\x07\xC6\x33\x64\x01" + "\x00\x01\x00\x02"},
		{"IPv4 to IPv4-mapped", "192.0.2.7:1", "[::ffff:198.51.100.1]:2", sig + "\x21\x11\x00\x0C" + "\xC0\x00\x02\x07\xC6\x33\x64\x01" + "\x00\x01\x00\x02"},
		{"IPv4-mapped to IPv6", "[::ffff:192.0.2.7]:1", "[2001:db8::1]:2", sig + "\x21\x21\x00\x24" + mapped + "\xC0\x00\x02\x07" + server6 + "\x00\x01\x00\x02"},
		{"zones", "[2001:db8::7%eth0]:1", "[2001:db8::1%2]:2", sig + "\x21\x21\x00\x24" + client6 + server6 + "\x00\x01\x00\x02"},
		{"port that is not known", "192.0.2.7:0", "198.51.100.1:443", sig + "\x21\x11\x00\x0C" + "\xC0\x00\x02\x07\xC6\x33\x64\x01" + "\x00\x00\x01\xBB"},
		{"lowest", "0.0.0.0:0", "0.0.0.0:0", sig + "\x21\x11\x00\x0C" + "\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00"},
		{"highest", "255.255.255.255:65535", "255.255.255.255:65535", sig + "\x21\x11\x00\x0C" + "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF" + "\xFF\xFF\xFF\xFF"},
		{"no client", "", "198.51.100.1:443", sig + "\x20\x00\x00\x00"},
		{"no server", "192.0.2.7:56324", "", sig + "\x20\x00\x00\x00"},
		{"neither", "", "", sig + "\x20\x00\x00\x00"},
	} {
		got := Append([]byte("before"), parse(t, tt.source), parse(t, tt.dest))
		if want := "before" + tt.want; string(got) != want {
			t.Errorf("%s: Append(%q, %q) = %q; want %q", tt.name, tt.source, tt.dest, got, want)
		}
	}
}

func TestAppendLocalHasNoAddress(t *testing.T) {
	got := string(AppendLocal([]byte("before")))
	if want := "before\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"; got != want {
		t.Errorf("AppendLocal() = %q; want %q", got, want)
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	source, dest := parse(t, "192.0.2.7:56324"), parse(t, "[2001:db8::1]:443")
	buf := make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() { Append(buf, source, dest) }); n != 0 {
		t.Errorf("Append makes %v allocations; want none", n)
	}
}

func parse(t *testing.T, s string) netip.AddrPort {
	t.Helper()
	if s == "" {
		return netip.AddrPort{}
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		t.Fatal(err)
	}
	return ap
}

// FuzzAppendIsReadBack compares with a reader of the header that shares no code with Append.
// The bytes of an address are 4 or 16; any other number means an address that is not valid.
func FuzzAppendIsReadBack(f *testing.F) {
	v4, v6 := []byte{192, 0, 2, 7}, bytes.Repeat([]byte{0x20, 0x01}, 8)
	mapped := append(append(make([]byte, 10), 0xFF, 0xFF), v4...)
	for _, source := range [][]byte{v4, v6, mapped, nil} {
		for _, dest := range [][]byte{v4, v6, mapped, nil} {
			f.Add([]byte("before"), source, uint16(56324), dest, uint16(443), "", []byte("GET / HTTP/1.1\r\n"))
			f.Add([]byte{}, source, uint16(0), dest, uint16(65535), "eth0", []byte{})
		}
	}
	f.Fuzz(func(t *testing.T, before, source []byte, sourcePort uint16, dest []byte, destPort uint16, zone string, behind []byte) {
		from, fromOK := netip.AddrFromSlice(source)
		to, toOK := netip.AddrFromSlice(dest)
		got := Append(bytes.Clone(before), netip.AddrPortFrom(from.WithZone(zone), sourcePort), netip.AddrPortFrom(to.WithZone(zone), destPort))
		if !bytes.HasPrefix(got, before) {
			t.Fatalf("Append(%q, ...) = %q; want what it appended to at the beginning", before, got)
		}
		r, rest, err := read(append(got[len(before):len(got):len(got)], behind...))
		if err != nil {
			t.Fatalf("header %q for %v and %v cannot be read: %v", got, from, to, err)
		}
		if !bytes.Equal(rest, behind) {
			t.Errorf("behind the header is %q; want %q", rest, behind)
		}
		if r.isLocal != (!fromOK || !toOK) {
			t.Fatalf("header for %v and %v is local: %v", from, to, r.isLocal)
		}
		if r.isLocal {
			return
		}
		want := fmt.Sprint(netip.AddrPortFrom(from.Unmap(), sourcePort), " ", netip.AddrPortFrom(to.Unmap(), destPort))
		if got := fmt.Sprint(r.source, " ", r.dest); got != want {
			t.Errorf("header says %s; want %s", got, want)
		}
		if bothAre4 := from.Unmap().Is4() && to.Unmap().Is4(); r.is4 != bothAre4 {
			t.Errorf("header for %v and %v is of IPv4: %v; want %v", from, to, r.is4, bothAre4)
		}
	})
}

// A reading is what a receiver finds in a header.
type reading struct {
	isLocal, is4 bool
	source, dest netip.AddrPort // IPv4-mapped addresses as IPv4
}

// read reads a header as the text of the protocol tells a receiver to.
func read(b []byte) (r reading, rest []byte, err error) {
	var head [16]byte
	if copy(head[:], b) < len(head) {
		return r, nil, errors.New("short")
	}
	if [12]byte(head[:12]) != [12]byte{0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A} {
		return r, nil, errors.New("signature")
	}
	length := int(head[14])<<8 | int(head[15])
	block := b[16:]
	if len(block) < length {
		return r, nil, errors.New("short block of addresses")
	}
	block, rest = block[:length], block[length:]
	if head[12]>>4 != 2 {
		return r, nil, errors.New("version")
	}
	switch head[12] & 0xF {
	case 0:
		if head[13] != 0 || length != 0 {
			return r, nil, errors.New("LOCAL with an address")
		}
		r.isLocal = true
		return r, rest, nil
	case 1:
	default:
		return r, nil, errors.New("command")
	}
	size := 0
	switch head[13] {
	case 0x11:
		size, r.is4 = 4, true
	case 0x21:
		size = 16
	default:
		return r, nil, errors.New("family")
	}
	if length != 2*size+4 {
		return r, nil, errors.New("length: there are no TLVs")
	}
	port := func(b []byte) uint16 { return uint16(b[0])<<8 | uint16(b[1]) }
	addr := func(b []byte) netip.Addr {
		a, _ := netip.AddrFromSlice(b)
		return a.Unmap()
	}
	r.source = netip.AddrPortFrom(addr(block[:size]), port(block[2*size:]))
	r.dest = netip.AddrPortFrom(addr(block[size:2*size]), port(block[2*size+2:]))
	return r, rest, nil
}
