package wsproxyadmin

import (
	"cmp"
	"slices"
	"time"

	"github.com/wsproxy/wsproxy"
)

// A window counts what happened in each of the last seconds: enough for the history that the
// page shows, and for the rates of the last minute. It takes times as parameters, and no lock.
type window struct {
	seconds [historySeconds + 1]second // by Unix time, modulo the length: whole ones, and the current one
	began   int64                      // the first second; 0 before it
	newest  int64                      // the last second that was seen
}

const (
	historySeconds = 120 // of the sparklines
	minute         = 60
)

// A second has the counts of one second.
type second struct {
	at             int64 // Unix time; another second's counts are overwritten
	opened         uint32
	ended, refused uint32
	byReason       [numReasons]uint32
	byEnd          [numSides][numCauses]uint32
	times          [numTimes]timeCounts
}

// More than there are: others are not counted by name.
const (
	numReasons = 32
	numSides   = 4
	numCauses  = 32
)

// The times that are counted: the whole upgrade, and its phases.
const (
	timeAll = iota
	timeAdmit
	timeQueue
	timeDial
	timeAnswer
	numTimes
)

var phaseNames = [numTimes]string{timeAdmit: "admit", timeQueue: "queue", timeDial: "dial", timeAnswer: "answer"}

// second returns the counts of the second of t, which may be new.
func (w *window) second(t time.Time) *second {
	at := t.Unix()
	w.follow(at)
	s := &w.seconds[at%int64(len(w.seconds))]
	if s.at != at {
		*s = second{at: at}
	}
	if w.began == 0 {
		w.began = at
	}
	return s
}

// maxDelay is how late an event may be recorded, in seconds.
const maxDelay = 5

// follow begins anew if the clock was set back: the counts of seconds that come again would be
// added to the old ones, and there would be no history until the clock is as far as it was.
func (w *window) follow(at int64) {
	if at < w.newest-maxDelay {
		*w = window{began: at}
	}
	w.newest = max(w.newest, at)
}

func (w *window) recordOpened(t time.Time, u wsproxy.UpgradeTimes) {
	s := w.second(t)
	s.opened++
	s.times[timeAll].add(u.Admit + u.Queue + u.Dial + u.Answer)
	s.times[timeAdmit].add(u.Admit)
	if u.Queue > 0 { // most do not wait
		s.times[timeQueue].add(u.Queue)
	}
	s.times[timeDial].add(u.Dial)
	s.times[timeAnswer].add(u.Answer)
}

func (w *window) recordEnded(t time.Time, side wsproxy.Side, cause wsproxy.Cause) {
	s := w.second(t)
	s.ended++
	if side < numSides && cause < numCauses {
		s.byEnd[side][cause]++
	}
}

func (w *window) recordRefused(t time.Time, reason wsproxy.Reason) {
	s := w.second(t)
	s.refused++
	if reason < numReasons {
		s.byReason[reason]++
	}
}

// each calls f with the counts of the whole seconds from first to last that have any.
func (w *window) each(first, last int64, f func(*second)) {
	for at := max(first, last-historySeconds+1); at <= last; at++ {
		if s := &w.seconds[at%int64(len(w.seconds))]; s.at == at {
			f(s)
		}
	}
}

// recent sums the counts of the last minute.
type recent struct {
	current, last, minute second
	times                 [numTimes][len(timeBounds) + 1]uint64
}

// recent returns the counts of the last whole second before now, and of the last 60.
func (w *window) recent(now time.Time) *recent {
	r := new(recent)
	w.follow(now.Unix())
	last := now.Unix() - 1
	if s := w.at(last + 1); s != nil {
		r.current = *s
	}
	w.each(last-minute+1, last, func(s *second) {
		if s.at == last {
			r.last = *s
		}
		r.minute.add(s)
		for i := range s.times {
			for j, n := range s.times[i] {
				r.times[i][j] += uint64(n)
			}
		}
	})
	return r
}

