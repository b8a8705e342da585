package handshake

import (
	"net/http"
	"strings"
	"testing"
)

var classifyTests = []struct {
	name      string
	request   string
	isUpgrade bool
	status    int
	reason    string
}{
	{name: "sound", request: upgrade, isUpgrade: true},
	{name: "any-case", request: with(with(upgrade, "Upgrade", "upgrade: WebSocket"), "Connection", "connection: keep-alive, UPGRADE"), isUpgrade: true},
	{name: "connection-over-lines", request: with(upgrade, "Connection", "Connection:\nConnection: keep-alive\nConnection: upgrade"), isUpgrade: true},
	{name: "empty-elements", request: with(upgrade, "Upgrade", "Upgrade: , websocket ,"), isUpgrade: true},
	{name: "http-1.2", request: strings.Replace(upgrade, "HTTP/1.1", "HTTP/1.2", 1), isUpgrade: true},

	{name: "post", request: strings.Replace(upgrade, "GET", "POST", 1), status: 426, reason: "Method was `POST`: "},
	{name: "lower-case-get", request: strings.Replace(upgrade, "GET", "get", 1), status: 426, reason: "Method was `get`: "},
	{name: "http-1.0", request: strings.Replace(upgrade, "HTTP/1.1", "HTTP/1.0", 1), status: 426, reason: "Protocol was `HTTP/1.0`: "},
	{name: "http-2", request: strings.Replace(upgrade, "HTTP/1.1", "HTTP/2.0", 1), status: 426, reason: "Protocol was `HTTP/2.0`: "},
	{name: "plain-get", request: "GET / HTTP/1.1\nHost: a\n", status: 426, reason: "Upgrade was missing: only `websocket` is served here"},
	{name: "upgrade-dropped", request: with(upgrade, "Upgrade", ""), status: 426, reason: "Upgrade was missing: does a proxy in front drop it?"},
	{name: "h2c", request: with(upgrade, "Upgrade", "Upgrade: h2c"), status: 426, reason: "Upgrade was `h2c`: "},
	{name: "h2c-first", request: with(upgrade, "Upgrade", "Upgrade: h2c, websocket"), status: 426, reason: "Upgrade was `h2c, websocket`: "},
	{name: "h2c-last", request: with(upgrade, "Upgrade", "Upgrade: websocket, h2c"), status: 426, reason: "Upgrade was `websocket, h2c`: "},
	{name: "h2c-on-a-line-of-its-own", request: with(upgrade, "", "Upgrade: h2c"), status: 426, reason: "Upgrade was `websocket, h2c`: "},
	{name: "websocket-twice", request: with(upgrade, "", "Upgrade: websocket"), isUpgrade: true},
	{name: "websocket-twice-in-a-line", request: with(upgrade, "Upgrade", "Upgrade: websocket, WebSocket"), isUpgrade: true},
	{name: "websocket-twice-and-h2c", request: with(upgrade, "Upgrade", "Upgrade: websocket, websocket, h2c"), status: 426, reason: "Upgrade was `websocket, websocket, h2c`: "},
	{name: "other-token", request: with(upgrade, "Upgrade", "Upgrade: foo"), status: 426, reason: "Upgrade was `foo`: "},
	{name: "version", request: with(upgrade, "Upgrade", "Upgrade: websocket/13"), status: 426, reason: "Upgrade was `websocket/13`: "},
	{name: "kelvin-sign", request: with(upgrade, "Upgrade", "Upgrade: websoc\u212aet"), status: 426, reason: `Upgrade was "websoc\u212aet": `},
	{name: "long", request: with(upgrade, "Upgrade", "Upgrade: "+strings.Repeat("x", 65)), status: 426, reason: "Upgrade was `" + strings.Repeat("x", 64) + "`...: "},
	{name: "connection-dropped", request: with(upgrade, "Connection", "Connection: close"), status: 426, reason: "Connection was `close`: does a proxy in front drop it?"},
	{name: "no-connection", request: with(upgrade, "Connection", ""), status: 426, reason: "Connection was missing: "},
	{name: "upgrade-within-another-option", request: with(upgrade, "Connection", "Connection: upgrade-insecure"), status: 426, reason: "Connection was `upgrade-insecure`: "},
	{name: "connect", request: "CONNECT a:443 HTTP/1.1\nHost: a\n", status: 405, reason: "Method was `CONNECT`: "},
}

func TestClassifyAcceptsOnlyWebSocketUpgrades(t *testing.T) {
	for _, tt := range classifyTests {
		t.Run(tt.name, func(t *testing.T) {
			isUpgrade, otherwise := Classify(parseRequest(t, tt.request))
			if isUpgrade != tt.isUpgrade {
				t.Errorf("Classify(%q) = %v; want %v", tt.request, isUpgrade, tt.isUpgrade)
			}
			wantStatus(t, otherwise, tt.status)
			if otherwise != nil && !strings.HasPrefix(otherwise.Reason, tt.reason) {
				t.Errorf("reason = %q; want %q", otherwise.Reason, tt.reason)
			}
		})
	}
}

