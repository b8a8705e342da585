package handshake

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// TrustedProxies are the peers whose word about the client is believed. The
// zero value trusts nobody.
//
// Add must not be called once Client is in use; Client is safe for concurrent
// use.
type TrustedProxies struct {
	prefixes []netip.Prefix // masked, and never IPv4-mapped
	unix     bool           // peers without an address are trusted
}

// Add trusts the peers that prefix describes: an IP address ("192.0.2.7",
// "::1"), a range of them ("10.0.0.0/8"), or "unix", which is every peer that
// has no IP address, such as one that connects over a Unix socket.
func (t *TrustedProxies) Add(prefix string) error {
	if prefix == "unix" {
		t.unix = true
		return nil
	}
	p, err := parsePrefix(prefix)
	if err != nil {
		return fmt.Errorf("trusted proxy %q: %w", prefix, err)
	}
	t.prefixes = append(t.prefixes, p)
	return nil
}

// mappedBits is how many bits an IPv4-mapped address has before the IPv4 one.
const mappedBits = 128 - 32

func parsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, errors.New("not an IP address, range of addresses, or unix")
		}
		addr = normalizeAddr(addr)
		return addr.Prefix(addr.BitLen())
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, errors.New("not a range of IP addresses")
	}
	if !p.Addr().Is4In6() {
		return p.Masked(), nil
	}
	// Client compares unmapped addresses, which no mapped range contains.
	if p.Bits() < mappedBits {
		return netip.Prefix{}, errors.New("mixes IPv4 and IPv6 addresses")
	}
	return p.Addr().Unmap().Prefix(p.Bits() - mappedBits)
}

// Client returns the client's address. remoteAddr is the peer's, as
// [http.Request] has it; h is the request's header.
//
// If the peer is not trusted, it is the client. If it is, the client is the
// first address from the right in X-Forwarded-For, over all lines of it, that
// is not trusted either: everything left of that one is the client's own word.
// If all are trusted it is the leftmost; if an element is no address, the last
// good one before it.
//
// trusted reports whether the peer is. addr is invalid if nobody gave an
// address: the peer has none, and no X-Forwarded-For helps.
func (t *TrustedProxies) Client(remoteAddr string, h http.Header) (addr netip.Addr, trusted bool) {
	addr = PeerAddr(remoteAddr)
	if !t.trusts(addr) {
		return addr, false
	}
	for _, line := range slices.Backward(h["X-Forwarded-For"]) {
		for rest := line; rest != ""; {
			var element string
			rest, element = cutLast(rest)
			if element == "" {
				continue
			}
			hop, ok := parseAddr(element)
			if !ok {
				return addr, true
			}
			addr = hop
			if !t.trusts(hop) {
				return addr, true
			}
		}
	}
	return addr, true
}

// cutLast cuts the last element off a list.
func cutLast(list string) (rest, element string) {
	i := strings.LastIndexByte(list, ',')
	return list[:max(i, 0)], trimOWS(list[i+1:])
}

// trusts reports whether the peer at addr, perhaps invalid, is trusted.
func (t *TrustedProxies) trusts(addr netip.Addr) bool {
	if !addr.IsValid() {
		return t.unix
	}
	for _, p := range t.prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// PeerAddr returns the address in [http.Request.RemoteAddr], or the invalid
// one if the peer has none.
func PeerAddr(remoteAddr string) netip.Addr {
	addr, _ := parseAddr(remoteAddr)
	return addr
}

// peerString is the text of PeerAddr, or "" if that is invalid.
func peerString(remoteAddr string) string {
	addr := PeerAddr(remoteAddr)
	if !addr.IsValid() {
		return ""
	}
	// The text of an IPv4 address is the same in every writing. One colon is that
	// of its port: nearly every peer's address, without a copy.
	if host, port, ok := strings.Cut(remoteAddr, ":"); ok && addr.Is4() && !strings.Contains(port, ":") {
		return host
	}
	return addr.String()
}

// parseAddr parses an address with or without a port: some proxies write one
// into X-Forwarded-For, and some middleware leaves it out of RemoteAddr.
func parseAddr(s string) (addr netip.Addr, ok bool) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return normalizeAddr(ap.Addr()), true
	}
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
		s = strings.TrimSuffix(inner, "]")
	}
	addr, err := netip.ParseAddr(s)
	return normalizeAddr(addr), err == nil
}