// tunnelsBefore returns how many tunnels there were at the end of the last whole second, if there
// are numTunnels now.
func (r *recent) tunnelsBefore(numTunnels int) int {
	return numTunnels - int(r.current.opened) + int(r.current.ended)
}

// add adds the counts of u, but not its times.
func (s *second) add(u *second) {
	s.opened += u.opened
	s.ended += u.ended
	s.refused += u.refused
	for i, n := range u.byReason {
		s.byReason[i] += n
	}
	for i := range u.byEnd {
		for j, n := range u.byEnd[i] {
			s.byEnd[i][j] += n
		}
	}
}

func (r *recent) opens(total uint64) rate {
	return rate{total, uint64(r.last.opened), uint64(r.minute.opened)}
}

// ends returns the rates of ends. Counts are the totals.
func (r *recent) ends(counts []wsproxy.EndCount) ends {
	e := ends{rate: rate{0, uint64(r.last.ended), uint64(r.minute.ended)}, ByCause: []endRate{}}
	for _, c := range counts {
		e.Total += c.Count
		er := endRate{Side: c.Side, Cause: c.Cause, rate: rate{Total: c.Count}}
		if c.Side < numSides && c.Cause < numCauses {
			er.PerSecond, er.LastMinute = uint64(r.last.byEnd[c.Side][c.Cause]), uint64(r.minute.byEnd[c.Side][c.Cause])
		}
		e.ByCause = append(e.ByCause, er)
	}
	return e
}

// refusals returns the rates of refusals. Total and counts are the totals, in all and by reason.
func (r *recent) refusals(total uint64, counts []wsproxy.RefusalCount) refusals {
	e := refusals{rate: rate{total, uint64(r.last.refused), uint64(r.minute.refused)}, ByReason: []refusalRate{}}
	for _, c := range counts {
		rr := refusalRate{Reason: c.Reason, rate: rate{Total: c.Count}}
		if c.Reason < numReasons {
			rr.PerSecond, rr.LastMinute = uint64(r.last.byReason[c.Reason]), uint64(r.minute.byReason[c.Reason])
		}
		e.ByReason = append(e.ByReason, rr)
	}
	return e
}

// upgrade returns the times of the last minute.
func (r *recent) upgrade() upgrade {
	u := upgrade{quantiles: quantilesOf(&r.times[timeAll])}
	for i := timeAdmit; i < numTimes; i++ {
		u.Phases = append(u.Phases, phase{Phase: phaseNames[i], quantiles: quantilesOf(&r.times[i])})
	}
	return u
}

// history returns the values of the whole seconds after the second after and before now, which may
// be over. At the end of the last one there were so many tunnels. A window that has begun later has no values of before.
func (w *window) history(after int64, now time.Time, tunnels int) history {
	last := now.Unix() - 1
	first := max(after+1, last-historySeconds+1, w.began)
	h := history{To: last, Tunnels: []int{}, Opened: []uint32{}, Ended: []uint32{}, Refused: []uint32{}, UpgradeP99MS: []*float64{}}
	if w.began == 0 {
		return h
	}
	var none second
	n := tunnels
	for at := last; at >= first; at-- {
		s := cmp.Or(w.at(at), &none)
		h.Tunnels = append(h.Tunnels, max(n, 0))
		n += int(s.ended) - int(s.opened)
		h.Opened = append(h.Opened, s.opened)
		h.Ended = append(h.Ended, s.ended)
		h.Refused = append(h.Refused, s.refused)
		h.UpgradeP99MS = append(h.UpgradeP99MS, p99Of(&s.times[timeAll]))
	}
	slices.Reverse(h.Tunnels)
	slices.Reverse(h.Opened)
	slices.Reverse(h.Ended)
	slices.Reverse(h.Refused)
	slices.Reverse(h.UpgradeP99MS)
	return h
}

// at returns the counts of a second, or nil if there are none.
func (w *window) at(at int64) *second {
	if s := &w.seconds[at%int64(len(w.seconds))]; s.at == at {
		return s
	}
	return nil
}
