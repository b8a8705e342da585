package handshake

import (
	"net/http"
	"strings"
)

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
