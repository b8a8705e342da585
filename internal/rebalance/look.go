package rebalance

import (
	"slices"
	"time"
)

const (
	// Wait is how long a decision waits for clients after their tunnels were closed. The
	// closing handshake takes some seconds of it, and most clients back off for 1 s or a few.
	Wait = 15 * time.Second

	enough = 10 // fewer clients decide nothing
	many   = 30 // from so many clients on, half of them decide

	maxPending = 100 // clients that are remembered for the next decision
)

// A Look records where clients go after their tunnels were closed. The zero value is empty.
//
// Many clients may be behind one address, so that a client cannot always be recognised. Each
// tunnel that opens from an address is matched with a closed one: with one that had the same
// target, which stands for the request, else with any of that address. A later tunnel
// with the right target replaces a match with a wrong one. Other clients behind the address may
// be matched too; the balancer treats them alike, unless it looks at the target.
type Look struct {
	records map[uint64][]*record // by client
	away    int                  // how many of them have no match
	pending []*record            // to be judged, the last maxPending; in the order of their time
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
	if l.records == nil {
		l.records = make(map[uint64][]*record)
	}
	r := &record{client: client, target: target, from: from, at: now}
	l.records[client] = append(l.records[client], r)
	l.pending = append(l.pending, r)
	l.away++
	isR := func(other *record) bool { return other == r }
	return func() {
		if r.back == matchNone {
			l.away--
		}
		l.records[client] = slices.DeleteFunc(l.records[client], isR)
		l.pending = slices.DeleteFunc(l.pending, isR)
	}
}

// Opened records that a client has opened a tunnel at now, to the backend with that ID.
func (l *Look) Opened(now time.Duration, client, target uint64, to string) {
	l.forget(now, client)
	var found *record
	m := matchNone
	for _, r := range l.records[client] {
		switch {
		case r.target == target && r.back != matchTarget:
			if m != matchTarget || r.back < found.back { // a record without a match is preferred
				found, m = r, matchTarget
			}
		case r.back == matchNone && m == matchNone:
			found, m = r, matchClient
		}
	}
	if found == nil {
		return
	}
	if found.back == matchNone {
		l.away--
	}
	found.back, found.isSame = m, to == found.from
}

// forget removes the records of a client that cannot be matched in a better way.
func (l *Look) forget(now time.Duration, client uint64) {
	isDone := func(r *record) bool {
		return r.back == matchTarget || r.back == matchClient && now-r.at >= Wait
	}
	left := slices.DeleteFunc(l.records[client], isDone)
	if len(left) == 0 {
		delete(l.records, client)
	} else {
		l.records[client] = left
	}
}

// Away returns how many clients have not come back. They count however long it takes: if they
// were forgotten, the share of each backend would shrink with every batch, and a backend whose
// clients stay away would lose all of them.
func (l *Look) Away() int { return l.away }

// A Verdict says what to do after tunnels were closed.
type Verdict uint8

const (
	GoOn      Verdict = iota // close more
	Undecided                // wait until others come back
	Stop                     // more than half came back to their backend
)

// Judge decides from the last 100 clients that have come back, or may still do so within [Wait].
// It stops if more than half of them come back to their backend. Of fewer than 30 it must be
// four in five, because a balancer that chooses at random sends some of them back too; and fewer
// than 10 decide nothing, unless IsLast is set: then this is the last call. It is decided as soon
// as the other clients cannot change it. Same is the number of clients that
// have come back to their backend, and back that of all that have.
func (l *Look) Judge(now time.Duration, isLast bool) (v Verdict, same, back int) {
	n := 0
	for _, r := range l.pending {
		switch {
		case r.back != matchNone && r.isSame:
			same++
			fallthrough
		case r.back != matchNone:
			back++
			fallthrough
		case now-r.at < Wait:
			n++
		}
	}
	most := n / 2 // that may come back to their backend
	if n < many {
		most = (4*n - 1) / 5
	}
	switch {
	case n == 0 || n < enough && !isLast:
	case same > most:
		return Stop, same, back
	case n-(back-same) > most:
		return Undecided, same, back
	}
	l.pending = l.pending[max(0, len(l.pending)-maxPending):]
	return GoOn, same, back
}

// Discard forgets the clients that are to be judged: something else than the balancer may have
// sent them to where they went. Those that have not come back are still away.
func (l *Look) Discard() { l.pending = nil }

// Deadline returns when the time of the first client ends that has not come back.
func (l *Look) Deadline(now time.Duration) time.Duration {
	for _, r := range l.pending {
		if r.back == matchNone && now-r.at < Wait {
			return r.at + Wait
		}
	}
	return now
}
