package wsproxyadmin

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/wsproxy/wsproxy"
)

// serveTunnels serves /tunnels.
func (h *handler) serveTunnels(w http.ResponseWriter, r *http.Request, _ string) {
	q, err := parseQuery(r.URL.Query(), h.o.Redact)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(encode(h.listTunnels(q, time.Now())))
}

// A tunnelQuery says which tunnels are listed. Empty fields match all.
type tunnelQuery struct {
	order     string
	backend   string
	client    string       // the beginning of an address as it is shown
	prefix    netip.Prefix // instead of client, if it is valid
	value     string       // in lower case
	requestID string
	limit     int
}

const (
	defaultLimit = 50
	maxLimit     = 500 // an answer has some hundred bytes for each
)

// parseQuery returns the query of a request for /tunnels.
func parseQuery(v url.Values, redact bool) (q tunnelQuery, err error) {
	q = tunnelQuery{
		order: cmp.Or(v.Get("order"), "oldest"), backend: v.Get("backend"), client: v.Get("client"),
		value: strings.ToLower(v.Get("value")), requestID: v.Get("request_id"), limit: defaultLimit,
	}
	if !slices.Contains([]string{"oldest", "busiest", "quietest"}, q.order) {
		return q, fmt.Errorf("order is %q; want oldest, busiest or quietest", q.order)
	}
	if s := v.Get("limit"); s != "" {
		if q.limit, err = strconv.Atoi(s); err != nil || q.limit < 1 || q.limit > maxLimit {
			return q, fmt.Errorf("limit is %q; want 1 to %d", s, maxLimit)
		}
	}
	if q.value != "" && redact {
		return q, errors.New("values are hidden")
	}
	return q, q.setClient(redact)
}

// setClient parses the filter by address. Where addresses are shortened, a filter must not reveal
// the rest of them.
func (q *tunnelQuery) setClient(redact bool) error {
	if p, err := netip.ParsePrefix(q.client); err == nil {
		bits := p.Bits()
		if redact {
			bits = min(bits, redactedBits(p.Addr()))
		}
		q.prefix, _ = p.Addr().Prefix(bits)
		return nil
	}
	if strings.Contains(q.client, "/") {
		return fmt.Errorf("client is %q; want an address, its beginning, or a prefix such as 192.0.2.0/24", q.client)
	}
	if a, err := netip.ParseAddr(q.client); err == nil {
		q.client = clientText(a, redact)
	}
	return nil
}

// needsInfo reports whether the filters need [wsproxy.Tunnel.Info].
func (q *tunnelQuery) needsInfo() bool { return q.client != "" || q.value != "" || q.requestID != "" }

// matches reports whether a tunnel is listed, by all but its backend.
func (q *tunnelQuery) matches(i *wsproxy.TunnelInfo, redact bool) bool {
	switch {
	case !strings.HasPrefix(i.RequestID, q.requestID):
		return false
	case q.prefix.IsValid() && !q.prefix.Contains(i.ClientAddr.Unmap().WithZone("")):
		return false
	case !q.prefix.IsValid() && !strings.HasPrefix(clientText(i.ClientAddr, redact), q.client):
		return false
	}
	return q.value == "" || strings.Contains(strings.ToLower(valueText(i.Value)), q.value)
}

// A candidate is a tunnel with its numbers for sorting, the smallest first.
type candidate struct {
	t   *wsproxy.Tunnel
	key int64
	id  uint64 // the oldest has the smallest
}

func compareCandidates(a, b candidate) int {
	if a.key != b.key {
		return cmp.Compare(a.key, b.key)
	}
	return cmp.Compare(a.id, b.id)
}

// listTunnels answers a query. With a filter by client, value or request ID it calls Info
// for each tunnel, and otherwise only for the listed ones.
func (h *handler) listTunnels(q tunnelQuery, now time.Time) tunnelList {
	all := slices.Collect(h.p.Tunnels())
	perSecond := h.rates.update(all, now)
	list := tunnelList{At: now, Open: len(all), Tunnels: []tunnel{}}
	found := make([]candidate, 0, len(all))
	for _, t := range all {
		if q.backend != "" && backendID(t.Backend()) != q.backend {
			continue
		}
		if q.needsInfo() {
			if i := t.Info(); !q.matches(&i, h.o.Redact) {
				continue
			}
		}
		c := candidate{t: t, id: t.ID()}
		switch q.order {
		case "busiest":
			c.key = -int64(1000 * perSecond(t))
		case "quietest":
			c.key = t.LastActive().UnixNano()
		}
		found = append(found, c)
	}
	list.Matched = len(found)
	slices.SortFunc(found, compareCandidates)
	for _, c := range found[:min(len(found), q.limit)] {
		list.Tunnels = append(list.Tunnels, h.describe(c.t, perSecond(c.t)))
	}
	return list
}

// describe returns the description of a tunnel.
func (h *handler) describe(t *wsproxy.Tunnel, perSecond float64) tunnel {
	i := t.Info()
	toBackend, toClient := t.Traffic()
	d := tunnel{
		ID: i.ID, RequestID: clip(i.RequestID, maxPath), Backend: backendID(i.Backend), Client: clientText(i.ClientAddr, h.o.Redact),
		Host: clip(i.Host, maxPath), Path: clip(i.URL.Path, maxPath), Subprotocol: clip(i.Subprotocol, maxPath),
		Engine: i.Engine, HTTP2: i.Method == http.MethodConnect, Opened: i.Opened, LastActive: t.LastActive(),
		ToBackend: tunnelFlow(toBackend), ToClient: tunnelFlow(toClient), BytesPerSecond: perSecond,
	}
	if !h.o.Redact {
		d.Value = valueText(i.Value)
	}
	return d
}

// tunnelRates remember the bytes of all tunnels, so that the rates of a list are those of the
// last seconds. It takes about 80 bytes for each tunnel, from the first request for a list until
// the last stream ends.
type tunnelRates struct {
	mu          sync.Mutex
	base, newer byteCounts
}

// byteCounts are the bytes of all tunnels at one moment.
type byteCounts struct {
	at    time.Time
	bytes map[uint64]uint64 // by the ID of the tunnel
}

const (
	minRateTime = time.Second      // over less, a rate is a matter of chance
	maxRateTime = 30 * time.Second // over more, it is not the present one
)

// update remembers the bytes of tunnels, and returns the function for their rates.
func (r *tunnelRates) update(tunnels []*wsproxy.Tunnel, now time.Time) (perSecond func(*wsproxy.Tunnel) float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.newer.at) >= minRateTime {
		r.base = r.newer
		r.newer = byteCounts{now, make(map[uint64]uint64, len(tunnels))}
		for _, t := range tunnels {
			r.newer.bytes[t.ID()] = bytesOf(t)
		}
	}
	base := r.base
	if now.Sub(base.at) > maxRateTime {
		base = byteCounts{}
	}
	return func(t *wsproxy.Tunnel) float64 {
		before, ok := base.bytes[t.ID()]
		since := base.at
		if !ok {
			since = t.Info().Opened
		}
		elapsed := max(now.Sub(since), minRateTime) // another request may have been faster, with a later base
		bytes := bytesOf(t)
		return float64(bytes-min(before, bytes)) / elapsed.Seconds()
	}
}

// forget frees the memory.
func (r *tunnelRates) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.base, r.newer = byteCounts{}, byteCounts{}
}

func bytesOf(t *wsproxy.Tunnel) uint64 {
	toBackend, toClient := t.Traffic()
	return toBackend.Bytes + toClient.Bytes
}
