package netconn

import (
	"bytes"
	"crypto/tls"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// acceptedTLSPair returns a TLS connection from a client that sends records of the
// maximum size.
func acceptedTLSPair(t testing.TB) (near, far *tls.Conn) {
	a, b := tcpPair(t)
	near = tls.Server(a, &tls.Config{Certificates: []tls.Certificate{wstest.Certificate()}})
	far = tls.Client(b, &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: true})
	shakeHands(t, far, near)
	return near, far
}

func TestTLSRecordIsReturnedWhole(t *testing.T) {
	near, far := acceptedTLSPair(t)
	c := New(near, nil)
	for _, head := range []string{"", strings.Repeat("h", MaxHead)} {
		for _, size := range []int{1, waitSize - MaxHead, waitSize - 1, waitSize, waitSize + 1, 3000} {
			want := bytes.Repeat([]byte("0123456789"), 1+size/10)[:size]
			far.Write(want)
			if got, err := fill(c, head); got != head+string(want) || err != nil {
				t.Errorf("Fill() after %d bytes = %d bytes, %v; want the %d of the record", len(head), len(got), err, size)
			}
		}
	}
}

func TestTLSBuffersGrowWithRecords(t *testing.T) {
	near, far := acceptedTLSPair(t)
	c := New(near, nil)
	tests := []struct {
		name                 string
		sentBytes, wantBytes int
	}{
		{"more than a small buffer holds", 16 << 10, smallSize},
		{"the rest in a large one", 0, 16<<10 - smallSize},
		{"large from the beginning", 16 << 10, 16 << 10},
		{"no buffer but the held one", 10, 10},
		{"still large", 16 << 10, 16 << 10},
		{"not much more than is held", 1000, 1000},
		{"small after that", 16 << 10, smallSize},
	}
	for _, tt := range tests {
		far.Write(make([]byte, tt.sentBytes))
		if got, err := fill(c, ""); len(got) != tt.wantBytes || err != nil {
			t.Errorf("%s: Fill() = %d bytes, %v; want %d", tt.name, len(got), err, tt.wantBytes)
		}
	}
}

func TestTLSDeadlineSurvivesPoll(t *testing.T) {
	wakes := map[string]func(*Conn){
		"SetReadDeadline": func(c *Conn) { c.SetReadDeadline(longAgo) },
		"Interrupt":       (*Conn).Interrupt,
	}
	for name, wake := range wakes {
		near, _ := acceptedTLSPair(t)
		c := New(near, nil)
		r := c.reader.(*tlsReader)
		r.beginPoll()
		wake(c)
		r.endPoll()
		if got, err := fill(c, ""); !os.IsTimeout(err) {
			t.Errorf("%s: Fill() = %q, %v; want a timeout", name, got, err)
		}
	}
}

func TestTLSDeadlineDoesNotEndPoll(t *testing.T) {
	near, far := acceptedTLSPair(t)
	c := New(near, nil)
	r := c.reader.(*tlsReader)
	r.beginPoll()
	c.SetReadDeadline(time.Time{})
	if n, err := near.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("Read() while more is taken = %d, %v; want a timeout: it must not wait", n, err)
	}
	r.endPoll()
	far.Write([]byte("hello"))
	if got, err := fill(c, ""); got != "hello" || err != nil {
		t.Errorf("Fill() = %q, %v; want hello", got, err)
	}
}
