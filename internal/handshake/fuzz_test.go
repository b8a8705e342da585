package handshake

import (
	"bufio"
	"bytes"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// fuzzHeader returns a header with lines "Name:value" of any content. A hook could
// set such a header. In lines, \v stands for a \n in a name or value.
func fuzzHeader(lines string) http.Header {
	h := make(http.Header)
	for line := range strings.SplitSeq(lines, "\n") {
		name, value, _ := strings.Cut(strings.ReplaceAll(line, "\v", "\n"), ":")
		h[name] = append(h[name], value)
	}
	return h
}

// wantFields returns the fields of h that appendFields may write, with canonical
// keys and trimmed values.
func wantFields(h http.Header, skip func(string) bool) http.Header {
	want := make(http.Header)
	for key, lines := range h {
		canonical := http.CanonicalHeaderKey(key)
		if isHopByHop(canonical) || skip(canonical) {
			continue
		}
		for _, line := range lines {
			want[canonical] = append(want[canonical], trimOWS(line))
		}
	}
	return want
}

// sameFields reports whether both headers have the same lines under the same keys.
// The order of lines may differ, because two keys of a map may be the same field.
func sameFields(a, b http.Header) bool {
	count := func(h http.Header) map[[2]string]int {
		n := make(map[[2]string]int)
		for name, lines := range h {
			for _, line := range lines {
				n[[2]string{name, line}]++
			}
		}
		return n
	}
	return reflect.DeepEqual(count(a), count(b))
}

func FuzzAppendRequestNeverEmitsForeignLines(f *testing.F) {
	for _, tt := range appendRequestTests {
		var lines []string
		for name, values := range tt.out.Header {
			for _, value := range values {
				lines = append(lines, name+":"+value)
			}
		}
		f.Add(tt.out.Host, tt.out.URL.Path, tt.out.URL.RawPath, tt.out.URL.RawQuery, strings.Join(lines, "\n"), sampleKey)
	}
	f.Add("a\r\nb", "/\r\n", "/%0d", "\r\n", "A:\r\vB: 1\nA\r\v:1", "a\r\n")
	f.Fuzz(func(t *testing.T, host, p, rawPath, query, lines, key string) {
		out := &http.Request{Host: host, URL: &url.URL{Path: p, RawPath: rawPath, RawQuery: query}, Header: fuzzHeader(lines)}
		b, err := AppendRequest(nil, out, key)
		if err != nil {
			if len(b) > 0 {
				t.Fatalf("%q appended in spite of %v", b, err)
			}
			return
		}
		br := bufio.NewReader(bytes.NewReader(b))
		got, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("ReadRequest(%q): %v", b, err)
		}
		if br.Buffered() > 0 {
			t.Fatalf("%q has something after the request", b)
		}
		if isUpgrade, _ := Classify(got); !isUpgrade || got.Host != host {
			t.Fatalf("%q is no upgrade for %q", b, host)
		}
		want := wantFields(out.Header, isRequestField)
		for _, own := range []string{"Upgrade: websocket", "Connection: Upgrade", "Sec-Websocket-Version: 13", "Sec-Websocket-Key: " + key} {
			name, value, _ := strings.Cut(own, ": ")
			want[name] = append(want[name], value)
		}
		delete(got.Header, "Cache-Control") // ReadRequest adds it where there is Pragma
		delete(want, "Cache-Control")
		if !sameFields(got.Header, want) {
			t.Fatalf("fields of %q:\n got %q\nwant %q", b, got.Header, want)
		}
	})
}

func FuzzAppendSwitchNeverEmitsForeignLines(f *testing.F) {
	for _, tt := range appendSwitchTests {
		var lines []string
		for name, values := range tt.h {
			for _, value := range values {
				lines = append(lines, name+":"+value)
			}
		}
		f.Add(strings.Join(lines, "\n"), sampleKey, tt.a.Subprotocol, strings.Join(tt.a.Extensions, ", "))
	}
	f.Add("A:\r\vB: 1\nA\r\v:1", "a\r\n", "a\r\nb: c", "a\r\nb: c")
	f.Fuzz(func(t *testing.T, lines, key, subprotocol, extensions string) {
		a := Agreement{Subprotocol: subprotocol}
		if extensions != "" {
			a.Extensions = []string{extensions}
		}
		h := fuzzHeader(lines)
		b, err := AppendSwitch(nil, h, key, a)
		if err != nil {
			if len(b) > 0 {
				t.Fatalf("%q appended in spite of %v", b, err)
			}
			return
		}
		br := bufio.NewReader(bytes.NewReader(b))
		got, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatalf("ReadResponse(%q): %v", b, err)
		}
		if br.Buffered() > 0 {
			t.Fatalf("%q has something after the answer", b)
		}
		want := wantFields(h, isWebSocketField)
		want["Upgrade"] = []string{"websocket"}
		want["Connection"] = []string{"Upgrade"}
		want[fieldAccept.canonical] = []string{string(appendAccept(nil, key))}
		if subprotocol != "" {
			want[fieldProtocol.canonical] = []string{subprotocol}
		}
		if extensions != "" {
			want[fieldExtensions.canonical] = []string{trimOWS(extensions)}
		}
		delete(got.Header, "Cache-Control") // ReadResponse adds it where there is Pragma
		delete(want, "Cache-Control")
		if !sameFields(got.Header, want) {
			t.Fatalf("fields of %q:\n got %q\nwant %q", b, got.Header, want)
		}
	})
}