func TestClassifyNamesProtocolToUpgradeTo(t *testing.T) {
	_, otherwise := Classify(parseRequest(t, "GET / HTTP/1.1\nHost: a\n"))
	wantHeader(t, otherwise.Header, header("Upgrade: websocket"))
}

// "An endpoint MUST NOT generate an HTTP/2 message containing
// connection-specific header fields."
// https://www.rfc-editor.org/rfc/rfc9113#section-8.2.2
func TestClassifySetsNoUpgradeFieldForHTTP2(t *testing.T) {
	r := parseRequest(t, "GET / HTTP/1.1\nHost: a\n")
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	_, otherwise := Classify(r)
	wantStatus(t, otherwise, 426)
	wantHeader(t, otherwise.Header, nil)
}

// overHTTP2 returns an extended CONNECT, or what middleware has made of it, as net/http hands
// it over.
func overHTTP2(method, target string, fields http.Header) *http.Request {
	r, err := http.NewRequest(method, target, http.NoBody)
	if err != nil {
		panic(err)
	}
	r.RequestURI, r.Host = target, "chat.example"
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	r.ContentLength = -1
	r.Header = fields
	return r
}

func TestClassifyDistinguishesKindsOfCONNECT(t *testing.T) {
	connect := parseRequest(t, "CONNECT a:443 HTTP/1.1\nHost: a\n")
	_, otherwise := Classify(connect)
	wantStatus(t, otherwise, 405)
	wantHeader(t, otherwise.Header, header("Allow: GET"))

	for _, tt := range []struct {
		protocols []string
		isUpgrade bool
		status    int
	}{
		{[]string{"websocket"}, true, 0},
		{[]string{"WebSocket"}, true, 0},
		{[]string{"connect-udp"}, false, 501},
		{[]string{"h2c"}, false, 501},
		{[]string{"websocket, h2c"}, false, 501},
		{[]string{"websocket", "h2c"}, false, 501},
		{[]string{""}, false, 501},
		{nil, false, 405},
	} {
		r := overHTTP2("CONNECT", "/", http.Header{":protocol": tt.protocols})
		isUpgrade, otherwise := Classify(r)
		if isUpgrade != tt.isUpgrade {
			t.Errorf("Classify with :protocol %q = %v; want %v", tt.protocols, isUpgrade, tt.isUpgrade)
		}
		wantStatus(t, otherwise, tt.status)
	}

	// No HTTP/1.1 client can send the field, and no other method is an extended CONNECT.
	http1 := connect.Clone(t.Context())
	http1.Header[":protocol"] = []string{"websocket"}
	_, otherwise = Classify(http1)
	wantStatus(t, otherwise, 501)
	_, otherwise = Classify(overHTTP2("GET", "/", http.Header{":protocol": {"websocket"}}))
	wantStatus(t, otherwise, 426)

	http3 := connect.Clone(t.Context())
	http3.Proto = "websocket"
	_, otherwise = Classify(http3)
	wantStatus(t, otherwise, 501)
}

func TestClassifyAllocatesNothingForUpgrade(t *testing.T) {
	r := parseRequest(t, with(upgrade, "Connection", "Connection: keep-alive, Upgrade"))
	if n := testing.AllocsPerRun(100, func() { Classify(r) }); n != 0 {
		t.Errorf("Classify allocates %v times; want 0", n)
	}
}

