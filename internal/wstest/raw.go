package wstest

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// A RawBackend sends the same response on every connection, and records the bytes
// that it receives.
type RawBackend struct {
	server
	answer string
	ends   bool          // close the write side after the response
	endedc chan struct{} // capacity 1; receives a value after numOpen has decreased

	recordMu sync.Mutex
	records  []*bytes.Buffer // in the order of connections
	numOpen  int
}

// StartRaw returns a RawBackend that runs until the test ends. On each connection
// it sends answer after the first request head, and reads until the other end
// closes. In answer, {accept} stands for the Sec-WebSocket-Accept for the request's
// key. After an answer with {end} at its end, the backend closes the write side.
func StartRaw(t testing.TB, answer string) *RawBackend {
	t.Helper()
	b := &RawBackend{endedc: make(chan struct{}, 1)}
	b.answer, b.ends = strings.CutSuffix(answer, "{end}")
	b.accepted = func(c net.Conn) {
		record := b.addConn()
		b.running.Go(func() { b.serve(c, record) }) // until the other end or stop closes c
	}
	b.start(t)
	return b
}

// Received waits, for 5 s at most, until there was at least one connection and all
// have ended. It returns the bytes received on each.
func (b *RawBackend) Received(t testing.TB) []string {
	t.Helper()
	timeout := time.NewTimer(stepTimeout)
	defer timeout.Stop()
	for {
		received, numOpen := b.received()
		if len(received) > 0 && numOpen == 0 {
			return received
		}
		select {
		case <-b.endedc:
		case <-timeout.C:
			t.Fatalf("backend: %d of %d connections still open after %v; received %.200q",
				numOpen, len(received), stepTimeout, received)
		}
	}
}

func (b *RawBackend) received() (received []string, numOpen int) {
	b.recordMu.Lock()
	defer b.recordMu.Unlock()
	for _, record := range b.records {
		received = append(received, record.String())
	}
	return received, b.numOpen
}

func (b *RawBackend) addConn() *bytes.Buffer {
	b.recordMu.Lock()
	defer b.recordMu.Unlock()
	record := new(bytes.Buffer)
	b.records = append(b.records, record)
	b.numOpen++
	return record
}

func (b *RawBackend) endConn() {
	b.recordMu.Lock()
	b.numOpen--
	b.recordMu.Unlock()
	select {
	case b.endedc <- struct{}{}:
	default: // Received has not read the last value yet
	}
}

func (b *RawBackend) serve(c net.Conn, record *bytes.Buffer) {
	defer b.endConn()
	defer c.Close()
	buf := make([]byte, 4096)
	isAnswered := false
	for {
		n, err := c.Read(buf)
		head := b.appendRecord(record, buf[:n])
		if head != nil && !isAnswered {
			isAnswered = true
			c.Write(fillAnswer(head, b.answer)) // if it fails, so does the next Read
			if b.ends {
				c.(*net.TCPConn).CloseWrite()
			}
		}
		if err != nil {
			return
		}
	}
}

// appendRecord adds received to record. It returns the head of the first request,
// or nil if that is not complete yet.
func (b *RawBackend) appendRecord(record *bytes.Buffer, received []byte) []byte {
	b.recordMu.Lock()
	defer b.recordMu.Unlock()
	record.Write(received)
	head, _, ok := bytes.Cut(record.Bytes(), []byte("\r\n\r\n"))
	if !ok {
		return nil
	}
	return append(bytes.Clone(head), "\r\n\r\n"...)
}

func fillAnswer(head []byte, answer string) []byte {
	var accept string
	if req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head))); err == nil {
		accept = Accept(req.Header.Get("Sec-WebSocket-Key"))
	}
	return bytes.ReplaceAll([]byte(answer), []byte("{accept}"), []byte(accept))
}
