package handshake

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// A Refusal is the response to a request that is not proxied.
type Refusal struct {
	Status int         // 400 to 599
	Header http.Header // set on the response; may be nil
	Reason string      // says why; it can be the response's body
}

// Classify reports whether r asks for an upgrade to WebSocket: r is a GET over
// HTTP/1.1, its Upgrade names "websocket" and nothing else, once or more often, and its
// Connection contains the token "upgrade". Some proxies add a second "websocket". Over
// HTTP/2 r is an extended CONNECT: see [IsConnect].
//
// If r is not an upgrade, otherwise is the response to send if no other handler
// serves the request. It names the check that failed. If r is an upgrade,
// otherwise is nil.
//
// A request with a second token beside "websocket" is not an upgrade. The backend
// could choose the other protocol, such as h2c, and its requests would pass
// through the tunnel unchecked.
func Classify(r *http.Request) (isUpgrade bool, otherwise *Refusal) {
	switch {
	case IsConnect(r):
		return true, nil
	case r.Method == http.MethodConnect:
		return false, refuseConnect(r)
	case r.Method != http.MethodGet:
		return false, upgradeRequired(r, "Method", r.Method, "a WebSocket is opened by GET")
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return false, upgradeRequired(r, "Protocol", r.Proto, "a WebSocket is opened over HTTP/1.1")
	case !areAllTokens(r.Header["Upgrade"], "websocket"):
		return false, upgradeRequired(r, "Upgrade", strings.Join(r.Header["Upgrade"], ", "), upgradeHint(r))
	case !hasToken(r.Header["Connection"], "upgrade"):
		return false, upgradeRequired(r, "Connection", strings.Join(r.Header["Connection"], ", "), dropHint)
	}
	return true, nil
}

const dropHint = "does a proxy in front drop it?"

// upgradeHint returns a guess why the Upgrade field is wrong.
func upgradeHint(r *http.Request) string {
	if len(r.Header["Upgrade"]) == 0 && len(fieldKey.in(r.Header)) > 0 {
		return dropHint
	}
	return "only `websocket` is served here"
}

// upgradeRequired returns the refusal of a request whose subject, such as its
// method, has the wrong value.
//
// "The server MUST send an Upgrade header field in a 426 response to indicate
// the required protocol(s)"
// https://www.rfc-editor.org/rfc/rfc9110#section-15.5.22
func upgradeRequired(r *http.Request, subject, value, hint string) *Refusal {
	refusal := &Refusal{
		Status: http.StatusUpgradeRequired,
		Reason: fmt.Sprintf("%s was %s: %s", subject, quote(value), hint),
	}
	// "An endpoint MUST NOT generate an HTTP/2 message containing
	// connection-specific header fields."
	// https://www.rfc-editor.org/rfc/rfc9113#section-8.2.2
	if r.ProtoMajor < 2 {
		refusal.Header = http.Header{"Upgrade": {"websocket"}}
	}
	return refusal
}

// ProtocolKey is the key under which net/http puts the :protocol of an extended CONNECT
// into a request's header. No client can send a field of that name: a colon is not allowed
// in one, neither by HTTP/1.1 nor, but for pseudo-header fields, by HTTP/2.
const ProtocolKey = ":protocol"

// IsConnect reports whether r is an extended CONNECT over HTTP/2 that asks for a WebSocket.
//
// "A new pseudo-header field :protocol MAY be included on request HEADERS
// indicating the desired protocol to be spoken on the tunnel created by CONNECT."
// https://www.rfc-editor.org/rfc/rfc8441#section-4
func IsConnect(r *http.Request) bool {
	if r.ProtoMajor != 2 || r.Method != http.MethodConnect {
		return false
	}
	lines := r.Header[ProtocolKey]
	return len(lines) == 1 && equalFold(lines[0], "websocket")
}