func FuzzVerifyNeverAcceptsAWrongAccept(f *testing.F) {
	for _, tt := range verifyTests {
		f.Add(wire(tt.answer))
	}
	f.Fuzz(func(t *testing.T, stream string) {
		resp, err := ReadAnswer(bufio.NewReader(strings.NewReader(stream)), nil)
		if err != nil {
			return
		}
		a, err := Verify(resp, sampleKey, offered)
		if err != nil {
			if !reflect.DeepEqual(a, Agreement{}) {
				t.Fatalf("Verify(%q) = %+v besides %v", stream, a, err)
			}
			return
		}
		// The search is in the bytes, because a parser could be misled.
		if !strings.Contains(stream, " 101") || !strings.Contains(stream, sampleAccept) {
			t.Fatalf("Verify accepted %q", stream)
		}
		if a.Subprotocol != "" && a.Subprotocol != "chat" && a.Subprotocol != "superchat" {
			t.Fatalf("Verify accepted the subprotocol %q", a.Subprotocol)
		}
		if (a.Deflate || a.Unknown) != (len(a.Extensions) > 0) || a.Deflate && a.Unknown {
			t.Fatalf("Verify contradicts itself: %+v", a)
		}
		// The agreement can be written to the client.
		if _, err := AppendSwitch(nil, SwitchHeader(nil, resp.Header), sampleKey, a); err != nil {
			t.Fatalf("AppendSwitch after %q: %v", stream, err)
		}
	})
}

func FuzzTrustedProxiesClient(f *testing.F) {
	for _, tt := range clientTests {
		f.Add(tt.peer, strings.Join(tt.chain, "\n"))
	}
	proxies := trust(f, "10.0.0.0/8", "2001:db8::/32", "192.0.2.7", "unix")
	f.Fuzz(func(t *testing.T, peer, chain string) {
		lines := strings.Split(chain, "\n")
		addr, trusted := proxies.Client(peer, http.Header{"X-Forwarded-For": lines})
		if !trusted {
			if addr != PeerAddr(peer) {
				t.Fatalf("Client(%q, %q) = %v, though the peer is not trusted", peer, lines, addr)
			}
			return
		}
		if addr.Is4In6() || addr.Zone() != "" {
			t.Fatalf("Client(%q, %q) = %v; want it plain", peer, lines, addr)
		}
		// Elements that the client adds before its own address change nothing.
		own := append([]string{"127.0.0.1, nonsense", chain}, "198.51.100.1", "10.0.0.2")
		addr, _ = proxies.Client(peer, http.Header{"X-Forwarded-For": own})
		if addr != netip.MustParseAddr("198.51.100.1") {
			t.Fatalf("Client(%q, %q) = %v; want 198.51.100.1", peer, own, addr)
		}
	})
}

