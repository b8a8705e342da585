package wsproxy

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"

	"github.com/wsproxy/wsproxy/internal/handshake"
)

// An inbound is a client's request on its way to a backend. It is the common part of an upgrade
// and of any other request.
type inbound struct {
	p    *Proxy
	r    *http.Request // the client's; with info, if hooks may look for it
	info requestInfo

	isPlain bool // it is no upgrade: see WithHTTP

	stage Reason // of an ordinary error at this moment: see reasonOf

	clientKey clientKey // for the limits of each client

	binding        binding // zero without WithAffinity
	isBindingKnown bool
	affinityResult affinityResult // of the last response

	tried       []*Backend // one for each attempt, for an upgrade since it has waited
	triedArray  [maxAttempts]*Backend
	picked      *Backend // the last one of all attempts
	numAttempts int
}

// identify finds out who sent the request, and sets in.r.
func (in *inbound) identify() {
	in.r = in.p.identify(in.r, &in.info)
	in.tried = in.triedArray[:0]
}

// checkOrigin returns an error if the origin patterns refuse the request.
func (in *inbound) checkOrigin() error {
	if in.p.origins == nil {
		return nil
	}
	in.stage = ReasonOrigin
	if refusal := in.p.origins.Check(in.r, in.info.isTrusted); refusal != nil {
		return refusalError(refusal)
	}
	return nil
}

// setClientKey sets the key for the limits of the client.
func (in *inbound) setClientKey() (err error) {
	in.stage = ReasonHook
	in.clientKey, err = in.p.callClientKey(in.r)
	return err
}

// callAdmit calls the Admit hook, if there is one.
func (in *inbound) callAdmit() (err error) {
	if in.p.admit == nil {
		return nil
	}
	if err := in.p.admission.beginAdmitting(); err != nil {
		return err
	}
	defer in.p.admission.endAdmitting()
	in.stage = ReasonAdmit
	if in.info.value, err = in.p.callAdmit(in.r); err != nil {
		in.info.value = nil
	}
	return err
}

// outboundHeader returns the header of the request for a backend.
func (in *inbound) outboundHeader() http.Header {
	h := handshake.OutboundHeader(in.r, in.info.isTrusted)
	if a := in.p.affinity; a != nil && a.signer != nil {
		handshake.RemoveCookie(h, a.cookie.name)
	}
	h[requestIDHeader] = []string{in.info.id}
	return h
}

// rewrite calls the Rewrite hook, if there is one, and returns the request for b that the hook
// has left.
func (in *inbound) rewrite(out *http.Request, b *Backend) (*http.Request, error) {
	if in.p.rewrite == nil {
		return out, nil
	}
	r := &ProxyRequest{In: in.r, Out: out, Backend: b, RequestID: in.info.id, Value: in.info.value}
	if err := in.p.callRewrite(r); err != nil {
		return nil, err
	}
	if r.Out == nil || r.Out.URL == nil {
		return nil, fmt.Errorf("wsproxy: request for backend %s: the Rewrite hook has left none, or none with a URL", b.id)
	}
	return r.Out, nil
}

// refused describes the request, which is refused because of reason: it ended with err, or the
// client gets the backend's response, whose status is not known here, and err is nil.
func (in *inbound) refused(err error, reason Reason) RefusedInfo {
	i := RefusedInfo{
		Request: in.r, RequestID: in.info.id, Reason: reason, Backend: in.picked, Err: err, Value: in.info.value, isPlain: in.isPlain,
	}
	if err != nil {
		i.Status = statusOf(err, reason)
	}
	return i
}

// A requestInfo is what the proxy has found out about a request. It is the context of the
// request that hooks get.
type requestInfo struct {
	context.Context // of the client's request

	id         string
	clientAddr netip.Addr // behind trusted proxies; invalid on a unix socket
	isTrusted  bool       // the peer is a trusted proxy
	clientKey  string     // ByClientIP's, if isTrusted

	value any // of the Admit hook
}

type requestInfoKey struct{}

func (i *requestInfo) Value(key any) any {
	if key == (requestInfoKey{}) {
		return i
	}
	return i.Context.Value(key)
}

// identify sets i for r, and returns r with i as its context, or r itself if nothing will
// look for i there. A request that another Proxy has refused, and whose error handler calls
// this one, keeps its ID.
func (p *Proxy) identify(r *http.Request, i *requestInfo) *http.Request {
	*i = requestInfo{Context: r.Context(), id: RequestID(r)}
	i.clientAddr, i.isTrusted = p.trusted.Client(r.RemoteAddr, r.Header)
	if i.isTrusted {
		i.clientKey = addrKey(i.clientAddr)
	}
	if i.id == "" && i.isTrusted {
		i.id = sentRequestID(r.Header)
	}
	if i.id == "" {
		i.id = newRequestID()
	}
	if !i.isTrusted && !p.hasRequestHooks && !p.traceHooks().needRequests() {
		return r // the copy would be 300 bytes for each upgrade
	}
	return r.WithContext(i)
}

// infoOf returns the requestInfo of r, or nil.
func infoOf(r *http.Request) *requestInfo {
	i, _ := r.Context().Value(requestInfoKey{}).(*requestInfo)
	return i
}

// RequestID returns the ID of a request that a hook, a [Balancer], a [KeyFunc] or the error
// handler was given: see [TunnelInfo.RequestID]. For any other request it is empty.
func RequestID(r *http.Request) string {
	if i := infoOf(r); i != nil {
		return i.id
	}
	return ""
}

// Admitted returns what the hook of [WithAdmit] returned for a request that another hook, a
// [Balancer] or a [KeyFunc] was given, such as the user. Before that hook, without one, and
// for any other request it is nil. Clients that are the same user meet on one backend with
//
//	wsproxy.Hash(func(r *http.Request) string {
//		user, _ := wsproxy.Admitted(r).(string)
//		return user
//	})
func Admitted(r *http.Request) any {
	if i := infoOf(r); i != nil {
		return i.value
	}
	return nil
}

const requestIDHeader = "X-Request-Id"

// maxRequestID bounds an ID that a trusted proxy has given a request, in bytes.
const maxRequestID = 128

// sentRequestID returns the X-Request-Id of h, or "" if there is none, more than one, or
// one that is too long or has bytes other than visible ASCII.
func sentRequestID(h http.Header) string {
	lines := h[requestIDHeader]
	if len(lines) != 1 || len(lines[0]) > maxRequestID {
		return ""
	}
	for _, c := range []byte(lines[0]) {
		if c <= ' ' || c >= 0x7f {
			return ""
		}
	}
	return lines[0]
}

// newRequestID returns 128 random bits. An ID is no secret.
func newRequestID() string {
	var bits [16]byte
	binary.BigEndian.PutUint64(bits[:8], rand.Uint64())
	binary.BigEndian.PutUint64(bits[8:], rand.Uint64())
	var text [32]byte
	hex.Encode(text[:], bits[:])
	return string(text[:])
}

// ClientIP returns the address of the client that sent r: the peer's, or the client's
// behind trusted proxies (see [WithTrustedProxies]). It is the address of
// [TunnelInfo.ClientAddr], without a zone and never an IPv4-mapped one, and is found for
// any request, also in a middleware. It is invalid if the peer has no address, as on a unix
// socket that is not trusted.
func (p *Proxy) ClientIP(r *http.Request) netip.Addr {
	addr, _ := p.trusted.Client(r.RemoteAddr, r.Header)
	return addr
}
