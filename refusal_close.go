package wsproxy

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/wsproxy/wsproxy/internal/frame"
	"github.com/wsproxy/wsproxy/internal/handshake"
	"github.com/wsproxy/wsproxy/internal/netconn"
)

// This file refuses clients by a Close frame: see [Refusal.ByClose].

// refuseByClose accepts the client's WebSocket and closes it: see [Refusal.ByClose]. It
// returns false if the client is to get a status instead.
func (c *http1Client) refuseByClose(i *RefusedInfo) (isDone bool) {
	code, ok := i.closeCode()
	if _, isHijacker := c.innermost(); !ok || !isHijacker || c.front != nil && c.front.state.Load() != frontPassing {
		return false
	}
	if !c.u.p.beginLinger() {
		return false
	}
	defer c.u.p.endLinger()
	buf := &c.u.head
	defer buf.free()
	h := http.Header{requestIDHeader: {i.RequestID}}
	opening, err := handshake.AppendSwitch(buf.reset(), h, handshake.ClientKey(c.u.r),
		handshake.Agreement{Subprotocol: handshake.FirstSubprotocol(c.u.r.Header)})
	if err != nil {
		return false
	}
	opening = i.appendClose(opening, code)
	buf.store(opening)
	if c.front != nil {
		if _, err := c.announce(h); err != nil {
			return false // the client has a middleware's response
		}
	}
	conn, ahead, err := c.hijack()
	if err != nil {
		return false
	}
	client := netconn.New(conn, nil)
	// Over TLS, closing and ending the stream wait for a client that does not read.
	timer := time.AfterFunc(lingerTimeout, func() { client.Abandon() })
	defer timer.Stop()
	defer client.Abandon()
	conn.SetDeadline(time.Now().Add(lingerTimeout))
	if _, err := conn.Write(opening); err != nil {
		return true
	}
	c.u.p.registry.removeUpgrade(c.u) // Shutdown does not wait for the client
	stop := context.AfterFunc(c.u.p.lingering, client.Interrupt)
	defer stop()
	if err := client.CloseWrite(); err != nil {
		readToClose(ahead) // the client waits for the end of the connection
	} else {
		io.Copy(io.Discard, conn)
	}
	return true
}

// readToClose reads frames up to a Close frame, or to one that breaks the protocol.
func readToClose(r io.Reader) {
	tracker := frame.Tracker{Rules: frame.Rules{Masked: true}}
	var buf [512]byte // more than a control frame
	n := 0
	for {
		m, err := r.Read(buf[n:])
		n += m
		rest := buf[:n]
		for len(rest) > 0 {
			step, violation := tracker.Next(rest)
			if violation != nil || step.Control == frame.Close {
				return
			}
			if step.Len == 0 {
				break
			}
			rest = rest[step.Len:]
		}
		n = copy(buf[:], rest)
		if err != nil {
			return
		}
	}
}

// closeCode returns the code of the Close frame for a client that is refused by one, or
// false if it gets a status.
func (i *RefusedInfo) closeCode() (code int, ok bool) {
	switch i.Reason {
	case ReasonCheck, ReasonAnswer, ReasonClientLeft, ReasonFault:
		return 0, false
	case ReasonShutdown:
		return frame.StatusServiceRestart, true
	}
	switch {
	case i.Status < 500:
		return frame.StatusPolicyViolation, true
	case i.Status <= http.StatusBadGateway && (i.Reason == ReasonAdmit || i.Reason == ReasonHook):
		return frame.StatusInternalError, true
	}
	return frame.StatusTryAgainLater, true
}

// appendClose appends the Close frame with code for a client that is refused.
func (i *RefusedInfo) appendClose(b []byte, code int) []byte {
	return frame.AppendControl(b, frame.Close, frame.ClosePayload(code, i.Reason.String()), nil)
}

// beginLinger counts a client that is refused by a Close frame. It returns false if there
// are too many.
func (p *Proxy) beginLinger() bool {
	most := int64(maxLingering)
	if n := p.limits.Tunnels; n > 0 {
		most = max(int64(n)/10, 1)
	}
	if p.numLingering.Add(1) > most {
		p.numLingering.Add(-1)
		return false
	}
	return true
}

func (p *Proxy) endLinger() { p.numLingering.Add(-1) }
