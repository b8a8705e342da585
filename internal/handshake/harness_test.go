package handshake

import (
	"bufio"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// sampleKey and sampleAccept are the pair of RFC 6455 §1.3.
const (
	sampleKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	sampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// upgrade is a valid upgrade request. Tests add lines to it, or replace some.
const upgrade = `GET /chat HTTP/1.1
Host: example.com
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Key: ` + sampleKey + `
Sec-WebSocket-Version: 13
`

// switched is a valid response to upgrade.
const switched = `HTTP/1.1 101 Switching Protocols
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Accept: ` + sampleAccept + `
`

// wire returns lines with the line ends of HTTP and an empty line at the end.
func wire(lines string) string {
	return strings.ReplaceAll(lines, "\n", "\r\n") + "\r\n"
}

// with replaces the line that starts with field in message by lines; with an
// empty field it adds them.
func with(message, field, lines string) string {
	var b strings.Builder
	for line := range strings.Lines(message) {
		if field == "" || !strings.HasPrefix(line, field+":") {
			b.WriteString(line)
		}
	}
	if lines != "" {
		b.WriteString(lines + "\n")
	}
	return b.String()
}

// parseRequest reads a request as a server does.
func parseRequest(t testing.TB, lines string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wire(lines))))
	if err != nil {
		t.Fatalf("ReadRequest(%q): %v", lines, err)
	}
	r.RemoteAddr = "192.0.2.1:1234"
	return r
}

// parseAnswer reads a response, and also returns the reader of the bytes after it.
func parseAnswer(t testing.TB, lines string) (*http.Response, *bufio.Reader) {
	t.Helper()
	br := bufio.NewReader(strings.NewReader(wire(lines) + "frames"))
	resp, err := ReadAnswer(br, &http.Request{Method: http.MethodGet})
	if err != nil {
		t.Fatalf("ReadAnswer(%q): %v", lines, err)
	}
	return resp, br
}

// header returns a header with lines "Name: value". It does not change the names.
func header(lines ...string) http.Header {
	h := make(http.Header)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		h[name] = append(h[name], strings.TrimPrefix(value, " "))
	}
	return h
}

// listExtensions returns a list of n distinct extensions.
func listExtensions(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = "x" + strconv.Itoa(i)
	}
	return strings.Join(names, ",")
}

func wantHeader(t *testing.T, got, want http.Header) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("header:\n got %q\nwant %q", got, want)
	}
}

// wantStatus checks that refusal has the status. Status 0 means no refusal.
func wantStatus(t *testing.T, refusal *Refusal, want int) {
	t.Helper()
	switch {
	case refusal == nil && want != 0:
		t.Errorf("no refusal; want %d", want)
	case refusal != nil && refusal.Status != want:
		t.Errorf("refused with %d %q; want %d", refusal.Status, refusal.Reason, want)
	case refusal != nil && refusal.Reason == "":
		t.Errorf("refused with %d and no reason", refusal.Status)
	}
}
