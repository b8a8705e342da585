package frame

import "math"

// A Violation tells how a stream broke the protocol or a limit, and the status
// code that its sender is to be told.
type Violation struct {
	Code   int // StatusProtocolError or StatusTooBig
	Reason string
}

func (v *Violation) Error() string { return v.Reason }

// Rules say what a stream may contain.
type Rules struct {
	// Masked says that every frame must be masked (those of a client) or that
	// none may be (those of a server).
	Masked bool

	// Deflate says that permessage-deflate was negotiated: RSV1 may be set on the
	// first frame of a message.
	Deflate bool

	// Unknown says that an extension was negotiated that we do not know. It may
	// give a meaning to any reserved bit and opcode, so only masking and lengths
	// are checked, and messages are counted by FIN bits.
	Unknown bool

	// MaxMessage bounds the payload bytes of a message, all fragments together.
	// Zero means no bound.
	MaxMessage uint64
}

// A Tracker follows one direction of a WebSocket connection from frame to frame.
// Its user shows it the stream piece by piece and learns what each piece is,
// where frames end, and whether the peer breaks the rules. The zero Tracker with
// Rules set stands at the beginning of a stream.
type Tracker struct {
	Rules Rules

	rest       uint64 // payload bytes of the current data frame that are still to come
	begun      uint64 // bytes of the current data frame that were taken, its header included
	size       uint64 // payload bytes of the current message so far, the rest included
	fragmented bool   // between the fragments of a message
	final      bool   // the current frame is the last of its message
	messages   uint32 // see TakeMessages; it need not be wider than one piece, and each tunnel has two
}

// A Step is what stands at the beginning of a piece of the stream.
type Step struct {
	// Len is how many bytes of the piece the step takes. Zero means that the
	// piece ends within a header or a control frame: show it again with what
	// follows. That is at most MaxHeld bytes.
	Len int

	// Control is the opcode of a whole control frame, which the step then is.
	// Otherwise it is 0, and the step is data: any number of frames or parts of
	// frames without a control frame among them.
	Control Opcode
}

// Next tells what p begins with, and takes it as seen. p continues the stream
// after all that was taken before. An error is a [*Violation]; it concerns the
// frame that begins at p, and the Tracker still stands before it.
func (t *Tracker) Next(p []byte) (Step, error) {
	n := 0
	for n < len(p) {
		if t.rest > 0 {
			n += t.advance(len(p) - n)
			continue
		}
		h, size, err := t.header(p[n:])
		if err != nil || size == 0 || t.isControl(h) {
			if n > 0 { // first what was found before it
				break
			}
			if err != nil || size == 0 {
				return Step{}, err
			}
			return t.controlStep(h, size, len(p)), nil
		}
		t.beginFrame(h, size)
		n += size
	}
	return Step{Len: n}, nil
}

// Finish is Next up to the end of the frame that is under way at most. It
// returns 0 at a boundary.
func (t *Tracker) Finish(p []byte) int {
	if t.rest == 0 {
		return 0
	}
	return t.advance(len(p))
}

// Skip takes n bytes of payload as seen that nobody has shown; n is at most Rest.
func (t *Tracker) Skip(n int) {
	if t.advance(n) != n {
		panic("BUG: more is skipped than the frame has")
	}
}

// Rest returns how many payload bytes of the frame that is under way are still to
// come.
func (t *Tracker) Rest() uint64 { return t.rest }

// Begun returns how many bytes were taken of the frame that is under way, its header
// included. It is 0 at a boundary.
func (t *Tracker) Begun() uint64 {
	if t.rest == 0 {
		return 0
	}
	return t.begun
}

// AtBoundary reports whether all that was taken ends with a whole frame.
func (t *Tracker) AtBoundary() bool { return t.rest == 0 }

// TakeMessages returns how many messages have ended since its last call.
func (t *Tracker) TakeMessages() uint32 {
	n := t.messages
	t.messages = 0
	return n
}

// Ignore lifts the bound of messages: what follows is parsed to be discarded.
func (t *Tracker) Ignore() { t.Rules.MaxMessage = 0 }

// advance takes up to n bytes of payload.
func (t *Tracker) advance(n int) int {
	taken := min(uint64(n), t.rest)
	t.rest -= taken
	t.begun += taken
	if t.rest == 0 {
		t.endFrame()
	}
	return int(taken)
}

