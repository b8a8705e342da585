// Package handshake checks, rewrites and writes the messages of the WebSocket
// opening handshake, between client and proxy and between proxy and backend.
//
// The package is pure: values in, values out. It opens no socket, starts no
// goroutine, reads no clock, generates no random number and writes no log. The
// caller passes in what it needs, such as a nonce and a size-limited reader.
// The package knows neither options nor backends, and does not read frames.
//
// Security depends on the order in which the caller uses it:
//
//	Classify         reports whether the request is an upgrade
//	Validate         checks it against RFC 6455 §4.2.1
//	Origins.Check    checks its origin
//	OutboundURL      returns the URL for the backend
//	OutboundHeader   returns the header for the backend
//	AppendRequest    writes the upgrade request
//	ReadAnswer       reads the backend's response
//	Verify           checks that it is the 101 for this request
//	SwitchHeader     returns the header of the 101 to the client
//	AppendSwitch     writes the 101 to the client
//	ConnectHeader    returns the header of the 200 in its place over HTTP/2
//	AnswerHeader     returns the header of a response other than 101
//
// A request that is no upgrade, and is proxied as plain HTTP, goes another way:
//
//	CheckPlain         checks it
//	Origins.Check, OutboundURL, OutboundHeader
//	FinishPlain        checks the request for the backend, whoever has changed it
//	CheckPlainAnswer   checks the backend's response
//	AnswerHeader, FinishPlainAnswer
//
// IsFallback and BeginsSession recognize such requests of SockJS, Socket.IO and SignalR.
// RemoveCookie removes a cookie of the proxy's own from what OutboundHeader returns.
//
// # Spelling
//
// Field names are case-insensitive, but many WebSocket peers compare
// Sec-WebSocket-* byte for byte, and net/http uses "Sec-Websocket-*" as the keys
// of its maps. So this package looks such a field up under both spellings, and
// always writes the spelling of RFC 6455.
package handshake