var validateTests = []struct {
	name    string
	request string
	status  int
}{
	{"sound", upgrade, 0},
	{"offers", with(upgrade, "", "Sec-WebSocket-Protocol: chat, superchat\nSec-WebSocket-Protocol: Chat\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x; a=\"b\"; c = d\nSec-WebSocket-Extensions: permessage-deflate"), 0},
	{"empty-offers", with(upgrade, "", "Sec-WebSocket-Protocol:\nSec-WebSocket-Extensions: ,"), 0},
	{"content-length-zero", with(upgrade, "", "Content-Length: 0"), 0},

	{"no-version", with(upgrade, "Sec-WebSocket-Version", ""), 426},
	{"old-version", with(upgrade, "Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"), 426},
	{"version-777", with(upgrade, "Sec-WebSocket-Version", "Sec-WebSocket-Version: 777"), 426},
	{"version-list", with(upgrade, "Sec-WebSocket-Version", "Sec-WebSocket-Version: 13, 8"), 426},
	{"version-twice", with(upgrade, "", "Sec-WebSocket-Version: 13"), 426},

	{"no-key", with(upgrade, "Sec-WebSocket-Key", ""), 400},
	{"empty-key", with(upgrade, "Sec-WebSocket-Key", "Sec-WebSocket-Key:"), 400},
	{"key-twice", with(upgrade, "", "Sec-WebSocket-Key: "+sampleKey), 400},
	{"key-of-15-bytes", with(upgrade, "Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA"), 400},
	{"key-of-17-bytes", with(upgrade, "Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA="), 400},
	{"key-of-18-bytes", with(upgrade, "Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAAA"), 400},
	{"key-without-padding", with(upgrade, "Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"), 400},
	{"key-in-url-alphabet", with(upgrade, "Sec-WebSocket-Key", "Sec-WebSocket-Key: ____________________-w=="), 400},
	{"key-with-a-byte-that-is-not-base64", with(upgrade, "Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ!=="), 400},
	{"key-with-one-padding", with(upgrade, "Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQA="), 400},
	{"key-with-stray-bits", with(upgrade, "Sec-WebSocket-Key", "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC=="), 0}, // the example of RFC 6455 §4.1

	{"no-host", with(upgrade, "Host", ""), 400},
	{"host-that-cannot-be-written", strings.Replace(upgrade, "GET /", "GET http://ex%E4mple/", 1), 400},
	{"content-length", with(upgrade, "", "Content-Length: 5"), 400},
	{"chunked", with(upgrade, "", "Transfer-Encoding: chunked"), 400},
	{"expect-continue", with(upgrade, "", "Expect: 100-continue"), 417},
	{"expect-nothing", with(upgrade, "", "Expect:"), 417},

	{"subprotocol-garbage", with(upgrade, "", "Sec-WebSocket-Protocol: a b"), 400},
	{"subprotocol-quoted", with(upgrade, "", `Sec-WebSocket-Protocol: "chat"`), 400},
	{"subprotocol-not-ascii", with(upgrade, "", "Sec-WebSocket-Protocol: ch\u00e4t"), 400},
	{"subprotocol-twice", with(upgrade, "", "Sec-WebSocket-Protocol: chat\nSec-WebSocket-Protocol: a, chat"), 400},
	{"extension-garbage", with(upgrade, "", "Sec-WebSocket-Extensions: a b"), 400},
	{"extension-without-name", with(upgrade, "", "Sec-WebSocket-Extensions: ;a"), 400},
	{"extension-without-parameter", with(upgrade, "", "Sec-WebSocket-Extensions: a;"), 400},
	{"extension-without-value", with(upgrade, "", "Sec-WebSocket-Extensions: a; b="), 400},
	{"extension-not-ascii", with(upgrade, "", "Sec-WebSocket-Extensions: \u00e4"), 400},
	{"extension-value-open", with(upgrade, "", `Sec-WebSocket-Extensions: a; b="c`), 400},
	{"extension-value-no-token", with(upgrade, "", `Sec-WebSocket-Extensions: bbf-usp-protocol; eid="self::a"`), 0},
	{"extension-value-with-a-comma", with(upgrade, "", `Sec-WebSocket-Extensions: a; b="c, d"`), 400},
	{"extension-value-escaped", with(upgrade, "", `Sec-WebSocket-Extensions: a; b="\c"`), 400},
	{"16-extensions", with(upgrade, "", "Sec-WebSocket-Extensions: "+listExtensions(16)), 0},
	{"17-extensions", with(upgrade, "", "Sec-WebSocket-Extensions: "+listExtensions(17)), 400},
	{"17-extensions-over-lines", with(upgrade, "", "Sec-WebSocket-Extensions: "+listExtensions(16)+"\nSec-WebSocket-Extensions: y"), 400},
	{"extension-on-second-line", with(upgrade, "", "Sec-WebSocket-Extensions: a\nSec-WebSocket-Extensions: ="), 400},
}

func TestValidateRefusesInvalidUpgrades(t *testing.T) {
	for _, tt := range validateTests {
		t.Run(tt.name, func(t *testing.T) {
			wantStatus(t, Validate(parseRequest(t, tt.request)), tt.status)
		})
	}
}