// refuseConnect returns the refusal of a CONNECT that is not for a WebSocket over HTTP/2.
func refuseConnect(r *http.Request) *Refusal {
	switch lines := r.Header[ProtocolKey]; {
	case len(lines) > 0:
		return &Refusal{
			Status: http.StatusNotImplemented,
			Reason: fmt.Sprintf("The protocol of the CONNECT was %s: only `websocket` is served here", quote(strings.Join(lines, ", "))),
		}
	case equalFold(r.Proto, "websocket"): // HTTP/3 servers put it there
		return &Refusal{
			Status: http.StatusNotImplemented,
			Reason: "WebSockets over HTTP/3 are not served here: open one over HTTP/1.1 or HTTP/2",
		}
	}
	return &Refusal{
		Status: http.StatusMethodNotAllowed,
		Header: http.Header{"Allow": {http.MethodGet}},
		Reason: "Method was `CONNECT`: this is no forward proxy",
	}
}

// maxQuoted bounds how many bytes of a value a Refusal quotes.
const maxQuoted = 64

// quote returns a value from the client for a Reason: short, and in printable
// ASCII.
func quote(value string) string {
	if value == "" {
		return "missing"
	}
	ellipsis := ""
	if len(value) > maxQuoted {
		value, ellipsis = value[:maxQuoted], "..."
	}
	if quoted := strconv.QuoteToASCII(value); quoted != `"`+value+`"` {
		return quoted + ellipsis
	}
	return "`" + value + "`" + ellipsis
}

// checks are the checks of Validate, in this order.
var checks = [...]func(*http.Request) *Refusal{
	checkVersion, checkKey, checkHost, checkBody, checkExpect, checkOffers,
}

// connectChecks are those for a request over HTTP/2. It has no key: "implementations using
// this extended CONNECT do not do the processing of the Sec-WebSocket-Key and
// Sec-WebSocket-Accept header fields". What follows its header is the tunnel, whatever
// Content-Length says.
// https://www.rfc-editor.org/rfc/rfc8441#section-5
var connectChecks = [...]func(*http.Request) *Refusal{
	checkVersion, checkAuthority, checkPath, checkExpect, checkOffers,
}

// Validate checks a request that Classify has found to be an upgrade. It checks
// RFC 6455 §4.2.1, or RFC 8441 for a request over HTTP/2, and features of HTTP that have
// been used to smuggle requests past proxies. It returns nil if the request passes.
//
// The :scheme of an extended CONNECT cannot be checked: net/http shows only whether it is
// https, by r.TLS.
func Validate(r *http.Request) *Refusal {
	checks := checks[:]
	if r.ProtoMajor == 2 {
		checks = connectChecks[:]
	}
	for _, check := range checks {
		if refusal := check(r); refusal != nil {
			return refusal
		}
	}
	return nil
}

// checkVersion checks Sec-WebSocket-Version, so that a client cannot make the
// backend refuse the upgrade and then send more bytes through the tunnel.
//
// "If this version does not match a version understood by the server, the
// server MUST abort the WebSocket handshake described in this section and
// instead send an appropriate HTTP error code (such as 426 Upgrade Required)
// and a |Sec-WebSocket-Version| header field indicating the version(s) the
// server is capable of understanding."
// https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
func checkVersion(r *http.Request) *Refusal {
	lines := fieldVersion.in(r.Header)
	if len(lines) == 1 && lines[0] == "13" {
		return nil
	}
	h := http.Header{fieldVersion.rfc: {"13"}}
	if r.ProtoMajor < 2 { // see upgradeRequired
		h["Upgrade"] = []string{"websocket"}
	}
	return &Refusal{
		Status: http.StatusUpgradeRequired,
		Header: h,
		Reason: fmt.Sprintf("Sec-WebSocket-Version was %s: only 13 is served here", quote(strings.Join(lines, ", "))),
	}
}

// ClientKey returns r's Sec-WebSocket-Key. r must have passed [Validate].
func ClientKey(r *http.Request) string { return fieldKey.in(r.Header)[0] }

func checkKey(r *http.Request) *Refusal {
	switch lines := fieldKey.in(r.Header); {
	case len(lines) == 0:
		return badRequest("Sec-WebSocket-Key was missing")
	case len(lines) > 1:
		return badRequest("Sec-WebSocket-Key was sent more than once")
	case !isKey(lines[0]):
		return badRequest("Sec-WebSocket-Key was not 16 bytes in base64")
	}
	return nil
}

