package wstest

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"strings"
)

// Accept returns the Sec-WebSocket-Accept for a key, RFC 6455 §4.2.2.
func Accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// UpgradeRequest returns an upgrade request. The fields of header replace its
// default fields. A field without a value removes the default.
func UpgradeRequest(path, key string, header http.Header) string {
	return head("GET "+path+" HTTP/1.1", http.Header{
		"Host":                  {"wstest.example"},
		"Upgrade":               {"websocket"},
		"Connection":            {"Upgrade"},
		"Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key":     {key},
	}, header)
}

// UpgradeAnswer returns the 101 for a key, with header as in [UpgradeRequest].
// Scripts that send frames in the same write use it in place of AcceptUpgrade.
func UpgradeAnswer(key string, header http.Header) string {
	return head("HTTP/1.1 101 Switching Protocols", http.Header{
		"Upgrade":              {"websocket"},
		"Connection":           {"Upgrade"},
		"Sec-Websocket-Accept": {Accept(key)},
	}, header)
}

func head(firstLine string, fields, header http.Header) string {
	maps.Copy(fields, header)
	var b strings.Builder
	b.WriteString(firstLine + "\r\n")
	fields.Write(&b)
	b.WriteString("\r\n")
	return b.String()
}

// Handshake calls RequestUpgrade and WantUpgrade. Use it if the other end is not
// part of the script.
func (p *Peer) Handshake(path string, header http.Header) *http.Response {
	p.t.Helper()
	p.RequestUpgrade(path, header)
	return p.WantUpgrade()
}

// RequestUpgrade writes an [UpgradeRequest] with a random key.
func (p *Peer) RequestUpgrade(path string, header http.Header) {
	p.t.Helper()
	nonce := make([]byte, 16)
	rand.Read(nonce)
	p.key = base64.StdEncoding.EncodeToString(nonce)
	p.WriteRequest(UpgradeRequest(path, p.key, header))
}

// WantUpgrade reads the response to RequestUpgrade, which must be a valid 101.
func (p *Peer) WantUpgrade() *http.Response {
	p.t.Helper()
	resp := p.ReadResponse()
	if err := checkUpgrade(resp, p.key); err != nil {
		var b bytes.Buffer
		resp.Write(&b)
		p.t.Fatalf("%s: %v in:\n%s", p.role, err, b.String())
	}
	return resp
}

func checkUpgrade(resp *http.Response, key string) error {
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("got status %d; want 101", resp.StatusCode)
	}
	if got := resp.Header.Get("Upgrade"); !strings.EqualFold(got, "websocket") {
		return fmt.Errorf("got Upgrade: %q; want websocket", got)
	}
	if got := resp.Header.Get("Connection"); !strings.EqualFold(got, "upgrade") {
		return fmt.Errorf("got Connection: %q; want Upgrade", got)
	}
	if got := resp.Header.Get("Sec-WebSocket-Accept"); got != Accept(key) {
		return fmt.Errorf("got Sec-WebSocket-Accept: %q; want %q", got, Accept(key))
	}
	return nil
}

// WriteRequest writes raw with one call.
func (p *Peer) WriteRequest(raw string) {
	p.t.Helper()
	p.SendRaw([]byte(raw))
}

// ReadResponse reads a response up to its body. The test must read the body, if
// there is one, before the next step.
func (p *Peer) ReadResponse() *http.Response {
	p.t.Helper()
	p.setReadTimeout()
	resp, err := http.ReadResponse(p.r, nil)
	if err != nil {
		p.t.Fatalf("%s: got error %v; want a response", p.role, err)
	}
	return resp
}

// ReadRequest reads a request up to its body. The test must read the body, if there
// is one, before the next step.
func (p *Peer) ReadRequest() *http.Request {
	p.t.Helper()
	p.setReadTimeout()
	req, err := http.ReadRequest(p.r)
	if err != nil {
		p.t.Fatalf("%s: got error %v; want a request", p.role, err)
	}
	return req
}

// AcceptUpgrade reads a request, which must have a key, and writes an
// [UpgradeAnswer] with one call.
func (p *Peer) AcceptUpgrade(header http.Header) *http.Request {
	p.t.Helper()
	req := p.ReadRequest()
	key := req.Header.Get("Sec-WebSocket-Key")
	if key == "" {
		p.t.Fatalf("%s: got a request without Sec-WebSocket-Key: %v", p.role, req.Header)
	}
	p.SendRaw([]byte(UpgradeAnswer(key, header)))
	return req
}