func TestValidateChecksRequestsOverHTTP2(t *testing.T) {
	version := http.Header{"Sec-Websocket-Version": {"13"}}
	plus := func(name, value string) http.Header {
		h := version.Clone()
		h[name] = append(h[name], value)
		return h
	}
	for _, tt := range []struct {
		name   string
		change func(*http.Request)
		status int
	}{
		{"sound", func(*http.Request) {}, 0},
		{"key that is none", func(r *http.Request) { r.Header = plus("Sec-Websocket-Key", "x") }, 0},
		{"content length", func(r *http.Request) { r.ContentLength = 5 }, 0},
		{"offers", func(r *http.Request) { r.Header = plus("Sec-Websocket-Protocol", "a, b") }, 0},
		{"host that is the authority", func(r *http.Request) { r.Header = plus("Host", "chat.example") }, 0},
		{"leading slashes", func(r *http.Request) { r.RequestURI = "//ws" }, 0},

		{"no version", func(r *http.Request) { r.Header = nil }, 426},
		{"old version", func(r *http.Request) { r.Header = http.Header{"Sec-Websocket-Version": {"8"}} }, 426},
		{"no authority", func(r *http.Request) { r.Host = "" }, 400},
		{"authority that cannot be written", func(r *http.Request) { r.Host = "ex\u00e4mple" }, 400},
		{"other host", func(r *http.Request) { r.Header = plus("Host", "other.example") }, 400},
		{"two hosts", func(r *http.Request) { r.Header["Host"] = []string{"chat.example", "other.example"} }, 400},
		{"URL", func(r *http.Request) { r.RequestURI = "http://other.example/ws" }, 400},
		{"asterisk", func(r *http.Request) { r.RequestURI = "*" }, 400},
		{"no path", func(r *http.Request) { r.RequestURI = "" }, 400},
		{"expect", func(r *http.Request) { r.Header = plus("Expect", "x") }, 417},
		{"offer twice", func(r *http.Request) { r.Header = plus("Sec-Websocket-Protocol", "a, a") }, 400},
		{"extension garbage", func(r *http.Request) { r.Header = plus("Sec-Websocket-Extensions", "a b") }, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := overHTTP2("CONNECT", "/ws", version.Clone())
			tt.change(r)
			refusal := Validate(r)
			wantStatus(t, refusal, tt.status)
			if refusal != nil && refusal.Header["Upgrade"] != nil {
				t.Error("the refusal has an Upgrade field")
			}
		})
	}
}

func TestValidateNamesOfferThatIsTooLong(t *testing.T) {
	refusal := Validate(parseRequest(t, with(upgrade, "", "Sec-WebSocket-Extensions: "+listExtensions(17))))
	if want := "Sec-WebSocket-Extensions listed more than 16 extensions"; refusal == nil || refusal.Reason != want {
		t.Errorf("refusal = %+v; want %q", refusal, want)
	}
}

// A header of 49 KB has cost 35 s of CPU. Every name that is stored allocates
// memory, so the allocations show how many names are read, even on a slow machine.
func TestValidateStopsAtSeventeenthExtension(t *testing.T) {
	cost := func(list string) float64 {
		r := parseRequest(t, with(upgrade, "", "Sec-WebSocket-Extensions: "+list))
		wantStatus(t, Validate(r), 400)
		return testing.AllocsPerRun(100, func() { Validate(r) })
	}
	long := listExtensions(8400)
	if len(long) < 49_000 {
		t.Fatalf("the long offer has %d bytes; want 49 KB", len(long))
	}
	if short, long := cost(listExtensions(17)), cost(long); long > short {
		t.Errorf("17 extensions cost %v allocations, 49 KB of them %v", short, long)
	}
}

func TestValidateNamesVersionInRFCSpelling(t *testing.T) {
	refusal := Validate(parseRequest(t, with(upgrade, "Sec-WebSocket-Version", "")))
	wantHeader(t, refusal.Header, header("Upgrade: websocket", "Sec-WebSocket-Version: 13"))
}

func TestValidateFindsFieldsInEitherSpelling(t *testing.T) {
	r := parseRequest(t, upgrade)
	r.Header = header("Sec-WebSocket-Key: "+sampleKey, "Sec-WebSocket-Version: 13")
	wantStatus(t, Validate(r), 0)
	r.Header["Sec-Websocket-Key"] = []string{sampleKey}
	wantStatus(t, Validate(r), 400)
}

// A request may have a body though the fields that announce it were removed.
func TestValidateChecksBodyLikeNetHTTP(t *testing.T) {
	for _, change := range []func(*http.Request){
		func(r *http.Request) { r.ContentLength = -1 },
		func(r *http.Request) { r.TransferEncoding = []string{"chunked"} },
	} {
		r := parseRequest(t, upgrade)
		change(r)
		wantStatus(t, Validate(r), 400)
	}
}

// The decoder skips line ends, so a key with line ends decodes to fewer bytes.
func TestIsKeyRefusesLineEnds(t *testing.T) {
	for _, key := range []string{
		"dGhlIHNhbXBsZSBub25j\r\n==",
		"dGhlIHNhbXBsZSBub25jZQ==\r\n",
		"dGhlIHNhbXBsZSBub25jZQ\n=",
		"\n\n\n\ndGhlIHNhbXBsZSBub25j",
	} {
		if isKey(key) {
			t.Errorf("isKey(%q) = true; want false", key)
		}
	}
}
