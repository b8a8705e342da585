package handshake

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// TrustedProxies are the peers whose forwarding fields are used. The zero value
// trusts no peer.
//
// Client is safe for concurrent use. Add must not be called at the same time, or
// after it.
type TrustedProxies struct {
	prefixes []netip.Prefix // masked, and never IPv4-mapped
	unix     bool           // peers without an address are trusted
}

// Add adds the peers that prefix describes: an IP address ("192.0.2.7", "::1"),
// a range of addresses ("10.0.0.0/8"), or "unix", which means every peer without
// an IP address, such as the peer of a Unix socket.
func (t *TrustedProxies) Add(prefix string) error {
	if prefix == "unix" {
		t.unix = true
		return nil
	}
	p, err := parsePrefix(prefix)
	if err != nil {
		return err
	}
	t.prefixes = append(t.prefixes, p)
	return nil
}

// mappedBits is the number of bits before the IPv4 address in an IPv4-mapped one.
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
	// Client compares unmapped addresses. A mapped range contains none of them.
	if p.Bits() < mappedBits {
		return netip.Prefix{}, errors.New("mixes IPv4 and IPv6 addresses")
	}
	return p.Addr().Unmap().Prefix(p.Bits() - mappedBits)
}

// Client returns the client's address, and reports whether the peer is trusted.
// remoteAddr is the peer's address in the form of [http.Request.RemoteAddr], and
// h is the request's header.
//
// A peer that is not trusted is the client. If the peer is trusted, Client reads
// all lines of X-Forwarded-For from right to left:
//
//   - The first address that is not trusted is the client's. The client may have
//     invented all addresses to the left of it.
//   - If all addresses are trusted, the leftmost is the client's.
//   - An element that is not an address ends the search. The address to the right
//     of it is the client's.
//
// addr is invalid if neither the peer nor X-Forwarded-For has an address.
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

// cutLast returns the last element of a list, and the list without it.
func cutLast(list string) (rest, element string) {
	i := strings.LastIndexByte(list, ',')
	return list[:max(i, 0)], trimOWS(list[i+1:])
}

// trusts reports whether the peer at addr is trusted. addr is invalid for a peer
// without an address.
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

// PeerAddr returns the address in remoteAddr, which has the form of
// [http.Request.RemoteAddr]. The result is invalid if the peer has no address.
func PeerAddr(remoteAddr string) netip.Addr {
	addr, _ := parseAddr(remoteAddr)
	return addr
}

// peerString returns the text of PeerAddr, or "" if that is invalid.
func peerString(remoteAddr string) string {
	addr := PeerAddr(remoteAddr)
	if !addr.IsValid() {
		return ""
	}
	// An IPv4 address has only one form. If remoteAddr has a single colon, which
	// is the usual case, the address before it can be returned without a copy.
	if host, port, ok := strings.Cut(remoteAddr, ":"); ok && addr.Is4() && !strings.Contains(port, ":") {
		return host
	}
	return addr.String()
}

// parseAddr parses an address with or without a port: some proxies write a port
// into X-Forwarded-For, and some middleware removes it from RemoteAddr.
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

// normalizeAddr returns the same value for all forms of an address. It removes
// the zone, which has a meaning on this machine only.
func normalizeAddr(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// OutboundHeader returns the header for the backend: a new map, which shares no
// slices with in.Header. Keys are canonical, so that a hook finds every field.
// [AppendRequest] writes the spelling of RFC 6455. trusted says whether the peer
// that sent in is a trusted proxy.
//
// Hop-by-hop fields and fields named by Connection are removed. Forwarding fields
// are set afterwards, so that a client can neither forge them nor have them
// removed. X-Forwarded-For becomes one line: the lines of a trusted peer, and the
// peer's own address. X-Forwarded-Host and X-Forwarded-Proto of a trusted peer
// stay. Forwarding fields of an untrusted peer are removed.
//
// Sec-WebSocket-Key, -Version and -Accept are removed too, because
// [AppendRequest] writes its own, and so are an empty Sec-WebSocket-Protocol and the
// :protocol of an extended CONNECT.
func OutboundHeader(in *http.Request, trusted bool) http.Header {
	out := make(http.Header, len(in.Header)+numForwarded)
	arena := valueArena{expected: numForwarded}
	addEndToEnd(out, in.Header, &arena, func(canonical string) bool {
		return isOwnField(canonical) || canonical == ProtocolKey || isUntrustedForwarding(canonical, trusted)
	})
	if lines, ok := out[fieldProtocol.canonical]; ok && !hasElement(lines) {
		delete(out, fieldProtocol.canonical) // some backends refuse an empty list
	}
	setForwarded(out, in, &arena)
	return out
}

// isUntrustedForwarding reports whether the field is a forwarding field that may
// come from a client.
//
// Many backends (CGI, WSGI, PHP) treat X_Forwarded_For as X-Forwarded-For. No
// proxy writes an underscore, so such a field comes from a client even if the
// peer is trusted.
func isUntrustedForwarding(name string, trusted bool) bool {
	if trusted && !strings.Contains(name, "_") {
		return false
	}
	return isForwarding(name)
}

// isForwarding reports whether the field is a forwarding field, in any spelling.
func isForwarding(name string) bool {
	return equalFoldDashes(name, "forwarded") || equalFoldDashes(name, "x-real-ip") ||
		equalFoldDashes(name, "x-request-id") ||
		len(name) >= len(forwardedPrefix) && equalFoldDashes(name[:len(forwardedPrefix)], forwardedPrefix)
}

const forwardedPrefix = "x-forwarded" // with or without a dash after it

// equalFoldDashes reports whether name equals want, ignoring case and treating an
// underscore as a dash. want must be in lower case.
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

const numForwarded = 3 // number of fields that setForwarded sets

// setForwarded sets the X-Forwarded-* fields of h from in. Those that h has
// already are from a trusted peer.
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
