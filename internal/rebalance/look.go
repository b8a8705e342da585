package rebalance

import (
	"slices"
	"time"
)

const (
	// Wait is how long a client is waited for after its tunnel was closed. The closing
	// handshake takes some seconds of it, and most clients back off for 1 s or a few.
	Wait = 15 * time.Second

	// enough clients decide. With fewer, a balancer that chooses at random would often be
	// taken for one that sends clients back.
	enough = 10
)

// A Look records where clients go after their tunnels were closed. The zero value is empty.
//
// Many clients may be behind one address, so that a client cannot always be recognised. Each
// tunnel that opens from an address is matched with one that was closed: with one that had the
// same target, which stands for the request, else with any of that address. A later tunnel
// with the right target replaces a match with a wrong one. Other clients behind the address may
// be matched too; the balancer treats them alike, unless it looks at the target.
type Look struct {
	awaited map[uint64][]*record // by client; of tunnels that were closed within Wait
	pending []*record            // not judged yet; in the order of their time
}

// A record is a tunnel that was closed.
type record struct {
	client, target uint64
	from           string // the ID of the backend
	at             time.Duration

	back   match
	isSame bool // the client came back to from
}

// A match says how well an opened tunnel fits a record.
type match uint8

const (
	matchNone   match = iota // there is none
	matchClient              // it has the client, and another target
	matchTarget              // it has the client and the target
)

// Closed records that a tunnel of a backend is closed at now. The function that it returns
// undoes that.
func (l *Look) Closed(now time.Duration, client, target uint64, from string) (undo func()) {
	if l.awaited == nil {
		l.awaited = make(map[uint64][]*record)
	}
	r := &record{client: client, target: target, from: from, at: now}
	l.awaited[client] = append(l.awaited[client], r)
	l.pending = append(l.pending, r)
	isR := func(other *record) bool { return other == r }
	return func() {
		l.awaited[client] = slices.DeleteFunc(l.awaited[client], isR)
		l.pending = slices.DeleteFunc(l.pending, isR)
	}
}

// Opened records that a client has opened a tunnel, to the backend with that ID.
func (l *Look) Opened(now time.Duration, client, target uint64, to string) {
	l.forget(now, client)
	var found *record
	m := matchNone
	for _, r := range l.awaited[client] {
		switch {
		case r.target == target && r.back != matchTarget:
			if m != matchTarget || r.back < found.back { // a record without a match is preferred
				found, m = r, matchTarget
			}
		case r.back == matchNone && m == matchNone:
			found, m = r, matchClient
		}
	}
	if found != nil {
		found.back, found.isSame = m, to == found.from
	}
}

// Away returns how many clients are still waited for.
func (l *Look) Away(now time.Duration) int {
	n := 0
	for client := range l.awaited {
		l.forget(now, client)
		for _, r := range l.awaited[client] {
			if r.back == matchNone {
				n++
			}
		}
	}
	return n
}

// forget removes the records of a client that are older than Wait.
func (l *Look) forget(now time.Duration, client uint64) {
	records := l.awaited[client]
	n := 0
	for n < len(records) && now-records[n].at >= Wait {
		n++
	}
	if n == len(records) {
		delete(l.awaited, client)
	} else {
		l.awaited[client] = records[n:]
	}
}

// A Verdict says what to do after tunnels were closed.
type Verdict uint8

const (
	GoOn   Verdict = iota // close more
	Undone                // wait until others come back
	Stop                  // more than half came back to their backend
)

// Judge decides from the clients whose tunnels were closed since the last decision. Fewer than
// 10 decide nothing, and are judged together with the next ones, unless IsLast is set: no more
// tunnels are closed. Once half of the clients have gone elsewhere, or more than half have come
// back to their backend, the others change nothing. Those that do not come within [Wait] count
// for nothing.
func (l *Look) Judge(now time.Duration, isLast bool) (v Verdict, same, back int) {
	n := len(l.pending)
	for _, r := range l.pending {
		if r.back != matchNone {
			back++
		}
		if r.back != matchNone && r.isSame {
			same++
		}
	}
	switch {
	case n == 0 || n < enough && !isLast:
		return GoOn, same, back
	case 2*same > n:
		return Stop, same, back
	case 2*(back-same) >= n:
		l.pending = nil
		return GoOn, same, back
	case now < l.Deadline():
		return Undone, same, back
	case back < enough:
		return GoOn, same, back // and judge them with the next ones
	case 2*same > back:
		return Stop, same, back
	}
	l.pending = nil
	return GoOn, same, back
}

// Deadline returns when Judge decides at the latest.
func (l *Look) Deadline() time.Duration {
	if len(l.pending) == 0 {
		return 0
	}
	return l.pending[len(l.pending)-1].at + Wait
}
