package handshake

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// trust returns TrustedProxies with prefixes.
func trust(t testing.TB, prefixes ...string) *TrustedProxies {
	t.Helper()
	var p TrustedProxies
	for _, prefix := range prefixes {
		if err := p.Add(prefix); err != nil {
			t.Fatalf("Add(%q): %v", prefix, err)
		}
	}
	return &p
}

func TestTrustedProxiesRefuseInvalidAddresses(t *testing.T) {
	for _, prefix := range []string{
		"", "example.com", "10.0.0.0/33", "10.0.0.0/", "10.0.0", "unix:", "Unix", "fe80::1%eth0/64",
		"::ffff:0.0.0.0/95", "10.0.0.1:80",
	} {
		var p TrustedProxies
		if err := p.Add(prefix); err == nil {
			t.Errorf("Add(%q) = nil; want an error", prefix)
		}
	}
}

var clientTests = []struct {
	name    string
	trusted []string
	peer    string
	chain   []string // lines of X-Forwarded-For
	addr    string   // "" if invalid
	isProxy bool     // the peer is trusted
}{
	{name: "nobody-trusted", peer: "192.0.2.1:80", chain: []string{"198.51.100.1"}, addr: "192.0.2.1"},
	{name: "other-trusted", trusted: []string{"10.0.0.0/8"}, peer: "192.0.2.1:80", chain: []string{"198.51.100.1"}, addr: "192.0.2.1"},
	{name: "no-chain", trusted: []string{"10.0.0.0/8"}, peer: "10.0.0.1:80", addr: "10.0.0.1", isProxy: true},
	{name: "one-hop", trusted: []string{"10.0.0.0/8"}, peer: "10.0.0.1:80", chain: []string{"198.51.100.1"}, addr: "198.51.100.1", isProxy: true},
	{name: "client-forges-the-left", trusted: []string{"10.0.0.0/8"}, peer: "10.0.0.1:80", chain: []string{"127.0.0.1, 198.51.100.1"}, addr: "198.51.100.1", isProxy: true},
	{name: "client-forges-a-line", trusted: []string{"10.0.0.0/8"}, peer: "10.0.0.1:80", chain: []string{"127.0.0.1", "198.51.100.1"}, addr: "198.51.100.1", isProxy: true},
	{name: "two-proxies", trusted: []string{"10.0.0.0/8"}, peer: "10.0.0.1:80", chain: []string{"127.0.0.1,198.51.100.1 ,\t10.0.0.2"}, addr: "198.51.100.1", isProxy: true},
	{name: "two-proxies-two-lines", trusted: []string{"10.0.0.0/8"}, peer: "10.0.0.1:80", chain: []string{"198.51.100.1", "10.0.0.2"}, addr: "198.51.100.1", isProxy: true},
	{name: "all-trusted", trusted: []string{"10.0.0.0/8"}, peer: "10.0.0.1:80", chain: []string{"10.0.0.3", "10.0.0.2"}, addr: "10.0.0.3", isProxy: true},
	{name: "malformed", trusted: []string{"10.0.0.0/8"}, peer: "10.0.0.1:80", chain: []string{"198.51.100.1, unknown, 10.0.0.2"}, addr: "10.0.0.2", isProxy: true},
	{name: "malformed-last", trusted: []string{"10.0.0.0/8"}, peer: "10.0.0.1:80", chain: []string{"198.51.100.1, unknown"}, addr: "10.0.0.1", isProxy: true},
	{name: "empty-elements", trusted: []string{"10.0.0.0/8"}, peer: "10.0.0.1:80", chain: []string{"198.51.100.1,,", "", " , "}, addr: "198.51.100.1", isProxy: true},
	{name: "hops-with-ports", trusted: []string{"10.0.0.0/8"}, peer: "10.0.0.1:80", chain: []string{"[2001:db8::1]:99, 10.0.0.2:80"}, addr: "2001:db8::1", isProxy: true},
	{name: "hop-in-brackets", trusted: []string{"10.0.0.0/8"}, peer: "10.0.0.1:80", chain: []string{"[2001:db8::1]"}, addr: "2001:db8::1", isProxy: true},

	{name: "single-address", trusted: []string{"192.0.2.7"}, peer: "192.0.2.7:80", chain: []string{"198.51.100.1"}, addr: "198.51.100.1", isProxy: true},
	{name: "next-address", trusted: []string{"192.0.2.7"}, peer: "192.0.2.8:80", chain: []string{"198.51.100.1"}, addr: "192.0.2.8"},
	{name: "ipv6", trusted: []string{"::1"}, peer: "[::1]:80", chain: []string{"198.51.100.1"}, addr: "198.51.100.1", isProxy: true},
	{name: "host-bits-in-prefix", trusted: []string{"10.9.8.7/8"}, peer: "10.0.0.1:80", addr: "10.0.0.1", isProxy: true},
	{name: "mapped-peer", trusted: []string{"10.0.0.0/8"}, peer: "[::ffff:10.0.0.1]:80", addr: "10.0.0.1", isProxy: true},
	{name: "mapped-hop", trusted: []string{"10.0.0.0/8"}, peer: "10.0.0.1:80", chain: []string{"198.51.100.1, ::ffff:10.0.0.2"}, addr: "198.51.100.1", isProxy: true},
	{name: "mapped-prefix", trusted: []string{"::ffff:10.0.0.0/104"}, peer: "10.0.0.1:80", addr: "10.0.0.1", isProxy: true},
	{name: "mapped-address", trusted: []string{"::ffff:10.0.0.1"}, peer: "10.0.0.1:80", addr: "10.0.0.1", isProxy: true},
	{name: "zone", trusted: []string{"fe80::/10"}, peer: "[fe80::1%eth0]:80", addr: "fe80::1", isProxy: true},
	{name: "zone-of-address", trusted: []string{"fe80::1%eth0"}, peer: "[fe80::1%eth1]:80", addr: "fe80::1", isProxy: true},
	{name: "peer-without-port", trusted: []string{"10.0.0.0/8"}, peer: "10.0.0.1", addr: "10.0.0.1", isProxy: true},

	{name: "unix-untrusted", trusted: []string{"0.0.0.0/0", "::/0"}, peer: "@", chain: []string{"198.51.100.1"}},
	{name: "unix", trusted: []string{"unix"}, peer: "@", chain: []string{"198.51.100.1"}, addr: "198.51.100.1", isProxy: true},
	{name: "unix-by-path", trusted: []string{"unix"}, peer: "/run/a.sock", chain: []string{"198.51.100.1"}, addr: "198.51.100.1", isProxy: true},
	{name: "unix-without-chain", trusted: []string{"unix"}, peer: "", isProxy: true},
	{name: "unix-is-no-ip", trusted: []string{"unix"}, peer: "192.0.2.1:80", chain: []string{"198.51.100.1"}, addr: "192.0.2.1"},
	{name: "unix-with-malformed-chain", trusted: []string{"unix"}, peer: "@", chain: []string{"198.51.100.1, unknown"}, isProxy: true},
}

