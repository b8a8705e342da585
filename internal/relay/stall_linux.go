//go:build linux && !wsproxy_portable

package relay

// noteStalls notes what the sides have not taken.
func (t *looped) noteStalls() {
	s := t.stalls()
	if s == nil {
		return
	}
	for i := range t.links {
		d, kept := t.links[i].writer(), t.links[i].numKept()
		s.of(d.to()).note(kept, d.counts.bytes.Load()-uint64(kept))
	}
}

// resetStalled resets the connection with a side that was cut because it takes
// nothing, whatever the other side is still waited for.
func (l *loop) resetStalled(t *looped) {
	if t.stalls() == nil {
		return
	}
	t.mu.Lock()
	end, isCut := t.endingLocked().end, t.cut
	t.mu.Unlock()
	if end.Cause != CauseStalled {
		return
	}
	for i := range t.links {
		if isCut || t.links[i].writer().to() == end.Side {
			l.poller.Forget(&t.sockets[i])
			t.sockets[i].Reset()
		}
	}
}
