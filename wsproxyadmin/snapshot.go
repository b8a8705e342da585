package wsproxyadmin

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A frame is the state at one moment as JSON, which is made once for all viewers.
type frame struct {
	recorder *recorder
	at       time.Time
	run      string
	tunnels  int
	end      cursor // where a viewer is after this frame
	state    []byte // a JSON object without its last brace

	mu    sync.Mutex
	start cursor // of tail
	tail  []byte // the news since start, the same for most viewers; nil before the first one
}

// A cursor is the place of a viewer in the stream: it has all events up to a number, and the history
// up to a second. The zero cursor is the beginning.
type cursor struct {
	event  uint64
	second int64 // Unix time
}

func newFrame(r *recorder, s *state, lastEvent uint64) *frame {
	return &frame{
		recorder: r, at: s.At, run: s.Run, tunnels: s.Totals.Tunnels,
		end:   cursor{lastEvent, s.At.Unix() - 1},
		state: bytes.TrimSuffix(encode(s), []byte("}")),
	}
}

// message returns the JSON of an overview for a viewer that is at c.
func (f *frame) message(c cursor, isComplete bool, actor string) []byte {
	tail := f.news(c)
	b := make([]byte, 0, len(f.state)+len(tail)+len(actor)+64)
	b = append(b, f.state...)
	b = append(b, `,"actor":`...)
	b = append(b, encode(actor)...)
	b = append(b, `,"complete":`...)
	b = strconv.AppendBool(b, isComplete)
	return append(b, tail...)
}

// news returns the end of a message: the history and the events after c.
func (f *frame) news(c cursor) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tail == nil || f.start != c {
		var news struct {
			History history `json:"history"`
			Events  events  `json:"events"`
		}
		news.Events, news.History = f.recorder.since(c.event, f.end.event, c.second, f.at, f.tunnels)
		f.start, f.tail = c, append([]byte{','}, encode(&news)[1:]...)
	}
	return f.tail
}

// id returns the ID of the event of a stream with which f was sent.
func (f *frame) id() string { return fmt.Sprintf("%s.%d.%d", f.run, f.end.event, f.end.second) }

// resume returns where a viewer is whose last event had that ID. It returns false if it is to
// begin anew: it has none, or one of another run of the program.
func (f *frame) resume(id string) (c cursor, ok bool) {
	rest, ok := strings.CutPrefix(id, f.run+".")
	if !ok {
		return cursor{}, false
	}
	event, second, _ := strings.Cut(rest, ".")
	var errs [2]error
	c.event, errs[0] = strconv.ParseUint(event, 10, 64)
	c.second, errs[1] = strconv.ParseInt(second, 10, 64)
	if errors.Join(errs[:]...) != nil || c.event > f.end.event || c.second > f.end.second {
		return cursor{}, false
	}
	return c, true
}
