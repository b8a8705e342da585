package handshake

import (
	"net/http"
	"net/url"
	"strings"
)

// This file knows the requests that SockJS, Socket.IO and SignalR send before a WebSocket, or
// instead of one. None of them is an upgrade.

// IsFallback reports whether r, which is no upgrade, looks like a request of SockJS, Socket.IO
// or SignalR that takes the place of a WebSocket, or comes before it.
func IsFallback(r *http.Request) bool {
	if len(r.Header["Upgrade"]) > 0 {
		return false
	}
	for _, end := range fallbackPaths {
		if strings.HasSuffix(r.URL.Path, end) {
			return true
		}
	}
	return hasParam(r.URL, "transport", "polling") // Engine.IO, beneath Socket.IO
}

// fallbackPaths are the ends of paths of requests that are no upgrade, and that WebSocket
// libraries send where they cannot open a WebSocket, or before they do.
var fallbackPaths = [...]string{
	"/info", "/xhr", "/xhr_send", "/xhr_streaming", "/eventsource", "/htmlfile", "/jsonp", "/jsonp_send", // SockJS
	"/negotiate", // SignalR
}

// BeginsSession reports whether r, which is no upgrade, is the first request of a session of
// Socket.IO, SockJS or SignalR. No backend knows that session yet, so r may go to any of them.
func BeginsSession(r *http.Request) bool {
	switch {
	case strings.HasSuffix(r.URL.Path, "/info"): // SockJS
		return true
	case strings.HasSuffix(r.URL.Path, "/negotiate"): // SignalR
		return true
	}
	isPolling := false // Engine.IO, beneath Socket.IO, unless there is the ID of a session
	for param := range strings.SplitSeq(r.URL.RawQuery, "&") {
		switch name, value, _ := strings.Cut(param, "="); name {
		case "sid":
			return false
		case "transport":
			isPolling = value == "polling"
		}
	}
	return isPolling
}

// hasParam reports whether a parameter of u's query has a name and a value that need no
// escapes.
func hasParam(u *url.URL, name, value string) bool {
	for param := range strings.SplitSeq(u.RawQuery, "&") {
		if k, v, _ := strings.Cut(param, "="); k == name && v == value {
			return true
		}
	}
	return false
}