// normalizeAddr gives the different writings of one address the same value. A zone
// means something on this machine only.
func normalizeAddr(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// OutboundHeader returns the header for the backend: a new map, which shares
// no slices with in's. Keys are canonical, so that a hook finds every field;
// [AppendRequest] spells. trusted says whether the peer that sent in is a
// trusted proxy.
//
// What is hop-by-hop, or named by Connection, is removed first, and what tells
// the backend about the client is set after that: else a client could forge
// the one, or have the other removed. X-Forwarded-For is one line, that of a
// trusted peer with the peer's own address appended. X-Forwarded-Host and
// X-Forwarded-Proto are left as a trusted peer has set them. Nothing that an
// untrusted peer says about forwarding is passed on.
//
// Sec-WebSocket-Key, -Version and -Accept are removed too, since
// [AppendRequest] writes its own.
func OutboundHeader(in *http.Request, trusted bool) http.Header {
	out := make(http.Header, len(in.Header)+numForwarded)
	arena := valueArena{expected: numForwarded}
	addEndToEnd(out, in.Header, &arena, func(canonical string) bool {
		return isOwnField(canonical) || isUntrustedForwarding(canonical, trusted)
	})
	setForwarded(out, in, &arena)
	return out
}

// isUntrustedForwarding reports whether the field is about forwarding and not to be
// believed.
//
// Many backends (CGI, WSGI, PHP) take X_Forwarded_For for X-Forwarded-For. No
// proxy writes it that way, so from a trusted one it is what a client has sent.
func isUntrustedForwarding(name string, trusted bool) bool {
	if trusted && !strings.Contains(name, "_") {
		return false
	}
	return isForwarding(name)
}

// isForwarding reports whether the field is about forwarding, in any spelling.
func isForwarding(name string) bool {
	return equalFoldDashes(name, "forwarded") || equalFoldDashes(name, "x-real-ip") ||
		len(name) >= len(forwardedPrefix) && equalFoldDashes(name[:len(forwardedPrefix)], forwardedPrefix)
}

const forwardedPrefix = "x-forwarded" // and whatever follows, with or without a dash

// equalFoldDashes reports whether name is want, which is in lower case, if _ in it
// counts as a dash.
func equalFoldDashes(name, want string) bool {
	if len(name) != len(want) {
		return false
	}
	for i := range len(name) {
		c := lower(name[i])
		if c == '_' {
			c = '-'
		}
		if c != want[i] {
			return false
		}
	}
	return true
}

const numForwarded = 3 // how many fields setForwarded sets

// setForwarded tells the backend what it cannot see of in. What h has of this
// already is from a trusted peer.
func setForwarded(h http.Header, in *http.Request, arena *valueArena) {
	lines := slices.DeleteFunc(h["X-Forwarded-For"], func(line string) bool { return line == "" })
	chain := strings.Join(lines, ", ")
	if peer := peerString(in.RemoteAddr); chain == "" {
		chain = peer
	} else if peer != "" {
		chain += ", " + peer
	}
	if chain != "" {
		h["X-Forwarded-For"] = arena.add(chain)
	}
	proto := "http"
	if in.TLS != nil {
		proto = "https"
	}
	setIfMissing(h, "X-Forwarded-Host", in.Host, arena)
	setIfMissing(h, "X-Forwarded-Proto", proto, arena)
}

func setIfMissing(h http.Header, canonical, value string, arena *valueArena) {
	if strings.Join(h[canonical], "") == "" && value != "" {
		h[canonical] = arena.add(value)
	}
}