func TestClientIsRightmostUntrustedAddress(t *testing.T) {
	for _, tt := range clientTests {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{"X-Forwarded-For": tt.chain}
			addr, trusted := trust(t, tt.trusted...).Client(tt.peer, h)
			var want netip.Addr
			if tt.addr != "" {
				want = netip.MustParseAddr(tt.addr)
			}
			if addr != want || trusted != tt.isProxy {
				t.Errorf("Client(%q, %q) = %v, %v; want %v, %v", tt.peer, tt.chain, addr, trusted, want, tt.isProxy)
			}
		})
	}
}

// forwarded are the fields that OutboundHeader adds for an untrusted peer.
var forwarded = []string{"X-Forwarded-For: 192.0.2.1", "X-Forwarded-Host: example.com", "X-Forwarded-Proto: http"}

var outboundHeaderTests = []struct {
	name    string
	in      string // lines of the request, besides those of upgrade
	replace string // the line of upgrade that they replace
	trusted bool
	want    []string // besides forwarded, if the peer is not trusted
}{
	{name: "upgrade-fields"},
	{
		name: "end-to-end",
		in:   "Cookie: a=b\nCookie: c=d\nOrigin: https://example.com\nAuthorization: x",
		want: []string{"Cookie: a=b", "Cookie: c=d", "Origin: https://example.com", "Authorization: x"},
	},
	{
		name: "websocket-fields-where-hooks-find-them",
		in:   "sec-websocket-protocol: chat\nSEC-WEBSOCKET-EXTENSIONS: a\nSec-Websocket-Extensions: b\nSec-Websocket-Foo: c\nSec-Websocket-Accept: d",
		want: []string{"Sec-Websocket-Protocol: chat", "Sec-Websocket-Extensions: a", "Sec-Websocket-Extensions: b", "Sec-Websocket-Foo: c"},
	},
	{
		name: "hop-by-hop",
		in: "Proxy-Connection: x\nKeep-Alive: x\nProxy-Authenticate: x\nProxy-Authorization: x\nTE: trailers\n" +
			"Trailer: x\nHTTP2-Settings: x\nContent-Length: 0\nExpect: x",
	},
	{
		name: "nominated", replace: "Connection",
		in:   "Connection: upgrade, x-internal, X-OTHER\nX-Internal: 1\nx-other: 2\nX-Kept: 3",
		want: []string{"X-Kept: 3"},
	},
	{ // CVE-2021-33197
		name: "nominated-on-a-later-line", replace: "Connection",
		in: "Connection:\nConnection: x-internal\nConnection: upgrade\nX-Internal: 1",
	},
	{ // CVE-2021-32813
		name: "nominated-forwarding-fields", replace: "Connection",
		in: "Connection: upgrade, x-forwarded-for, X-Forwarded-Host, x-forwarded-PROTO, X-Real-IP\nX-Forwarded-For: 127.0.0.1",
	},
	{
		name: "nominated-websocket-fields", replace: "Connection",
		in: "Connection: upgrade, Sec-WebSocket-Protocol, sec-websocket-key, host\nSec-WebSocket-Protocol: chat",
	},
	{
		name: "forged",
		in: "Forwarded: for=127.0.0.1\nX-Real-IP: 127.0.0.1\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Host: evil\n" +
			"X-Forwarded-Proto: https\nX-Forwarded-Port: 1\nX-Forwarded-Prefix: /\nX-Forwarded-Anything: 1\nX-Forwarded: 1",
	},
	{ // CVE-2025-64484
		name: "forged-by-underscore",
		in:   "X_Forwarded_For: 127.0.0.1\nX-Forwarded_Host: evil\nx_real_ip: 127.0.0.1\nX_Forwarded-Proto: https\nX_Other: 1",
		want: []string{"X_other: 1"},
	},
	{
		name: "trusted-chain", trusted: true,
		in:   "X-Forwarded-For: 198.51.100.1\nX-Forwarded-For:\nX-Forwarded-For: 10.0.0.1, 10.0.0.2",
		want: []string{"X-Forwarded-For: 198.51.100.1, 10.0.0.1, 10.0.0.2, 192.0.2.1", "X-Forwarded-Host: example.com", "X-Forwarded-Proto: http"},
	},
	{
		name: "trusted-fields", trusted: true,
		in: "X-Forwarded-Host: public\nX-Forwarded-Proto: https\nX-Forwarded-Port: 443\nForwarded: for=198.51.100.1\nX-Real-IP: 198.51.100.1",
		want: []string{
			"X-Forwarded-Host: public", "X-Forwarded-Proto: https", "X-Forwarded-Port: 443", "X-Forwarded-For: 192.0.2.1",
			"Forwarded: for=198.51.100.1", "X-Real-Ip: 198.51.100.1",
		},
	},
	{
		name: "trusted-empty-fields", trusted: true,
		in:   "X-Forwarded-For:\nX-Forwarded-Host:\nX-Forwarded-Proto:",
		want: forwarded,
	},
	{
		name: "trusted-nominated", trusted: true, replace: "Connection",
		in: "Connection: upgrade, X-Forwarded-For, x-forwarded-proto, X-Real-IP, X-Other\nX-Forwarded-For: 198.51.100.1\nX-Forwarded-Host: public\n" +
			"X-Forwarded-Proto: https\nX-Real-IP: 198.51.100.1\nX-Other: 1",
		want: []string{"X-Forwarded-For: 198.51.100.1, 192.0.2.1", "X-Forwarded-Host: public", "X-Forwarded-Proto: https", "X-Real-Ip: 198.51.100.1"},
	},
	{
		name: "trusted-underscore", trusted: true,
		in:   "X_Forwarded_For: 127.0.0.1\nX_Other: 1",
		want: append([]string{"X_other: 1"}, forwarded...),
	},
}

