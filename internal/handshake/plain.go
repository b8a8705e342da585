package handshake

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"golang.org/x/net/http/httpguts"
)

// This file is about requests that are no upgrade, and are proxied as plain HTTP.

// plainMethods is the Allow field for a method that is never proxied.
const plainMethods = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"

// CheckPlain checks a request that [Classify] has found to be no upgrade, and that is to be
// proxied as plain HTTP. It returns nil if the request passes. The framing of its body has
// been checked by net/http.
func CheckPlain(r *http.Request) *Refusal {
	switch {
	case r.Method == http.MethodConnect:
		return refuseConnect(r)
	case r.Method == http.MethodTrace:
		// A backend would send back what proxies have added to the request.
		return &Refusal{
			Status: http.StatusMethodNotAllowed,
			Header: http.Header{"Allow": {plainMethods}},
			Reason: "Method was `TRACE`: it is not proxied",
		}
	case r.URL.Opaque != "" || r.URL.Path == "*":
		return badRequest("The request's target had no path")
	}
	return checkHost(r)
}

// FinishPlain makes the URL and the header of out, the request for the backend, fit for
// [http.Transport]: a hook may have set anything there. In is the client's request. The URL then
// has a path and a query only.
//
// The keys of the header are canonical. Hop-by-hop fields are left out, whoever has set them.
// "TE: trailers" and "Expect: 100-continue" of the client are the exceptions: the trailers and
// the 100 of the backend are passed on.
//
// A field that would break its line is an error, as are an invalid Host, and a target with a
// # or bytes that are not visible ASCII. On an error out is unchanged.
func FinishPlain(out, in *http.Request) error {
	if out.Host == "" || !httpguts.ValidHostHeader(out.Host) {
		return fmt.Errorf("invalid Host %q", out.Host)
	}
	if _, err := appendTarget(nil, out.URL); err != nil {
		return err
	}
	target, err := joinPath("", out.URL)
	if err != nil {
		return errors.New("request has an invalid path")
	}
	target.RawQuery, target.ForceQuery = out.URL.RawQuery, out.URL.ForceQuery
	h, err := validFields(out.Header)
	if err != nil {
		return err
	}
	if hasToken(in.Header["Te"], "trailers") {
		// "A sender of TE MUST also send a "TE" connection option"
		// https://www.rfc-editor.org/rfc/rfc9110#section-10.1.4
		h["Te"], h["Connection"] = []string{"trailers"}, []string{"TE"}
	}
	if in.ContentLength != 0 && hasToken(in.Header["Expect"], "100-continue") {
		h["Expect"] = []string{"100-continue"}
	}
	if len(h["User-Agent"]) == 0 {
		h["User-Agent"] = []string{""} // the transport would send its own
	}
	out.URL, out.Header = target, h
	return nil
}

// validFields returns a copy of h with canonical keys and without hop-by-hop fields and Host,
// or an error if a name or a value is invalid. The error does not quote the value.
func validFields(h http.Header) (http.Header, error) {
	valid := make(http.Header, len(h)+1)
	for name, lines := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, fmt.Errorf("invalid field name %q", name)
		}
		canonical := http.CanonicalHeaderKey(name)
		if isHopByHop(canonical) || canonical == "Host" || len(lines) == 0 {
			continue
		}
		for _, value := range lines {
			if !httpguts.ValidHeaderFieldValue(value) {
				return nil, fmt.Errorf("invalid value of field %q", name)
			}
		}
		valid[canonical] = slices.Concat(valid[canonical], lines)
	}
	return valid, nil
}

// PlainTrailer returns the trailer for the backend as the client's request has announced it,
// without values: the fields that may be forwarded. It is nil if there are none.
func PlainTrailer(in *http.Request) http.Header {
	var trailer http.Header
	nominated := connectionOptions(in.Header)
	for name := range in.Trailer {
		canonical := http.CanonicalHeaderKey(name)
		if !isTrailerField(canonical) || nominated[canonical] || isForwarding(canonical) {
			continue
		}
		if trailer == nil {
			trailer = make(http.Header)
		}
		trailer[canonical] = nil
	}
	return trailer
}

// isTrailerField reports whether a trailer that is forwarded may have a field with that canonical key.
func isTrailerField(canonical string) bool {
	return httpguts.ValidTrailerHeader(canonical) && !isHopByHop(canonical) && !isWebSocketField(canonical)
}

// SetTrailer sets the fields that trailer has to the values of in, the trailer of a request
// that has been read to its end. Values that would break their line are left out.
func SetTrailer(trailer, in http.Header) {
	for name := range trailer {
		trailer[name] = slices.DeleteFunc(slices.Clone(in[name]), func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) })
	}
}

// CleanTrailer removes from the trailer of a backend's response what must not be forwarded: fields
// that a client could take for those of the framing, and values that would break their line. A
// backend can send fields that it has not announced.
func CleanTrailer(trailer http.Header) {
	for name, lines := range trailer {
		if !isTrailerField(http.CanonicalHeaderKey(name)) || !httpguts.ValidHeaderFieldName(name) {
			delete(trailer, name)
			continue
		}
		trailer[name] = slices.DeleteFunc(lines, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) })
	}
}

// CheckPlainAnswer checks what [http.Transport] does not: the status of a backend's response to
// a request that is no upgrade, and the names of its fields. A 101 is an error: the
// request had no Upgrade.
func CheckPlainAnswer(resp *http.Response) error {
	if c := resp.StatusCode; c < 200 || c > 599 {
		return fmt.Errorf("answered with status %d", c)
	}
	return checkResponse(resp)
}

// FinishPlainAnswer returns the header for the client of a response to a request that is no
// upgrade. H is the result of [AnswerHeader] after the hook, backend the header of the response.
// Hop-by-hop fields are left out, and Content-Length is the backend's, but not that of a 204 or 304:
// clients over HTTP/2 would miss the body. A field that would break its line is an error.
func FinishPlainAnswer(status int, h, backend http.Header) (http.Header, error) {
	valid, err := validFields(h)
	if err != nil {
		return nil, err
	}
	if lines := backend["Content-Length"]; len(lines) > 0 && status != http.StatusNoContent && status != http.StatusNotModified {
		valid["Content-Length"] = slices.Clone(lines)
	}
	return valid, nil
}
