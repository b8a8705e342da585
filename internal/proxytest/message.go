package proxytest

import (
	"fmt"
	"net/http"
	"strings"
)

// SampleKey is the key in RFC 6455 §1.3, and SampleAccept the accept value for it.
const (
	SampleKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	SampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// Head returns the head of an HTTP message.
func Head(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

// UpgradeTo returns an upgrade request: the lines that it needs, and then lines.
func UpgradeTo(target string, lines ...string) string {
	return Head(append([]string{
		"GET " + target + " HTTP/1.1",
		"Host: chat.example",
		"Upgrade: websocket",
		"Connection: Upgrade",
		"Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: " + SampleKey,
	}, lines...)...)
}

// UpgradeWithOffers is an upgrade request that offers two subprotocols and one
// extension.
var UpgradeWithOffers = UpgradeTo("/chat", "Sec-WebSocket-Protocol: v1, v2", "Sec-WebSocket-Extensions: permessage-deflate")

// Switching is a 101 for a [wstest.RawBackend] or a [FakeBackend], which replace
// {accept}.
var Switching = SwitchingWith()

// SwitchingWith returns Switching with further lines.
func SwitchingWith(lines ...string) string {
	return Head(append([]string{
		"HTTP/1.1 101 Switching Protocols",
		"Upgrade: websocket",
		"Connection: Upgrade",
		"Sec-WebSocket-Accept: {accept}",
	}, lines...)...)
}

// Refusing returns a response that refuses an upgrade.
func Refusing(status int, body string, lines ...string) string {
	return Head(append([]string{
		fmt.Sprintf("HTTP/1.1 %d %s", status, http.StatusText(status)),
		fmt.Sprintf("Content-Length: %d", len(body)),
	}, lines...)...) + body
}
