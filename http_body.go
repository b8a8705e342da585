package wsproxy

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"sync"

	"github.com/wsproxy/wsproxy/internal/handshake"
)

// A responseBody is the body of a backend's response.
type responseBody struct {
	io.ReadCloser
	resp *http.Response // its trailer is complete at the end
	q    *plainRequest
}

func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		handshake.CleanTrailer(b.resp.Trailer)
	} else if err != nil && !b.q.isBroken {
		b.q.isBroken = true
		if contextErr(b.q.r.Context()) == nil {
			b.q.p.logBroken(&b.q.inbound, err)
		}
	}
	return n, err
}

// A requestBody is the body of a client's request. The transport reads it, perhaps for longer
// than RoundTrip takes.
type requestBody struct {
	io.ReadCloser
	r       *http.Request
	trailer http.Header // for the backend; its values are set at the end

	mu       sync.Mutex
	isClosed bool
	isEnded  bool
	readErr  error
}

func (b *requestBody) Read(p []byte) (int, error) {
	if b.hasEnded() {
		// The transport reads once more to be sure of the end. If the response is over by then, the
		// body is closed, and the connection would not be used again because of the error.
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == io.EOF:
		b.isEnded = true
		handshake.SetTrailer(b.trailer, b.r.Trailer)
	case !b.isClosed:
		b.readErr = err
	}
	return n, err
}

func (b *requestBody) Close() error {
	b.mu.Lock()
	b.isClosed = true
	b.mu.Unlock()
	return b.ReadCloser.Close()
}

// err returns why the client's request could not be read, or nil. A nil b has no body.
func (b *requestBody) err() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.readErr
}

// hasEnded reports whether the client's request was read to its end. A nil b has no body.
func (b *requestBody) hasEnded() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.isEnded
}

// bodyError returns the error for a client whose body could not be read because of err.
func bodyError(err error) error {
	status := http.StatusBadRequest
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok { // a middleware's
		status = http.StatusRequestEntityTooLarge
	}
	return &StatusError{Status: status, Err: errors.New("the request's body could not be read")}
}

// An interimSender passes interim responses (103) on to the client. A 100 is the server's to
// send: it does so when the body is read. Middleware sees none of them: that of echo would take
// it for the response, and drop the one that follows.
type interimSender struct {
	isOff bool // an HTTP/1.0 client must not get one

	mu sync.Mutex          // held while w is used
	w  http.ResponseWriter // the server's
}

// send is called by the transport's goroutine.
func (s *interimSender) send(status int, h textproto.MIMEHeader) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isOff || status == http.StatusContinue {
		return nil
	}
	header := s.w.Header()
	own := maps.Clone(header) // what middleware has set is for the response
	clear(header)
	maps.Copy(header, handshake.AnswerHeader(http.Header(h)))
	s.w.WriteHeader(status)
	clear(header)
	maps.Copy(header, own)
	return nil
}

// stop is called when the client's response begins.
func (s *interimSender) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isOff = true
}
