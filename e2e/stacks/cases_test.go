package stacks_test

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
)

// A testCase is what a client does over one WebSocket, and what comes of it.
type testCase struct {
	name        string
	compression string     // what both sides are told to use; see order
	serves      url.Values // what the server is told; see newScript
	steps       []step
	isClosedBy  string // "client" or "server"
	code        int
	reason      string
	isDeclined  bool // the client offers compression, and the server accepts none
	isLarge     bool
}

// An order is a case for a client. It is JSON for those that are programs.
type order struct {
	URL string `json:"url"`

	// Compression is "takeover", "no takeover", which means of neither side's context, or
	// empty for none. A browser offers compression always.
	Compression string `json:"compression"`

	Steps []step `json:"steps"`
}

// A step has one of the fields.
type step struct {
	Echo     *message `json:"echo,omitempty"`     // send it, and want the same back
	Messages int      `json:"messages,omitempty"` // receive so many
	Ping     *string  `json:"ping,omitempty"`     // send it, and want the pong

	// Close is the code of the Close frame to send, 1005 for one without code. Without any
	// field the client waits for that of the server. In both cases it then waits for the end
	// of the connection.
	Close  int    `json:"close,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// A message is a text, if Text is not nil, Count times, else the bytes 0 to 250 again and again.
type message struct {
	Text      *string `json:"text,omitempty"`
	Count     int     `json:"count,omitempty"`
	Size      int     `json:"size,omitempty"`
	Fragments int     `json:"fragments,omitempty"` // of equal length; 0 means 1
}

// A result is what a client has to say of an order.
type result struct {
	Error      string   `json:"error"`
	Extensions string   `json:"extensions"` // of the 101
	Texts      []string `json:"texts"`      // that came for step.Messages
	Pongs      []string `json:"pongs"`

	// Code and Reason are those of the server's Close frame, be it an answer or not: 1005 if
	// that has none, 1006 if none has come, 0 if the client does not tell.
	Code   int    `json:"code"`
	Reason string `json:"reason"`

	Seconds float64 `json:"seconds"` // of closing, until the end of the connection
	Frames  int     `json:"frames"`  // of the message with the most; 0 if the client does not tell
}

// A report is what a server has to say of a connection that has ended.
type report struct {
	ID     int    `json:"id"`     // of the query
	Offer  string `json:"offer"`  // Sec-WebSocket-Extensions of the request
	Code   int    `json:"code"`   // of the client's Close frame, as in result
	Reason string `json:"reason"` // the same
	Frames int    `json:"frames"` // of the message with the most; 0 if the server does not tell
}

const noCode = 1005 // stands for a Close frame without code

// snowmen has a character of three bytes, so that fragments of 100,000 bytes end within one.
// It is long because gws sends fragments of 128 KiB.
const (
	snowman  = "☃"
	snowmen  = 100_000
	numParts = 3
)

var (
	closeReason = "good-bye " + snowman
	pings       = []string{"", "ping " + snowman, strings.Repeat("x", 125)}
)

// The cases of compression send the same message of words again and again. A compressor makes a
// third of it, and next to nothing if it has the context of an earlier one.
const (
	squeezedMessages = 8
	squeezedWords    = 256
	wordLen          = 8
)

var cases = newCases()

func newCases() []testCase {
	cs := []testCase{
		echoes("text", text("hello, "+snowman, 1)),
		echoes("binary", bytesOf(1000)),
		echoes("empty", text("", 1), bytesOf(0)),
		echoes("1 MiB", bytesOf(1<<20)),
		echoes("16 MiB", bytesOf(16<<20)).large(),
		fragments("fragments of the client", numParts, nil),
		fragments("fragments of the server", 1, url.Values{"fragments": {strconv.Itoa(numParts)}}),
		pingsOfClient(),
		pingsOfServer(),
	}
	for _, code := range []int{1000, 1001, 3000, 4999, noCode} {
		cs = append(cs, closes("client", code), closes("server", code))
	}
	return append(cs, compresses("takeover"), compresses("no takeover"), declines())
}

func text(s string, count int) *message { return &message{Text: &s, Count: count} }

func bytesOf(size int) *message { return &message{Size: size} }

// echoes is a case in which the client closes with 1000 when it has got all messages back, as
// in all cases that are not about closing.
func echoes(name string, messages ...*message) testCase {
	c := testCase{name: name}
	for _, m := range messages {
		c.steps = append(c.steps, step{Echo: m})
	}
	return c.closedByClient(1000, closeReason)
}

func (c testCase) large() testCase {
	c.isLarge = true
	return c
}

func (c testCase) closedByClient(code int, reason string) testCase {
	c.isClosedBy, c.code, c.reason = "client", code, reason
	c.steps = append(c.steps, step{Close: code, Reason: reason})
	return c
}

func fragments(name string, n int, serves url.Values) testCase {
	m := text(snowman, snowmen)
	m.Fragments = n
	c := echoes(name, m)
	c.serves = serves
	return c
}

func pingsOfClient() testCase {
	c := testCase{name: "pings of the client"}
	for i := range pings {
		c.steps = append(c.steps, step{Ping: &pings[i]})
	}
	return c.closedByClient(1000, closeReason)
}

// pingsOfServer is a case in which the server sends pings, and a text for each pong.
func pingsOfServer() testCase {
	c := testCase{
		name:   "pings of the server",
		serves: url.Values{"ping": pings},
		steps:  []step{{Messages: len(pings)}},
	}
	return c.closedByClient(1000, closeReason)
}

func closes(side string, code int) testCase {
	reason := closeReason
	if code == noCode {
		reason = ""
	}
	c := testCase{name: fmt.Sprintf("close by the %s, %d", side, code)}
	if code == noCode {
		c.name = fmt.Sprintf("close by the %s, no code", side)
	}
	if side == "client" {
		return c.closedByClient(code, reason)
	}
	c.isClosedBy, c.code, c.reason = side, code, reason
	c.serves = url.Values{"close": {strconv.Itoa(code)}, "reason": {reason}}
	c.steps = []step{{}}
	return c
}

func compresses(compression string) testCase {
	sent := text(newWords(), 1)
	var messages []*message
	for range squeezedMessages {
		messages = append(messages, sent)
	}
	c := echoes("compression, "+compression, messages...)
	c.compression = compression
	c.serves = url.Values{"compression": {compression}}
	return c
}

// newWords returns words out of 64, the same each time.
func newWords() string {
	random := rand.New(rand.NewPCG(1, 2))
	vocabulary := make([]string, 64)
	for i := range vocabulary {
		for range wordLen {
			vocabulary[i] += string(rune('a' + random.IntN(26)))
		}
	}
	var b strings.Builder
	for range squeezedWords {
		b.WriteString(vocabulary[random.IntN(len(vocabulary))])
	}
	return b.String()
}

func declines() testCase {
	c := echoes("compression, declined", text("hello", 500))
	c.compression = "takeover"
	c.isDeclined = true
	return c
}

// clientCannot and serverCannot have, by stack, the cases that the stack has no function for,
// and why. They are "–" in the table.
var (
	clientCannot = map[string]map[string]string{
		"Chromium": {
			"fragments of the client":   "the browser decides",
			"pings of the client":       "pages cannot",
			"close by the client, 1001": "pages may use 1000 and 3000 to 4999",
		},
		"gobwas/ws": {
			"compression, takeover": "wsflate keeps no context",
		},
		"gorilla/websocket": {
			"compression, takeover": "not implemented",
		},
		"lxzan/gws": {
			"close by the client, no code": "WriteClose makes 1000 of it",
		},
		"websockets": {
			"close by the client, no code": "close has a code always",
		},
		"raw frames": {
			"compression, takeover":    "not implemented",
			"compression, no takeover": "not implemented",
		},
	}
	serverCannot = map[string]map[string]string{
		"gobwas/ws": {
			"compression, takeover": "wsflate keeps no context",
		},
		"gorilla/websocket": {
			"compression, takeover": "not implemented",
		},
		"lxzan/gws": {
			"close by the server, no code": "WriteClose makes 1000 of it",
		},
		"websockets": {
			"close by the server, no code": "close has a code always",
		},
		"raw frames": {
			"compression, takeover":    "not implemented",
			"compression, no takeover": "not implemented",
		},
	}
)