func TestOutboundHeaderForwardsEndToEndFields(t *testing.T) {
	for _, tt := range outboundHeaderTests {
		t.Run(tt.name, func(t *testing.T) {
			lines := with(upgrade, "", tt.in)
			if tt.replace != "" {
				lines = with(upgrade, tt.replace, tt.in)
			}
			want := header(tt.want...)
			if !tt.trusted {
				want = header(append(tt.want, forwarded...)...)
			}
			wantHeader(t, OutboundHeader(parseRequest(t, lines), tt.trusted), want)
		})
	}
}

func TestOutboundHeaderOmitsPeerWithoutAddress(t *testing.T) {
	in := parseRequest(t, with(upgrade, "", "X-Forwarded-For: 198.51.100.1"))
	in.RemoteAddr = "@"
	wantHeader(t, OutboundHeader(in, false), header(forwarded[1:]...))
	wantHeader(t, OutboundHeader(in, true), header(append(forwarded[1:], "X-Forwarded-For: 198.51.100.1")...))
}

func TestOutboundHeaderSetsProtocolAndPeer(t *testing.T) {
	in := parseRequest(t, upgrade)
	in.TLS = new(tls.ConnectionState)
	in.RemoteAddr = "[::ffff:192.0.2.9%eth0]:80"
	in.Host = ""
	wantHeader(t, OutboundHeader(in, false), header("X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https"))
}

