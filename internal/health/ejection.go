package health

import (
	"slices"
	"time"
)

// An Ejection is the rule by which a backend is ejected.
type Ejection struct {
	Failures            int // in a row, each of another client; 0: none ejects
	Backoff, MaxBackoff time.Duration
	MaxShare            float64 // of a set
}

// Allows reports whether one more of n backends may be ejected.
func (e Ejection) Allows(numEjected, n int) bool {
	return numEjected+1 <= max(1, int(e.MaxShare*float64(n)))
}

const (
	// clientWindow is how long a client counts for nothing after a failure of it has
	// counted: so one client cannot take a backend from the others.
	clientWindow = 10 * time.Second

	// lonelyWindow takes its place while the backend opens no tunnel, for any client: then
	// there may be no other client than the one that fails.
	lonelyWindow = 1 * time.Second

	// maxClients is the number of clients that a backend remembers. With more of them,
	// failures are not those of one client.
	maxClients = 64
)

// evidence counts the failures that lead to an ejection.
type evidence struct {
	unanswered, lost int // in a row

	clients []clientFailure // the last ones that have counted, at most maxClients
}

type clientFailure struct {
	client uint64
	at     time.Duration
}

// count counts a failure, and returns how many in a row there are now. It returns 0 if the
// client has counted a moment ago.
func (v *evidence) count(e Event, isLost bool) int {
	window := lonelyWindow
	if e.LastOpened >= 0 && e.At-e.LastOpened < clientWindow {
		window = clientWindow
	}
	v.clients = slices.DeleteFunc(v.clients, func(c clientFailure) bool { return e.At-c.at >= clientWindow })
	for _, c := range v.clients {
		if c.client == e.Client && e.At-c.at < window {
			return 0
		}
	}
	if len(v.clients) == maxClients {
		v.clients = slices.Delete(v.clients, 0, 1)
	}
	v.clients = append(v.clients, clientFailure{e.Client, e.At})
	if isLost {
		v.lost++
		return v.lost
	}
	v.unanswered++
	return v.unanswered
}

// forget begins to count anew, after an ejection.
func (v *evidence) forget() { v.unanswered, v.lost = 0, 0 }
