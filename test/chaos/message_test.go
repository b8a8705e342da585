package chaos_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"
)

// A message of a client has the number of its tunnel, its own number, and any bytes. The
// backend's answer has the backend's number of it, and the whole message. Both end with a
// checksum of what is before it.
//
//	client    tunnel (8), number (8), filler, checksum (4)
//	backend   number (8), the client's message, checksum (4)
const (
	clientHead  = 16
	backendHead = 8
	sumSize     = 4
)

// A talk is the client's side of the conversation of one tunnel.
type talk struct {
	tunnel   uint64
	sent     uint64
	received uint64
}

// next returns the next message.
func (t *talk) next(rng *rand.Rand) []byte {
	b := make([]byte, clientHead, clientHead+fillerSize(rng)+sumSize)
	binary.BigEndian.PutUint64(b, t.tunnel)
	binary.BigEndian.PutUint64(b[8:], t.sent)
	t.sent++
	b = b[:cap(b)-sumSize]
	for i := clientHead; i < len(b); i += 8 {
		var word [8]byte
		binary.BigEndian.PutUint64(word[:], rng.Uint64())
		copy(b[i:], word[:])
	}
	return appendSum(b)
}

// fillerSize returns the size of a filler: most are short, and few are so long that a relay does
// not have them in memory as a whole.
func fillerSize(rng *rand.Rand) int {
	switch n := rng.IntN(200); {
	case n == 0:
		return rng.IntN(300 << 10)
	case n < 20:
		return rng.IntN(8 << 10)
	}
	return rng.IntN(200)
}

// receive checks the next answer. Each answer must be that to the next message.
func (t *talk) receive(answer []byte) error {
	number, message, err := cutAnswer(answer)
	if err != nil {
		return err
	}
	tunnel, own, err := cutMessage(message)
	switch {
	case err != nil:
		return fmt.Errorf("answer %d repeats a message that was changed: %w", number, err)
	case tunnel != t.tunnel:
		return fmt.Errorf("answer %d repeats a message of tunnel %d", number, tunnel)
	case number != t.received || own != t.received:
		return fmt.Errorf("answer %d to message %d came in place of answer %d to message %[3]d", number, own, t.received)
	case own >= t.sent:
		return fmt.Errorf("answer %d repeats a message that was not sent", number)
	}
	t.received++
	return nil
}

// An answerer is the backend's side of the conversation of one tunnel.
type answerer struct {
	tunnel   uint64 // as the first message says
	received uint64
}

// answer checks the next message, and returns the answer to it.
func (a *answerer) answer(message []byte) ([]byte, error) {
	tunnel, number, err := cutMessage(message)
	if err != nil {
		return nil, err
	}
	if a.received == 0 {
		a.tunnel = tunnel
	}
	if tunnel != a.tunnel {
		return nil, fmt.Errorf("message %d of tunnel %d came through tunnel %d", number, tunnel, a.tunnel)
	}
	if number != a.received {
		return nil, fmt.Errorf("message %d came in place of message %d", number, a.received)
	}
	b := binary.BigEndian.AppendUint64(make([]byte, 0, backendHead+len(message)+sumSize), a.received)
	a.received++
	return appendSum(append(b, message...)), nil
}

func cutMessage(b []byte) (tunnel, number uint64, err error) {
	b, err = cutSum(b, clientHead)
	if err != nil {
		return 0, 0, err
	}
	return binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), nil
}

func cutAnswer(b []byte) (number uint64, message []byte, err error) {
	b, err = cutSum(b, backendHead)
	if err != nil {
		return 0, nil, err
	}
	return binary.BigEndian.Uint64(b), b[backendHead:], nil
}

func appendSum(b []byte) []byte { return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b)) }

// cutSum checks the checksum of b, and returns what is before it, which has at least so many
// bytes.
func cutSum(b []byte, least int) ([]byte, error) {
	if len(b) < least+sumSize {
		return nil, fmt.Errorf("%d bytes are no message", len(b))
	}
	b, sum := b[:len(b)-sumSize], binary.BigEndian.Uint32(b[len(b)-sumSize:])
	if crc32.ChecksumIEEE(b) != sum {
		return nil, errChanged
	}
	return b, nil
}

var errChanged = errors.New("the checksum is wrong")

func TestTalkReportsWhatIsNotTheNextAnswer(t *testing.T) {
	const numMessages = 4
	change := func(i int) func([][]byte) [][]byte {
		return func(all [][]byte) [][]byte {
			all[2] = bytes.Clone(all[2])
			all[2][i] ^= 1
			return all
		}
	}
	for _, tt := range []struct {
		name              string
		onWay, onWayBack  func([][]byte) [][]byte // what happens to messages, and to answers
		wantClient, wantB string                  // the first error of each side
	}{
		{name: "all arrive"},
		{name: "a message is lost", onWay: lose, wantB: "message 2 came in place of message 1"},
		{name: "an answer is lost", onWayBack: lose, wantClient: "answer 2 to message 2 came in place of answer 1"},
		{name: "a message is doubled", onWay: double, wantB: "message 1 came in place of message 2"},
		{name: "an answer is doubled", onWayBack: double, wantClient: "answer 1 to message 1 came in place of answer 2"},
		{name: "messages are reordered", onWay: swap, wantB: "message 2 came in place of message 1"},
		{name: "answers are reordered", onWayBack: swap, wantClient: "answer 2 to message 2 came in place of answer 1"},
		{name: "a message is changed", onWay: change(clientHead), wantB: errChanged.Error()},
		{name: "an answer is changed", onWayBack: change(backendHead), wantClient: errChanged.Error()},
		{name: "a message is short", onWay: func(all [][]byte) [][]byte { return append(all[:1], nil) }, wantB: "0 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, backend := talk{tunnel: 9}, answerer{}
			rng := rand.New(rand.NewPCG(1, 2))
			var messages, answers [][]byte
			for range numMessages {
				messages = append(messages, client.next(rng))
			}
			var errClient, errBackend error
			for _, m := range apply(tt.onWay, messages) {
				a, err := backend.answer(m)
				if err != nil {
					errBackend = err
					break
				}
				answers = append(answers, a)
			}
			for _, a := range apply(tt.onWayBack, answers) {
				if errClient = client.receive(a); errClient != nil {
					break
				}
			}
			wantError(t, "client", errClient, tt.wantClient)
			wantError(t, "backend", errBackend, tt.wantB)
		})
	}
}

func TestTalkReportsAnswersOfOtherTunnels(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	one, other := talk{tunnel: 1}, talk{tunnel: 2}
	one.next(rng)
	answer, err := new(answerer).answer(other.next(rng))
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, "client", one.receive(answer), "of tunnel 2")
}

func lose(all [][]byte) [][]byte   { return append(all[:1:1], all[2:]...) }
func double(all [][]byte) [][]byte { return append(all[:2:2], all[1:]...) }
func swap(all [][]byte) [][]byte   { return append(all[:1:1], all[2], all[1], all[3]) }

func apply(f func([][]byte) [][]byte, all [][]byte) [][]byte {
	if f == nil {
		return all
	}
	return f(all)
}

// wantError checks that an error has some text; empty: that there is none.
func wantError(t *testing.T, who string, err error, want string) {
	t.Helper()
	if want == "" && err == nil || want != "" && err != nil && strings.Contains(err.Error(), want) {
		return
	}
	t.Errorf("%s: got error %v; want %q", who, err, want)
}
