package rebalance

import (
	"slices"
	"time"
)

// Reconnects records where clients go after their tunnels were closed, and judges whether it is
// worth closing more. The zero value is empty.
//
// Many clients may be behind one address, so that a client cannot always be recognised. Each
// tunnel that opens from an address is matched with a closed one: with one that had the same
// target, which stands for the request, else with any of that address. A later tunnel
// with the right target replaces a match with a wrong one. Other clients behind the address may
// be matched too; the balancer treats them alike, unless it looks at the target.
type Reconnects struct {
	records map[uint64][]*record // by client
	away    int                  // how many of them have no match
	sample  []*record            // counted by Judge, in the order of their time
}

const (
	// reconnectTimeout is how long a client may take to come back after its tunnel was closed:
	// later it decides nothing. The closing handshake takes some seconds of it, and most clients
	// back off for 1 s or a few.
	reconnectTimeout = 15 * time.Second

	minSample   = 10  // of fewer clients none decide
	largeSample = 30  // of so many, more than half decide; of fewer, four in five
	maxSample   = 100 // the latest clients, which decide
)

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

// Closed records that a client's tunnel to the backend with the ID from is closed at now. Undo
// removes the record, for a tunnel that was not closed after all.
func (c *Reconnects) Closed(now time.Duration, client, target uint64, from string) (undo func()) {
	if c.records == nil {
		c.records = make(map[uint64][]*record)
	}
	r := &record{client: client, target: target, from: from, at: now}
	c.records[client] = append(c.records[client], r)
	c.sample = append(c.sample, r)
	c.away++
	isR := func(other *record) bool { return other == r }
	return func() {
		if r.back == matchNone {
			c.away--
		}
		c.records[client] = slices.DeleteFunc(c.records[client], isR)
		c.sample = slices.DeleteFunc(c.sample, isR)
	}
}

// Opened records that a client has opened a tunnel to the backend with the ID to at now.
func (c *Reconnects) Opened(now time.Duration, client, target uint64, to string) {
	c.forget(now, client)
	var found *record
	m := matchNone
	for _, r := range c.records[client] {
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
		c.away--
	}
	found.back, found.isSame = m, to == found.from
}

// forget removes the records of a client that cannot be matched in a better way.
func (c *Reconnects) forget(now time.Duration, client uint64) {
	isDone := func(r *record) bool {
		return r.back == matchTarget || r.back == matchClient && now-r.at >= reconnectTimeout
	}
	left := slices.DeleteFunc(c.records[client], isDone)
	if len(left) == 0 {
		delete(c.records, client)
	} else {
		c.records[client] = left
	}
}

// Away returns how many clients have not come back. They count however long it takes: if they
// were forgotten, the share of each backend would shrink with every batch, and a backend whose
// clients stay away would lose all of them.
func (c *Reconnects) Away() int { return c.away }

// A Verdict says what to do after tunnels were closed.
type Verdict uint8

const (
	GoOn      Verdict = iota // close more
	Undecided                // wait until others come back
	Stop                     // more than half came back to their backend
)

// Judge decides from the last 100 clients that have come back, or may still do so within 15 s of
// the end of their tunnels. The verdict is [Stop] if more than half of them come back to their
// backend. Of fewer than 30 clients four in five must, because a balancer that chooses at random
// sends some back too. Fewer than 10 decide nothing, unless isLast is set: then no call follows.
// The verdict is reached as soon as the clients that are still away cannot change it. Same is how
// many clients have come back to their backend, and back how many have come back at all.
func (c *Reconnects) Judge(now time.Duration, isLast bool) (v Verdict, same, back int) {
	n := 0
	for _, r := range c.sample {
		isBack := r.back != matchNone
		if !isBack && now-r.at >= reconnectTimeout {
			continue
		}
		n++
		if isBack {
			back++
		}
		if isBack && r.isSame {
			same++
		}
	}
	most := n / 2 // clients that may come back to their backend
	if n < largeSample {
		most = (4*n - 1) / 5
	}
	switch {
	case n == 0 || n < minSample && !isLast:
	case same > most:
		return Stop, same, back
	case n-(back-same) > most:
		return Undecided, same, back
	}
	c.sample = c.sample[max(0, len(c.sample)-maxSample):]
	return GoOn, same, back
}

// Discard forgets the clients that are to be judged: something else than the balancer may have
// sent them to where they went. Those that have not come back are still away.
func (c *Reconnects) Discard() { c.sample = nil }

// Deadline returns when the first of the clients that are still away decides nothing any longer:
// now if there is none.
func (c *Reconnects) Deadline(now time.Duration) time.Duration {
	for _, r := range c.sample {
		if r.back == matchNone && now-r.at < reconnectTimeout {
			return r.at + reconnectTimeout
		}
	}
	return now
}
