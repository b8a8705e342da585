package handshake

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// Some servers send these fields on a 101, where they have no meaning. A proxy that
// used them would treat the first frames as a body (istio#25814, istio#29427).
func TestReadAnswerLeavesBytesAfter101(t *testing.T) {
	for _, line := range []string{
		"", "Content-Length: 0", "Content-Length: 5", "Content-Length: 5\nContent-Length: 5",
		"Transfer-Encoding: chunked", "Transfer-Encoding: Chunked\nContent-Length: 5", "Trailer: A",
	} {
		t.Run(line, func(t *testing.T) {
			resp, br := parseAnswer(t, with(switched, "", line))
			if _, err := Verify(resp, sampleKey, nil); err != nil {
				t.Error(err)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || len(body) > 0 {
				t.Errorf("body = %q, %v; want none", body, err)
			}
			if rest, err := io.ReadAll(br); err != nil || string(rest) != "frames" {
				t.Errorf("after the 101: %q, %v; want %q", rest, err, "frames")
			}
		})
	}
}

func TestReadAnswerRefusesMalformedResponses(t *testing.T) {
	for name, lines := range map[string]string{
		"other-transfer-encoding": with(switched, "", "Transfer-Encoding: gzip"),
		"two-transfer-encodings":  with(switched, "", "Transfer-Encoding: chunked\nTransfer-Encoding: chunked"),
		"listed-encodings":        with(switched, "", "Transfer-Encoding: gzip, chunked"),
		"two-content-lengths":     with(switched, "", "Content-Length: 5\nContent-Length: 6"),
		"negative-content-length": with(switched, "", "Content-Length: -1"),
		"no-http":                 "SSH-2.0-OpenSSH_9.9\n",
		"no-status":               "HTTP/1.1\n",
		"short-status":            "HTTP/1.1 42 Short\n",
		"low-status":              "HTTP/1.1 042 Low\n",
		"signed-status":           "HTTP/1.1 +42 Signed\n",
		"space-in-name":           with(switched, "", "A B: 1"),
		"space-behind-name":       with(switched, "", "A : 1"),
		"no-colon":                with(switched, "", "A"),
		"cr-in-value":             with(switched, "", "A: 1\r2"),
		"nul-in-value":            with(switched, "", "A: \x00"),
	} {
		t.Run(name, func(t *testing.T) {
			br := bufio.NewReader(strings.NewReader(wire(lines)))
			if resp, err := ReadAnswer(br, outRequest("/")); err == nil {
				t.Errorf("ReadAnswer(%q) = %v; want an error", lines, resp.Status)
			}
		})
	}
}

// echoes are responses of a backend that echoes parts of the request. The URL
// contains a token, and any field may contain one.
var echoes = []string{
	"HTTP/1.1\t/ws?token=SECRET\n",            // no space: the whole line is malformed
	"HTTP/1.1 /ws?token=SECRET\n",             // in place of the status code
	"/ws?token=SECRET 101 Switching\n",        // in place of the version
	"HTTP/1.1 042 /ws?token=SECRET\n",         // after a status that is too low
	"HTTP/1.1 +42 /ws?token=SECRET\n",         // after a status that ReadResponse accepts
	"HTTP/1.1 101 /ws?token=SECRET\nSECRET\n", // in a line without a colon
	"HTTP/1.1 101 OK\n SECRET: 1\n",           // in a continuation without a line before it
	with(switched, "", "/ws?token=\"SECRET: 1"),
	with(switched, "", "SECRET : 1"),
	with(switched, "", "Cookie: SECRET\x00"),
	with(switched, "", "Transfer-Encoding: SECRET"),
	with(switched, "", "Transfer-Encoding: SECRET\nTransfer-Encoding: SECRET"),
	with(switched, "", "Content-Length: SECRET"),
	with(switched, "", "Content-Length: SECRET\nContent-Length: 5"),
	"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: Content-Length, SECRET\n",

	"HTTP/1.1 200 /ws?token=SECRET\n",
	with(switched, "Upgrade", "Upgrade: SECRET"),
	with(switched, "", "Upgrade: SECRET"),
	with(switched, "Connection", "Connection: SECRET"),
	with(switched, "Sec-WebSocket-Accept", "Sec-WebSocket-Accept: SECRET"),
	with(switched, "", "Sec-WebSocket-Accept: SECRET"),
	with(switched, "", "Sec-WebSocket-Protocol: SECRET"),
	with(switched, "", "Sec-WebSocket-Extensions: SECRET"),
	with(switched, "", "Sec-WebSocket-Extensions: x-a; SECRET="),
	with(switched, "", "Sec-WebSocket-Extensions: "+strings.Repeat("SECRET,", 17)),
}

// Errors are logged. Cookies, and tokens in URLs and subprotocols, must not be.
func TestErrorsQuoteNothingOfResponse(t *testing.T) {
	for _, lines := range echoes {
		resp, err := ReadAnswer(bufio.NewReader(strings.NewReader(wire(lines))), outRequest("/"))
		if err == nil {
			_, err = Verify(resp, sampleKey, offered)
		}
		if err == nil || strings.Contains(strings.ToUpper(err.Error()), "SECRET") {
			t.Errorf("%q: err = %v; want one without the secret", lines, err)
		}
		if errors.Unwrap(err) != nil && errors.Unwrap(err) != errMalformed && errors.Unwrap(err) != errTooManyExtensions {
			t.Errorf("%q: %v wraps %v, which may tell more", lines, err, errors.Unwrap(err))
		}
	}
}

func TestErrorsNameFault(t *testing.T) {
	for _, tt := range []struct{ lines, want string }{
		{"SSH-2.0-OpenSSH_9.9\n", "malformed HTTP response"},
		{"HTTP/1.1 42 Short\n", "malformed HTTP status code"},
		{"HTTP/x 101 OK\n", "malformed HTTP version"},
		{"HTTP/1.1 042 Low\n", `response has malformed status "042"`},
		{with(switched, "", "A"), "malformed MIME header"},
		{with(switched, "", "A : 1"), "response has malformed field name"},
		{with(switched, "", "Content-Length: 5\nContent-Length: 6"), "http: message cannot contain multiple Content-Length headers"},
		{with(switched, "", "Transfer-Encoding: gzip"), "unsupported transfer encoding"},
		{with(switched, "", "Transfer-Encoding: a\nTransfer-Encoding: b"), "too many transfer encodings"},
		{with(switched, "Upgrade", ""), "response has no Upgrade"},
		{with(switched, "Upgrade", "Upgrade: h2c"), "response's Upgrade is not websocket"},
		{with(switched, "Connection", "Connection: close"), "response's Connection does not name upgrade"},
		{with(switched, "Connection", "Connection: a"), "response's Connection does not name upgrade"},
		{with(switched, "Sec-WebSocket-Accept", ""), "response has no Sec-WebSocket-Accept"},
		{with(switched, "", "Sec-WebSocket-Accept: a"), "response's Sec-WebSocket-Accept does not fit the key"},
		{with(switched, "", "Sec-WebSocket-Extensions: ="), "response's Sec-WebSocket-Extensions was malformed"},
		{with(switched, "", "Sec-WebSocket-Extensions: "+listExtensions(17)), "response's Sec-WebSocket-Extensions listed more than 16 extensions"},
	} {
		resp, err := ReadAnswer(bufio.NewReader(strings.NewReader(wire(tt.lines))), outRequest("/"))
		if err == nil {
			_, err = Verify(resp, sampleKey, offered)
		}
		if err == nil || err.Error() != tt.want {
			t.Errorf("%q: err = %v; want %s", tt.lines, err, tt.want)
		}
	}
}

// Older versions of Go include the line without quotes.
func TestErrorsContainNoUnquotedLine(t *testing.T) {
	err := RedactError(textproto.ProtocolError("malformed MIME header line: SECRET: 1"))
	if want := "malformed MIME header line"; err.Error() != want {
		t.Errorf("err = %v; want %s", err, want)
	}
}

// Callers check the error of the connection: a deadline leads to a 504.
func TestReadAnswerReturnsConnectionErrorsUnchanged(t *testing.T) {
	for _, want := range []error{
		os.ErrDeadlineExceeded,
		&net.OpError{Op: "read", Net: `"tcp"`, Err: os.ErrDeadlineExceeded},
		fmt.Errorf(`behind "TLS": %w`, io.EOF),
		fmt.Errorf(`behind "TLS": %w`, io.ErrUnexpectedEOF),
		errors.New("no quotes in this"),
	} {
		br := bufio.NewReader(io.MultiReader(strings.NewReader("HTTP/1.1 101 "), iotest.ErrReader(want)))
		if _, err := ReadAnswer(br, outRequest("/")); err != want {
			t.Errorf("err = %v; want %v", err, want)
		}
	}
	br := bufio.NewReader(strings.NewReader(""))
	if _, err := ReadAnswer(br, outRequest("/")); err != io.ErrUnexpectedEOF {
		t.Errorf("err = %v; want %v", err, io.ErrUnexpectedEOF)
	}
}

func TestReadAnswerSkipsFiveInterimResponses(t *testing.T) {
	interim := wire("HTTP/1.1 103 Early Hints\nLink: </a>\n")
	read := func(n int) (*http.Response, error) {
		stream := strings.Repeat(interim, n) + wire(switched)
		return ReadAnswer(bufio.NewReader(strings.NewReader(stream)), outRequest("/"))
	}
	resp, err := read(5)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Link") != "" {
		t.Errorf("after 5: %v, %v; want the 101", resp, err)
	}
	if resp, err := read(6); err == nil {
		t.Errorf("after 6: %v; want an error", resp.Status)
	}
}