// Middleware may add any key to the map, or a key without values.
func TestOutboundHeaderFiltersKeysOfAnySpelling(t *testing.T) {
	in := parseRequest(t, upgrade)
	in.Header = http.Header{
		"connection":               {"X-Internal"},
		"x-internal":               {"1"},
		"x-forwarded-for":          {"127.0.0.1"},
		"http2-settings":           {"1"},
		"sec-websocket-key":        {sampleKey},
		"Sec-WebSocket-Version":    {"13"},
		"Sec-WebSocket-Extensions": {"a"},
		"X-Empty":                  nil,
		"x-kept":                   {"1"},
	}
	wantHeader(t, OutboundHeader(in, false), header(append(forwarded, "Sec-Websocket-Extensions: a", "X-Kept: 1")...))
}

func TestOutboundHeaderHasNoProtocolOfAnExtendedCONNECT(t *testing.T) {
	r := overHTTP2("CONNECT", "/ws", http.Header{":protocol": {"websocket"}, "A": {"1"}})
	if got := OutboundHeader(r, false); got[":protocol"] != nil || got.Get("A") != "1" {
		t.Errorf("OutboundHeader = %q; want A without :protocol", got)
	}
}

func TestOutboundHeaderSharesNothingWithRequest(t *testing.T) {
	in := parseRequest(t, with(upgrade, "", "Cookie: a\nCookie: b\nX-Forwarded-For: c\nX-Forwarded-For: d"))
	before := in.Header.Clone()
	out := OutboundHeader(in, true)
	for name := range out {
		for i := range out[name] {
			out[name][i] = "changed"
		}
		out[name] = append(out[name], "added")
	}
	wantHeader(t, in.Header, before)
	if got := out["Cookie"]; len(got) != 3 || got[2] != "added" {
		t.Errorf("Cookie = %q after appending; want 3 lines", got)
	}
}

// The cost must not grow with the number of named fields times that of fields.
func TestOutboundHeaderHandlesManyNominations(t *testing.T) {
	in := parseRequest(t, upgrade)
	var options strings.Builder
	for i := range 100_000 {
		name := "X-" + strconv.Itoa(i)
		in.Header[name] = []string{"1"}
		options.WriteString(name + ",")
	}
	in.Header["Connection"] = []string{options.String()}
	wantHeader(t, OutboundHeader(in, false), header(forwarded...))
}

func BenchmarkOutboundHeader(b *testing.B) {
	in := parseRequest(b, with(upgrade, "", "Cookie: a\nOrigin: b\nUser-Agent: c\nSec-WebSocket-Extensions: permessage-deflate"))
	b.ReportAllocs()
	for b.Loop() {
		OutboundHeader(in, false)
	}
}

func TestOutboundHeaderHasNoEmptySubprotocol(t *testing.T) {
	for lines, want := range map[string][]string{
		"Sec-WebSocket-Protocol:":                               nil,
		"Sec-WebSocket-Protocol: ,\nSec-WebSocket-Protocol:":    nil,
		"Sec-WebSocket-Protocol: chat\nSec-WebSocket-Protocol:": {"chat", ""},
	} {
		out := OutboundHeader(parseRequest(t, with(upgrade, "", lines)), false)
		if got := out["Sec-Websocket-Protocol"]; !slices.Equal(got, want) {
			t.Errorf("%q became %q; want %q", lines, got, want)
		}
	}
}