// header parses and checks the header of the next frame, in an order that does
// not depend on how much of it is there: first what its two first bytes show,
// which is soon enough to stop a stream that is no WebSocket at all.
func (t *Tracker) header(p []byte) (h Header, size int, err error) {
	if len(p) < 2 {
		return h, 0, nil
	}
	h, size, err = ParseHeader(p)
	if v := t.check(h); v != nil {
		return h, 0, v
	}
	if err != nil || size == 0 {
		return h, 0, err
	}
	if v := t.checkLength(h); v != nil {
		return h, 0, v
	}
	return h, size, nil
}

// check looks at all of a header but its length.
func (t *Tracker) check(h Header) *Violation {
	switch {
	case t.Rules.Masked && !h.Masked:
		// "The server MUST close the connection upon receiving a frame that is
		// not masked." https://www.rfc-editor.org/rfc/rfc6455#section-5.1
		return violation("frame from the client is not masked")
	case !t.Rules.Masked && h.Masked:
		// "A client MUST close a connection if it detects a masked frame."
		return violation("frame from the backend is masked")
	case t.Rules.Unknown:
		return nil
	case !h.Opcode.isKnown():
		return violation("reserved opcode")
	case h.RSV != 0 && !t.mayCompress(h):
		return violation("reserved bit set")
	case h.Opcode.IsControl():
		if !h.Fin {
			return violation("control frame is fragmented")
		}
	case h.Opcode == Continuation && !t.fragmented:
		return violation("continuation of no message")
	case h.Opcode != Continuation && t.fragmented:
		return violation("message begun within a message")
	}
	return nil
}

// checkLength looks at the length of a whole header. "All control frames MUST have
// a payload length of 125 bytes or less and MUST NOT be fragmented."
// https://www.rfc-editor.org/rfc/rfc6455#section-5.5
func (t *Tracker) checkLength(h Header) *Violation {
	switch {
	case !t.isControl(h):
		if t.isTooBig(h) {
			return &Violation{StatusTooBig, "message larger than the limit"}
		}
	case h.Length > MaxControlPayload:
		return violation("control frame of more than 125 bytes")
	}
	return nil
}

// mayCompress reports whether h may set the reserved bits that it sets: RSV1 at
// the beginning of a message where permessage-deflate was negotiated. "An endpoint
// MUST NOT set the 'Per-Message Compressed' bit of control frames and
// non-first fragments of a data message."
// https://www.rfc-editor.org/rfc/rfc7692#section-6.1
func (t *Tracker) mayCompress(h Header) bool {
	return t.Rules.Deflate && h.RSV == RSV1 && (h.Opcode == Text || h.Opcode == Binary)
}

// isControl reports whether h is to be held back until it is complete. Under an
// unknown extension that is what looks like a control frame in every respect.
func (t *Tracker) isControl(h Header) bool {
	if !t.Rules.Unknown {
		return h.Opcode.IsControl()
	}
	return h.Opcode.IsControl() && h.Opcode.isKnown() && h.RSV == 0 && h.Fin && h.Length <= MaxControlPayload
}

// isTooBig is careful with sums: lengths are a peer's.
func (t *Tracker) isTooBig(h Header) bool {
	limit := t.Rules.MaxMessage
	return limit > 0 && (h.Length > limit || t.size > limit-h.Length)
}

// controlStep takes a control frame, if all of it is there.
func (t *Tracker) controlStep(h Header, size, have int) Step {
	if uint64(have-size) < h.Length {
		return Step{}
	}
	return Step{Len: size + int(h.Length), Control: h.Opcode}
}

// beginFrame takes the header of a data frame.
func (t *Tracker) beginFrame(h Header, size int) {
	t.rest = h.Length
	t.begun = uint64(size)
	t.final = h.Fin
	if t.size > math.MaxUint64-h.Length {
		t.size = math.MaxUint64
	} else {
		t.size += h.Length
	}
	t.fragmented = !h.Fin
	if t.rest == 0 {
		t.endFrame()
	}
}

// endFrame stands after the last byte of a data frame.
func (t *Tracker) endFrame() {
	if t.final {
		t.messages++
		t.size = 0
	}
}

func violation(reason string) *Violation {
	return &Violation{Code: StatusProtocolError, Reason: reason}
}