func TestReadAnswerReportsTruncatedResponse(t *testing.T) {
	for cut := range len(wire(switched)) {
		br := bufio.NewReader(strings.NewReader(wire(switched)[:cut]))
		if _, err := ReadAnswer(br, outRequest("/")); err == nil {
			t.Errorf("after %d bytes: no error", cut)
		}
	}
}

func TestReadAnswerReturnsOtherResponsesWithBody(t *testing.T) {
	for _, lines := range []string{
		"HTTP/1.1 403 Forbidden\nContent-Length: 6\n",
		"HTTP/1.0 200 OK\n", // the body ends with the connection
	} {
		resp, _ := parseAnswer(t, lines)
		body, err := io.ReadAll(resp.Body)
		if err != nil || string(body) != "frames" {
			t.Errorf("body of %q = %q, %v; want %q", lines, body, err, "frames")
		}
	}
}

// offered is the client's header in most of these tests.
var offered = header("Sec-WebSocket-Protocol: chat, superchat", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-a")

var verifyTests = []struct {
	name   string
	answer string
	want   *Agreement // nil if refused
}{
	{"sound", switched, &Agreement{}},
	{"any-case", "HTTP/1.1 101 Sure\nupgrade: WebSocket\nconnection: keep-alive, UPGRADE\nsec-websocket-accept:  " + sampleAccept + " \n", &Agreement{}},
	{"http-1.0", strings.Replace(switched, "HTTP/1.1", "HTTP/1.0", 1), &Agreement{}},

	{"200", strings.Replace(switched, "101", "200", 1), nil},
	{"302", strings.Replace(switched, "101", "302", 1), nil},
	{"426", strings.Replace(switched, "101", "426", 1), nil},
	{"no-upgrade", with(switched, "Upgrade", ""), nil},
	{"upgrade-to-h2c", with(switched, "Upgrade", "Upgrade: h2c"), nil},
	{"upgrade-to-both", with(switched, "", "Upgrade: h2c"), nil},
	{"upgrade-twice", with(switched, "", "Upgrade: websocket"), nil},
	{"no-connection", with(switched, "Connection", ""), nil},
	{"connection-close", with(switched, "Connection", "Connection: close"), nil},
	{"connection-close-beside-upgrade", with(switched, "Connection", "Connection: Upgrade, close"), &Agreement{}},
	{"connection-close-on-another-line", with(switched, "", "connection: close"), &Agreement{}},
	{"no-accept", with(switched, "Sec-WebSocket-Accept", ""), nil},
	{"empty-accept", with(switched, "Sec-WebSocket-Accept", "Sec-WebSocket-Accept:"), nil},
	{"wrong-accept", with(switched, "Sec-WebSocket-Accept", "Sec-WebSocket-Accept: "+string(appendAccept(nil, "other"))), nil},
	{"accept-in-other-case", with(switched, "Sec-WebSocket-Accept", "Sec-WebSocket-Accept: "+strings.ToUpper(sampleAccept)), nil},
	{"key-for-accept", with(switched, "Sec-WebSocket-Accept", "Sec-WebSocket-Accept: "+sampleKey), nil},
	{"accept-twice", with(switched, "", "Sec-WebSocket-Accept: "+sampleAccept), nil},

	{"subprotocol", with(switched, "", "Sec-WebSocket-Protocol: superchat"), &Agreement{Subprotocol: "superchat"}},
	{"empty-subprotocol", with(switched, "", "Sec-WebSocket-Protocol:"), &Agreement{}},
	{"two-subprotocols", with(switched, "", "Sec-WebSocket-Protocol: chat, superchat"), nil},
	{"two-subprotocol-lines", with(switched, "", "Sec-WebSocket-Protocol: chat\nSec-WebSocket-Protocol: chat"), nil},
	{"other-subprotocol", with(switched, "", "Sec-WebSocket-Protocol: other"), nil},
	{"subprotocol-in-other-case", with(switched, "", "Sec-WebSocket-Protocol: Chat"), nil},
	{"subprotocol-garbage", with(switched, "", "Sec-WebSocket-Protocol: chat superchat"), nil},

	{
		"deflate", with(switched, "", "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"),
		&Agreement{Extensions: []string{"permessage-deflate; server_no_context_takeover"}, Deflate: true},
	},
	{
		"other-extension", with(switched, "", "Sec-WebSocket-Extensions: x-a"),
		&Agreement{Extensions: []string{"x-a"}, Unknown: true},
	},
	{
		"both-extensions", with(switched, "", "Sec-WebSocket-Extensions: permessage-deflate\nSec-WebSocket-Extensions: x-a; b=\"c\""),
		&Agreement{Extensions: []string{"permessage-deflate", `x-a; b="c"`}, Unknown: true},
	},
	{"no-extension", with(switched, "", "Sec-WebSocket-Extensions:"), &Agreement{}},
	{"extension-not-offered", with(switched, "", "Sec-WebSocket-Extensions: x-b"), nil},
	{"extension-in-other-case", with(switched, "", "Sec-WebSocket-Extensions: Permessage-Deflate"), nil},
	{"extension-twice", with(switched, "", "Sec-WebSocket-Extensions: permessage-deflate, permessage-deflate; a"), nil},
	{"17-extensions", with(switched, "", "Sec-WebSocket-Extensions: "+listExtensions(17)), nil},
	{"extension-garbage", with(switched, "", "Sec-WebSocket-Extensions: permessage-deflate;"), nil},
	{"extension-value-no-token", with(switched, "", `Sec-WebSocket-Extensions: x-a; eid="self::a"`), &Agreement{Extensions: []string{`x-a; eid="self::a"`}, Unknown: true}},
}

func TestVerifyAcceptsOnlyMatchingResponse(t *testing.T) {
	for _, tt := range verifyTests {
		t.Run(tt.name, func(t *testing.T) {
			resp, _ := parseAnswer(t, tt.answer)
			got, err := Verify(resp, sampleKey, offered)
			if tt.want == nil {
				if err == nil {
					t.Errorf("Verify(%q) = %+v; want an error", tt.answer, got)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, *tt.want) {
				t.Errorf("Verify(%q) = %+v, %v; want %+v", tt.answer, got, err, *tt.want)
			}
		})
	}
}

// The client and the request to the backend must both have offered the choice. A
// Rewrite hook may have changed the offer.
func TestVerifyRequiresChoiceInEveryOffer(t *testing.T) {
	chosen, _ := parseAnswer(t, with(switched, "", "Sec-WebSocket-Protocol: chat\nSec-WebSocket-Extensions: x-a"))
	canonical := header("Sec-Websocket-Protocol: chat", "Sec-Websocket-Extensions: x-a")
	both := header("Sec-Websocket-Protocol: superchat", "Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Extensions: x-a")
	for _, tt := range []struct {
		name   string
		offers []http.Header
		ok     bool
	}{
		{"one", []http.Header{offered}, true},
		{"both", []http.Header{offered, canonical}, true},
		{"two-spellings", []http.Header{both}, true},
		{"second-without", []http.Header{offered, nil}, false},
		{"first-without", []http.Header{header("Sec-WebSocket-Protocol: chat"), offered}, false},
		{"malformed", []http.Header{header("Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Extensions: x-a, =")}, false},
		{"too-long", []http.Header{header("Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Extensions: x-a, "+listExtensions(16))}, false},
		{"none", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Verify(chosen, sampleKey, tt.offers...); (err == nil) != tt.ok {
				t.Errorf("Verify with %q: %v; want ok = %v", tt.offers, err, tt.ok)
			}
		})
	}
}

func TestVerifyAcceptsSixteenExtensions(t *testing.T) {
	list := "Sec-WebSocket-Extensions: " + listExtensions(16)
	resp, _ := parseAnswer(t, with(switched, "", list))
	if _, err := Verify(resp, sampleKey, header(list), header(list)); err != nil {
		t.Error(err)
	}
}

// Reading the offer again for each name of the response has a quadratic cost.
func TestOfferedByAllReadsEachOfferOnce(t *testing.T) {
	offers := []http.Header{offered, header("Sec-WebSocket-Protocol: superchat, chat, other"), offered}
	read := 0
	common := offeredByAll(offers, func(h http.Header) iter.Seq[string] {
		read++
		return offeredSubprotocols(h)
	})
	if want := map[string]bool{"chat": true, "superchat": true}; !reflect.DeepEqual(common, want) || read != len(offers) {
		t.Errorf("offeredByAll = %v after reading %d offers; want %v after %d", common, read, want, len(offers))
	}
}

func TestVerifyNeedsNoOfferWithoutChoice(t *testing.T) {
	resp, _ := parseAnswer(t, switched)
	if _, err := Verify(resp, sampleKey); err != nil {
		t.Error(err)
	}
}

// The head of a 101 is read in one piece, in whatever pieces it comes.
func TestReadAnswerKeepsConnectionOfLongHeads(t *testing.T) {
	lines := with(switched, "Connection", "Connection: close, upgrade\nX: "+strings.Repeat("x", 10_000))
	br := bufio.NewReaderSize(iotest.OneByteReader(strings.NewReader(wire(lines)+"frames")), 16)
	resp, err := ReadAnswer(br, outRequest("/"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(resp, sampleKey, offered); err != nil {
		t.Error(err)
	}
	if rest, _ := io.ReadAll(br); string(rest) != "frames" {
		t.Errorf("after the 101 %q is left; want frames", rest)
	}
}

// A backend that sends a short line and nothing more is not waited for.
func TestReadAnswerRefusesAShortLineAtOnce(t *testing.T) {
	for _, line := range []string{"\n", "no\r\n", "HTTP/1.1\n"} {
		unread := errors.New("read beyond the line")
		_, err := ReadAnswer(bufio.NewReader(io.MultiReader(strings.NewReader(line), iotest.ErrReader(unread))), httptest.NewRequest("GET", "/", nil))
		if err == nil || errors.Is(err, unread) {
			t.Errorf("%q: error is %v; want one about the line", line, err)
		}
	}
}