func FuzzOutboundURLNeverEscapesThePrefix(f *testing.F) {
	for _, tt := range outboundURLTests {
		if len(tt.target) < 1000 {
			f.Add(tt.target)
		}
	}
	f.Fuzz(func(t *testing.T, target string) {
		in, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		out, refusal := OutboundURL(in, "/ba%2fse")
		if refusal != nil {
			return
		}
		if !strings.HasPrefix(escapedPath(out), "/ba%2fse/") {
			t.Fatalf("%q became %q", target, escapedPath(out))
		}
		// Interpret the path like a backend that decodes it fully and treats \ as /.
		decoded := strings.ReplaceAll(out.Path, `\`, "/")
		if clean := path.Clean(decoded); clean != "/ba/se" && !strings.HasPrefix(clean, "/ba/se/") {
			t.Fatalf("%q became %q, which is %q", target, escapedPath(out), clean)
		}
		if _, err := AppendRequest(nil, &http.Request{Host: "a", URL: out}, sampleKey); err != nil {
			t.Fatalf("%q became %q: %v", target, out, err)
		}
	})
}

func FuzzOutboundHeaderBelievesNoStranger(f *testing.F) {
	for _, tt := range outboundHeaderTests {
		f.Add(tt.in)
	}
	f.Fuzz(func(t *testing.T, lines string) {
		in := &http.Request{Host: "example.com", RemoteAddr: "192.0.2.1:1", Header: fuzzHeader(lines)}
		out := OutboundHeader(in, false)
		for _, want := range forwarded {
			name, value, _ := strings.Cut(want, ": ")
			if got := out[name]; len(got) != 1 || got[0] != value {
				t.Fatalf("%s = %q; want %q", name, got, value)
			}
			delete(out, name)
		}
		for name := range out {
			canonical := http.CanonicalHeaderKey(name)
			dashed := strings.ToLower(strings.ReplaceAll(name, "_", "-"))
			if isHopByHop(canonical) || isOwnField(canonical) || strings.HasPrefix(dashed, "x-forwarded") || dashed == "forwarded" || dashed == "x-real-ip" {
				t.Fatalf("%q passed: %q", name, out[name])
			}
		}
	})
}

// Between slashes, the backend decodes what the client has sent.
func FuzzOutboundURLKeepsSegments(f *testing.F) {
	for _, tt := range outboundURLTests {
		f.Add(tt.target)
	}
	f.Fuzz(func(t *testing.T, target string) {
		in, err := url.ParseRequestURI(target)
		if err != nil || !strings.HasPrefix(target, "/") {
			return
		}
		out, refusal := OutboundURL(in, "")
		if refusal != nil {
			return
		}
		b, err := appendTarget(nil, out)
		if err != nil {
			t.Fatalf("%q cannot be written: %v", target, err)
		}
		sent, _, _ := strings.Cut(target, "?")
		got, _, _ := strings.Cut(string(b), "?")
		if want := decodeSegments(t, sent); !slices.Equal(decodeSegments(t, got), want) {
			t.Errorf("%q became %q, whose segments are not %q", sent, got, want)
		}
		if isLegal := !strings.ContainsFunc(sent, func(r rune) bool { return r > 0x7f || !isPathByte(byte(r)) }); isLegal && got != sent {
			t.Errorf("%q became %q though all its bytes are legal", sent, got)
		}
	})
}

func decodeSegments(t *testing.T, path string) (segments []string) {
	t.Helper()
	for segment := range strings.SplitSeq(path, "/") {
		decoded, err := url.PathUnescape(segment)
		if err != nil {
			t.Fatalf("segment %q of %q: %v", segment, path, err)
		}
		segments = append(segments, decoded)
	}
	return segments
}

// What a query has left, a balancer and the backend read alike.
func FuzzCleanQueryCutsOutOnlyBadParameters(f *testing.F) {
	for _, tt := range outboundURLTests {
		_, query, _ := strings.Cut(tt.target, "?")
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		got, err := cleanQuery(query)
		if err != nil {
			return
		}
		values, err := url.ParseQuery(got)
		if err != nil {
			t.Fatalf("%q became %q: %v", query, got, err)
		}
		if want, _ := url.ParseQuery(query); !reflect.DeepEqual(values, want) {
			t.Errorf("%q became %q with the values %q; want %q", query, got, values, want)
		}
		if isParsable(query) && !strings.ContainsFunc(query, func(r rune) bool { return r > 0x7f || !isQueryByte(byte(r)) }) && got != query {
			t.Errorf("%q became %q though all its bytes are legal", query, got)
		}
	})
}

// What the transport makes of the result of FinishPlain is read back as one request, whatever a
// hook has set.
func FuzzFinishPlainNeverEmitsForeignLines(f *testing.F) {
	f.Add("/a", "", "b=c", "a", "X-A:b\nCookie:c")
	f.Add("/a/b", "/a%2Fb", "", "a:80", "connection:close\ncontent-length:5\nTransfer-Encoding:chunked")
	f.Add("//x", "", "a#b", "a\r\nX:y", "X-A:b\v\nX\v:y")
	f.Add("*", "", "?", "[::1]", "user-agent:x\nTe:trailers\nExpect:100-continue")
	f.Fuzz(func(t *testing.T, path, rawPath, query, host, lines string) {
		out := &http.Request{
			Method: "POST", Host: host, Header: fuzzHeader(lines), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			URL: &url.URL{Path: path, RawPath: rawPath, RawQuery: query},
		}
		target, targetErr := appendTarget(nil, out.URL)
		in := &http.Request{Header: http.Header{"Te": {"trailers"}}}
		if FinishPlain(out, in) != nil {
			return
		}
		if targetErr != nil {
			t.Fatalf("FinishPlain accepts a target that appendTarget does not: %v", targetErr)
		}
		out.URL.Scheme, out.URL.Host = "http", "pool"
		var wire bytes.Buffer
		if err := out.Write(&wire); err != nil {
			return // an international host name that cannot be encoded, for instance
		}
		got, err := http.ReadRequest(bufio.NewReader(&wire))
		if err != nil {
			t.Fatalf("%v", err)
		}
		if wire.Len() > 0 || got.Method != "POST" || got.RequestURI != string(target) {
			t.Errorf("got %s %q and %q; want POST %q", got.Method, got.RequestURI, wire.String(), target)
		}
		for name := range got.Header {
			if (isHopByHop(name) && name != "Te" && name != "Connection" && name != "Content-Length") || name == "Expect" {
				t.Errorf("got the field %q", name)
			}
			if len(out.Header[name]) == 0 && name != "Content-Length" {
				t.Errorf("got the field %q, which is not in %v", name, out.Header)
			}
		}
	})
}
