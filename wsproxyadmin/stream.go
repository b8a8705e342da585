package wsproxyadmin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

const (
	// writeTimeout is how long a viewer may take to take a message.
	writeTimeout = 10 * time.Second

	// maxStream is how long a stream lasts. An EventSource opens another one after retryTime,
	// and misses nothing. So a viewer who may not watch any longer does not watch for ever.
	maxStream = 15 * time.Minute
	retryTime = 500 * time.Millisecond
)

// serveStream serves /stream until the viewer leaves, the time is over, or its server shuts down.
func (h *handler) serveStream(w http.ResponseWriter, r *http.Request, actor string) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx
	if r.Method == http.MethodHead {
		return
	}
	v := h.feed.add(serverOf(r))
	if v == nil {
		http.Error(w, "There are too many viewers.", http.StatusServiceUnavailable)
		return
	}
	defer func() {
		if h.feed.remove(v) {
			h.rates.forget()
		}
	}()
	s := &streamWriter{w, http.NewResponseController(w)}
	if err := s.control.Flush(); errors.Is(err, http.ErrNotSupported) {
		http.Error(w, "A middleware hides the connection: its ResponseWriter has neither Flush nor Unwrap.", http.StatusInternalServerError)
		return
	} else if err != nil {
		return // the viewer has left
	}
	defer s.control.SetWriteDeadline(time.Time{})
	ctx, cancel := context.WithTimeout(r.Context(), maxStream)
	defer cancel()
	snap := h.reader.snapshot(readInterval)
	c, isResumed := snap.resume(r.Header.Get("Last-Event-ID"))
	for isFirst := true; ; isFirst = false {
		if err := s.write(snap, snap.message(c, isFirst && !isResumed, actor), isFirst); err != nil {
			return
		}
		c = snap.end
		if snap = v.next(ctx, snap); snap == nil {
			return
		}
	}
}

// A streamWriter writes the events of a stream.
type streamWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

// write writes an event with the data of a message.
func (s *streamWriter) write(snap *snapshot, message []byte, isFirst bool) error {
	// Instead of the server's WriteTimeout, which is for whole responses.
	err := s.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	var b bytes.Buffer
	if isFirst {
		fmt.Fprintf(&b, "retry: %d\n", retryTime.Milliseconds())
	}
	fmt.Fprintf(&b, "id: %s\ndata: %s\n\n", snap.id(), message)
	if _, err := s.w.Write(b.Bytes()); err != nil {
		return err
	}
	return s.control.Flush()
}
