package wsproxytest

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"time"

	"github.com/wsproxy/wsproxy"
)

// A pickResult is the result of one call of Pick.
type pickResult struct {
	given      []*wsproxy.Backend // the slice that was passed as candidates
	chosen     *wsproxy.Backend
	err        error // of Pick
	violations []violation
}

// spare is the unused capacity of candidates, into which an append would write.
const spare = 4

// pick calls Pick once, and checks its result and its side effects.
func (t *tester) pick(b wsproxy.Balancer, q request, candidates []*wsproxy.Backend) pickResult {
	given := slices.Grow(slices.Clone(candidates), spare)
	behind := given[len(given):][:spare]
	for i := range behind {
		behind[i] = t.pool.outsider()
	}
	r := q.new(t.ctx)
	before := r.Clone(t.ctx)
	about := fmt.Sprintf("for %s and %d candidates", q.name, len(candidates))
	if len(candidates) == 1 {
		about = fmt.Sprintf("for %s and 1 candidate", q.name)
	}

	o, ok := call(b, r, given)
	if !ok {
		// The call may still use given and r, so they are not checked.
		detail := fmt.Sprintf("%s it did not return within %v", about, blockedAfter)
		return pickResult{violations: []violation{{ruleBlock, detail}}}
	}
	p := pickResult{given: given, chosen: o.backend, err: o.err}
	if v := o.violation(candidates); v.rule != "" {
		p.violations = append(p.violations, violation{v.rule, about + " " + v.detail})
	}
	if !slices.Equal(given, candidates) {
		p.violations = append(p.violations, violation{ruleModify, about + " it changed them; sort or filter a copy"})
	}
	if slices.ContainsFunc(behind, func(b *wsproxy.Backend) bool { return b != t.pool.outsider() }) {
		p.violations = append(p.violations, violation{ruleModify, about + " it wrote past their end; append to a copy"})
	}
	if field := changed(before, r); field != "" {
		p.violations = append(p.violations, violation{ruleRequest, fmt.Sprintf("%s it changed %s", about, field)})
	}
	return p
}

// An outcome is how a call of Pick ended.
type outcome struct {
	backend  *wsproxy.Backend
	err      error
	panicked string // empty if the call returned
}

// call calls Pick. ok is false if Pick does not return in time.
func call(b wsproxy.Balancer, r *http.Request, candidates []*wsproxy.Backend) (o outcome, ok bool) {
	outcomes := make(chan outcome, 1)
	go callAndSend(outcomes, b, r, candidates) // ends when Pick does
	timeout := time.NewTimer(blockedAfter)
	defer timeout.Stop()
	select {
	case o = <-outcomes:
		return o, true
	case <-timeout.C:
	}
	select {
	case o = <-outcomes:
		return o, true // the call has returned, but this goroutine was scheduled late
	default:
		return outcome{}, false
	}
}

// callAndSend calls Pick and sends the outcome.
func callAndSend(outcomes chan<- outcome, b wsproxy.Balancer, r *http.Request, candidates []*wsproxy.Backend) {
	o := outcome{panicked: "it called runtime.Goexit"}
	defer func() {
		if v := recover(); v != nil {
			o.panicked = fmt.Sprintf("it panicked: %v", v)
		}
		outcomes <- o
	}()
	o.backend, o.err = b.Pick(r, candidates)
	o.panicked = ""
}

// violation returns the violation of an outcome. It has no rule if the outcome is
// correct.
func (o outcome) violation(candidates []*wsproxy.Backend) violation {
	switch {
	case o.panicked != "":
		return violation{rulePanic, o.panicked}
	case o.err != nil:
		return violation{ruleChoose, fmt.Sprintf("it returned the error %q", o.err)}
	case o.backend == nil:
		return violation{ruleNil, "it returned nil, nil"}
	case !slices.Contains(candidates, o.backend):
		return violation{ruleCandidate, fmt.Sprintf("it returned %s, which is not among them", o.backend.ID())}
	}
	return violation{}
}

// changed returns the name of a field in which r and before differ, or "".
func changed(before, r *http.Request) string {
	switch {
	case r.Method != before.Method:
		return "Method"
	case !reflect.DeepEqual(r.URL, before.URL):
		return "URL"
	case !reflect.DeepEqual(r.Header, before.Header):
		return "Header"
	case r.Host != before.Host:
		return "Host"
	case r.RemoteAddr != before.RemoteAddr:
		return "RemoteAddr"
	}
	return ""
}

// A request describes an upgrade request.
type request struct {
	name       string
	remoteAddr string
	query      string
	header     map[string]string // besides those of the handshake
}

var ordinary = request{
	name:       "a browser's request",
	remoteAddr: "192.0.2.7:52814",
	query:      "room=blue&user=42",
	header: map[string]string{
		"Cookie":     "theme=dark; session=1f3870be274f6c49b3e31a0c6728957f",
		"Origin":     "https://chat.example",
		"User-Agent": "Mozilla/5.0",
	},
}

// client returns an ordinary request of the nth of many clients.
func client(n int) request {
	q := ordinary
	q.name = "a request of one of many browsers"
	q.remoteAddr = fmt.Sprintf("192.0.2.%d:52814", n%250+1)
	q.query = fmt.Sprintf("room=%d&user=%d", n, n)
	q.header = maps.Clone(q.header)
	q.header["Cookie"] = fmt.Sprintf("theme=dark; session=%032x", n)
	return q
}

var unusual = []request{
	{name: "a request without cookies and query", remoteAddr: "192.0.2.7:52814"},
	{name: "a request over IPv6", remoteAddr: "[2001:db8::7]:52814", query: "user=42"},
	{name: `a request with RemoteAddr ""`},
	{name: `a request over a unix socket, with RemoteAddr "@"`, remoteAddr: "@"},
	{name: "a request whose RemoteAddr has no port", remoteAddr: "192.0.2.7"},
	{name: "a request with broken cookies and a broken query", remoteAddr: "192.0.2.7:52814",
		query: "%zz=1&;&=&user", header: map[string]string{"Cookie": `=; session; theme="`}},
}

// new returns the request in the form in which a server passes it to a handler.
func (q request) new(ctx context.Context) *http.Request {
	r := &http.Request{
		Method:     http.MethodGet,
		URL:        &url.URL{Path: "/chat", RawQuery: q.query},
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header: http.Header{
			"Connection":            {"Upgrade"},
			"Upgrade":               {"websocket"},
			"Sec-Websocket-Key":     {"dGhlIHNhbXBsZSBub25jZQ=="},
			"Sec-Websocket-Version": {"13"},
		},
		Body:       http.NoBody,
		Host:       "chat.example",
		RemoteAddr: q.remoteAddr,
		RequestURI: "/chat",
	}
	if q.query != "" {
		r.RequestURI += "?" + q.query
	}
	for name, value := range q.header {
		r.Header.Set(name, value)
	}
	return r.WithContext(ctx)
}
