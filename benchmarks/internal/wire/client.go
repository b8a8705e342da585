package wire

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/frame"
)

const (
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 15 * time.Second

	key = "dGhlIHNhbXBsZSBub25jZQ==" // need not be random for a measurement
)

// A Conn is the client's end of a WebSocket connection, or of a plain TCP connection
// to a server that echoes.
type Conn struct {
	net.Conn
	r     *bufio.Reader
	isRaw bool
}

// A Dialer opens connections to one URL: ws, wss, or tcp for a plain one.
type Dialer struct {
	url         *url.URL
	bufferBytes int
	sources     uint64 // number of loopback addresses to dial from
	dialed      atomic.Uint64
}

// NewDialer returns a Dialer. Its connections have read buffers of bufferBytes. If
// the server is on a loopback address, Dial uses a number of loopback addresses as
// sources in turn, because one address has only 28,000 ports.
func NewDialer(rawURL string, bufferBytes, sources int) (*Dialer, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "ws", "wss", "tcp":
	default:
		return nil, fmt.Errorf("%s: want a URL with ws, wss or tcp", rawURL)
	}
	d := &Dialer{url: u, bufferBytes: bufferBytes}
	if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsLoopback() && ip.To4() != nil {
		d.sources = uint64(sources)
	}
	return d, nil
}

// Dial opens a connection.
func (d *Dialer) Dial() (*Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	if d.sources > 1 {
		dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+d.dialed.Add(1)%d.sources))}
	}
	nc, err := dialer.Dial("tcp", d.url.Host)
	if err != nil {
		return nil, err
	}
	if d.url.Scheme == "wss" {
		// The certificate was generated for this measurement.
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	}
	c := &Conn{Conn: nc, r: bufio.NewReaderSize(nc, d.bufferBytes), isRaw: d.url.Scheme == "tcp"}
	if !c.isRaw {
		err = c.handshake(d.url)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("%s: %w", d.url, err)
	}
	return c, nil
}

func (c *Conn) handshake(u *url.URL) error {
	c.SetDeadline(time.Now().Add(handshakeTimeout))
	_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", u.RequestURI(), u.Host, key)
	if err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return errors.New("handshake: " + resp.Status)
	}
	if resp.Header.Get("Sec-WebSocket-Accept") != accept(key) {
		return errors.New("handshake: wrong Sec-WebSocket-Accept")
	}
	return c.SetDeadline(time.Time{})
}

// Frame returns the bytes that c sends for a message.
func (c *Conn) Frame(payload []byte) []byte {
	if c.isRaw {
		return payload
	}
	return ClientFrame(frame.Binary, payload)
}

// ReadMessage reads and discards a message of n bytes.
func (c *Conn) ReadMessage(n int) error {
	if c.isRaw {
		_, err := c.r.Discard(n)
		return err
	}
	return ReadMessage(c.r, n)
}

// RoundTrip sends message, which is a result of [Conn.Frame] for n bytes, and reads
// a message of n bytes.
func (c *Conn) RoundTrip(message []byte, n int) error {
	if _, err := c.Write(message); err != nil {
		return err
	}
	return c.ReadMessage(n)
}

// CloseHandshake sends a Close frame with code 1000 and reads a Close frame.
func (c *Conn) CloseHandshake() error {
	if _, err := c.Write(ClientFrame(frame.Close, []byte{1000 >> 8, 1000 & 0xff})); err != nil {
		return err
	}
	h, err := ReadHeader(c.r)
	if err != nil {
		return fmt.Errorf("no Close frame: %w", err)
	}
	if h.Opcode != frame.Close {
		return fmt.Errorf("got opcode %d; want a Close frame", h.Opcode)
	}
	_, err = c.r.Discard(int(h.Length))
	return err
}
