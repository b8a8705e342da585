package wsproxyadmin

import (
	"encoding"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/label"
)

// This file makes texts of addresses, values and errors, which clients and programs choose.

// Bounds of texts in bytes. They bound the memory of events, and the size of a list of tunnels.
const (
	maxPath  = 200
	maxValue = 200
	maxError = 300
)

// clip returns a copy of s, or of its beginning with an ellipsis, with at most maxBytes and the
// bytes of the ellipsis. The copy keeps nothing else in memory.
func clip(s string, maxBytes int) string {
	if len(s) <= maxBytes {
		return strings.Clone(s)
	}
	end := maxBytes
	for end > maxBytes-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

// errorText returns the text of err, which may be nil.
func errorText(err error) string { return clip(fullErrorText(err), maxError) }

// fullErrorText returns the text of err without a bound. Its method may be the program's, and panic.
func fullErrorText(err error) (text string) {
	if err == nil {
		return ""
	}
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("%T", err)
		}
	}()
	return err.Error()
}

// redactedErrorText returns the text of err with the address of the client shortened, which that of
// a connection that was reset has. Of the error of a Response hook it has nothing of the hook's.
func redactedErrorText(err error, client netip.Addr) string {
	text := withoutHookText(fullErrorText(err))
	if client.IsValid() {
		text = clip(text, 4*maxError) // not in an address that is shown
		text = strings.ReplaceAll(text, clientText(client, false), clientText(client, true))
	}
	return clip(text, maxError)
}

// withoutHookText returns the text of an error, but of one that a Response hook has made of
// [wsproxy.ErrTryNext] only the text of that.
func withoutHookText(text string) string {
	if tryNext := wsproxy.ErrTryNext.Error(); strings.Contains(text, tryNext) {
		return tryNext
	}
	return text
}

// backendID returns the ID of a backend as the metrics have it: JSON would replace the bytes of one
// that is not UTF-8, and two IDs could be the same.
func backendID(b *wsproxy.Backend) string { return label.Text(b.ID()) }

// clientText returns an address as the page shows it.
func clientText(a netip.Addr, redact bool) string {
	if !a.IsValid() {
		return "unix"
	}
	a = a.Unmap().WithZone("")
	if !redact {
		return a.String()
	}
	p, _ := a.Prefix(redactedBits(a))
	return p.String()
}

// valueText returns the value of a tunnel as text: a string, number or bool, or what its
// MarshalText, String, Error or LogValue method returns. Of any other value it returns the type:
// its fields may be secrets, and may change meanwhile.
func valueText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return clip(v, maxValue)
	}
	text, err := callText(v)
	if err != nil {
		return clip(fmt.Sprintf("%T: %v", v, err), maxValue)
	}
	return clip(text, maxValue)
}

// callText returns the text of v. A panic of its method is an error.
func callText(v any) (text string, err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("panic: %v", value)
		}
	}()
	switch v := v.(type) {
	case slog.LogValuer: // first: it may hide a secret that the others show
		resolved := v.LogValue().Resolve()
		if resolved.Kind() == slog.KindAny {
			return fmt.Sprintf("%T", v), nil
		}
		return logText(resolved, 0), nil
	case encoding.TextMarshaler:
		b, err := v.MarshalText()
		return string(b), err
	case fmt.Stringer:
		return v.String(), nil
	case error:
		return v.Error(), nil
	}
	switch k := reflect.TypeOf(v).Kind(); {
	case k == reflect.String, k >= reflect.Bool && k <= reflect.Complex128:
		return fmt.Sprint(v), nil
	}
	return fmt.Sprintf("%T", v), nil
}

// maxLogDepth bounds how deep groups in groups are shown: one may be in itself.
const maxLogDepth = 3

// logText returns the text of what a LogValue method has returned. The values in a group may hide
// secrets by LogValue methods of their own. Of one that has no text it has the type.
func logText(v slog.Value, depth int) string {
	v = v.Resolve()
	switch {
	case v.Kind() == slog.KindAny:
		return fmt.Sprintf("%T", v.Any())
	case v.Kind() != slog.KindGroup:
		return v.String()
	case depth == maxLogDepth:
		return "…"
	}
	var b strings.Builder
	b.WriteByte('[')
	for i, a := range v.Group() {
		if b.Len() > maxValue {
			break
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s=%s", a.Key, logText(a.Value, depth+1))
	}
	b.WriteByte(']')
	return b.String()
}

// redactedBits returns how many bits of an address are shown where addresses are shortened.
func redactedBits(a netip.Addr) int {
	if a.Is4() {
		return 24
	}
	return 48
}

// parsePeer returns the address of a peer, as [http.Request.RemoteAddr] has it.
func parsePeer(remoteAddr string) (netip.Addr, bool) {
	p, err := netip.ParseAddrPort(remoteAddr)
	return p.Addr().Unmap().WithZone(""), err == nil
}