// isKey reports whether key is a Sec-WebSocket-Key.
//
// "A |Sec-WebSocket-Key| header field with a base64-encoded [...] value that,
// when decoded, is 16 bytes in length."
// https://www.rfc-editor.org/rfc/rfc6455#section-4.2.1
//
// The unused bits of the last character may be set, as in the RFC's own example.
func isKey(key string) bool {
	if len(key) != base64.StdEncoding.EncodedLen(nonceBytes) {
		return false
	}
	// The decoder skips line ends. A key with one decodes to fewer than 16 bytes.
	var nonce [nonceBytes + 2]byte
	n, err := base64.StdEncoding.Decode(nonce[:], []byte(key))
	return err == nil && n == nonceBytes
}

func checkHost(r *http.Request) *Refusal {
	switch {
	case r.Host == "":
		return badRequest("Host was missing")
	case !httpguts.ValidHostHeader(r.Host):
		return badRequest("Host had invalid bytes")
	}
	return nil
}

// checkAuthority checks :authority, or a Host in its place.
//
// "A server SHOULD treat a request as malformed if it contains a Host header field that
// identifies an entity that differs from the entity in the ":authority" pseudo-header field."
// https://www.rfc-editor.org/rfc/rfc9113#section-8.3.1
func checkAuthority(r *http.Request) *Refusal {
	for _, host := range r.Header["Host"] {
		if host != r.Host {
			return badRequest("Host was not the :authority")
		}
	}
	if r.Host == "" {
		return badRequest("The :authority was missing")
	}
	return checkHost(r)
}

// checkPath checks :path. net/http accepts a URL and "*" there.
//
// "This pseudo-header field MUST NOT be empty for http or https URIs; http or https URIs
// that do not contain a path component MUST include a value of '/'."
// https://www.rfc-editor.org/rfc/rfc9113#section-8.3.1
func checkPath(r *http.Request) *Refusal {
	if !strings.HasPrefix(r.RequestURI, "/") {
		return badRequest("The :path had no leading slash")
	}
	return nil
}

// checkBody refuses a request with a body. A backend could read the end of the
// body as the next request, or as the first bytes of the tunnel. net/http reports
// a body of unknown length as -1.
func checkBody(r *http.Request) *Refusal {
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return badRequest("The request had a body: an upgrade must not have one")
	}
	return nil
}

// checkExpect refuses an Expect field, which makes backends send two responses.
func checkExpect(r *http.Request) *Refusal {
	if lines, ok := r.Header["Expect"]; ok {
		return &Refusal{
			Status: http.StatusExpectationFailed,
			Reason: fmt.Sprintf("Expect was %s: an upgrade has no body to wait for", quote(strings.Join(lines, ", "))),
		}
	}
	return nil
}

// checkOffers checks the lists of subprotocols and extensions.
func checkOffers(r *http.Request) *Refusal {
	if !isSubprotocolOffer(fieldProtocol.in(r.Header)) {
		return badRequest("Sec-WebSocket-Protocol was not a list of distinct tokens")
	}
	if _, err := extensionNames(fieldExtensions.in(r.Header)); err != nil {
		return badRequest("Sec-WebSocket-Extensions " + err.Error())
	}
	return nil
}

// isSubprotocolOffer reports whether lines are a valid list of subprotocols. The
// list may be empty.
//
// "The elements that comprise this value MUST be non-empty strings with
// characters in the range U+0021 to U+007E not including separator characters
// as defined in [RFC2616] and MUST all be unique strings."
// https://www.rfc-editor.org/rfc/rfc6455#section-4.1
func isSubprotocolOffer(lines []string) bool {
	if len(lines) == 0 {
		return true
	}
	seen := make(map[string]bool) // with a slice, the cost would grow with the square of the list
	for name := range tokens(lines) {
		if seen[name] || !isToken(name) {
			return false
		}
		seen[name] = true
	}
	return true
}

func badRequest(reason string) *Refusal {
	return &Refusal{Status: http.StatusBadRequest, Reason: reason}
}
