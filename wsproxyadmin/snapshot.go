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

// A snapshot is the state at one moment as JSON, which is made once for all viewers.
type snapshot struct {
	recorder *recorder
	at       time.Time
	run      string
	tunnels  int    // at the end of the last whole second
	end      cursor // where a viewer is after this snapshot
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

func newSnapshot(r *recorder, now *state, lastEvent uint64, tunnels int) *snapshot {
	return &snapshot{
		recorder: r, at: now.At, run: now.Run, tunnels: tunnels,
		end:   cursor{lastEvent, now.At.Unix() - 1},
		state: bytes.TrimSuffix(encode(now), []byte("}")),
	}
}

// message returns the JSON of an overview for a viewer that is at c.
func (s *snapshot) message(c cursor, isComplete bool, actor string) []byte {
	tail := s.news(c)
	b := make([]byte, 0, len(s.state)+len(tail)+len(actor)+64)
	b = append(b, s.state...)
	b = append(b, `,"actor":`...)
	b = append(b, encode(actor)...)
	b = append(b, `,"complete":`...)
	b = strconv.AppendBool(b, isComplete)
	return append(b, tail...)
}

// news returns the end of a message: the history and the events after c.
func (s *snapshot) news(c cursor) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tail == nil || s.start != c {
		var news struct {
			History history `json:"history"`
			Events  events  `json:"events"`
		}
		news.Events, news.History = s.recorder.since(c.event, s.end.event, c.second, s.at, s.tunnels)
		s.start, s.tail = c, append([]byte{','}, encode(&news)[1:]...)
	}
	return s.tail
}

// id returns the ID of the event of a stream with which s was sent.
func (s *snapshot) id() string { return fmt.Sprintf("%s.%d.%d", s.run, s.end.event, s.end.second) }

// resume returns where a viewer is whose last event had that ID. It returns false if it is to
// begin anew: it has none, or one of another run of the program.
func (s *snapshot) resume(id string) (c cursor, ok bool) {
	rest, ok := strings.CutPrefix(id, s.run+".")
	if !ok {
		return cursor{}, false
	}
	event, second, _ := strings.Cut(rest, ".")
	var errs [2]error
	c.event, errs[0] = strconv.ParseUint(event, 10, 64)
	c.second, errs[1] = strconv.ParseInt(second, 10, 64)
	if errors.Join(errs[:]...) != nil || c.event > s.end.event || c.second > s.end.second {
		return cursor{}, false
	}
	return c, true
}
