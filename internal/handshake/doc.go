// Package handshake checks, rewrites and writes the messages of the WebSocket
// opening handshake, on both legs of a proxy.
//
// It is a pure room: values in, values out. It opens no socket, starts no
// goroutine, reads no clock, draws no random number and logs nothing; its
// caller does, and passes in what it needs (a nonce, a size-limited reader).
// It knows neither options nor backends, and it does not look into frames.
//
// The order in which its caller uses it is a security property:
//
//	Classify         is it an upgrade at all?
//	Validate         does it keep RFC 6455 §4.2.1?
//	Origins.Check    may this page open it?
//	OutboundURL      what the backend is asked for
//	OutboundHeader   and with which fields
//	AppendRequest    the upgrade request, as bytes
//	ReadAnswer       what the backend says
//	Verify           is it the 101 that was asked for?
//	SwitchHeader     what goes with our own 101
//	AppendSwitch     our own 101, as bytes
//	AnswerHeader     or, if the backend said anything else, that
//
// # Spelling
//
// Field names are case-insensitive, but many WebSocket peers compare
// Sec-WebSocket-* byte for byte, while net/http keys its maps by
// "Sec-Websocket-*". So this package looks such a field up under both
// spellings, and always writes the one of RFC 6455.
package handshake
