package handshake

import (
	"net/http/httptest"
	"testing"
)

func TestFallbacksAreRecognized(t *testing.T) {
	for target, want := range map[string]bool{
		"/echo/info": true, "//echo/info?t=1": true, "/info": true, "/echo/000/abc/xhr": true, "/echo/000/abc/xhr_send": true,
		"/echo/000/abc/xhr_streaming?t=1": true, "/echo/000/abc/eventsource": true, "/echo/000/abc/htmlfile?c=x": true,
		"/echo/000/abc/jsonp?c=x": true, "/echo/000/abc/jsonp_send": true, "/hub/negotiate?negotiateVersion=1": true,
		"/socket.io/?EIO=4&transport=polling&t=x": true, "/socket.io/?transport=polling": true,
		"/": false, "/page": false, "/information": false, "/info/": false, "/infox": false, "/myinfo": false,
		"/socket.io/?EIO=4&transport=websocket": false, "/?xtransport=polling": false, "/?transport=pollingx": false,
	} {
		if got := IsFallback(parseRequest(t, "GET "+target+" HTTP/1.1\nHost: a\n")); got != want {
			t.Errorf("IsFallback(%q) = %v; want %v", target, got, want)
		}
	}
	if IsFallback(parseRequest(t, "GET /echo/info HTTP/1.1\nHost: a\nUpgrade: h2c\n")) {
		t.Error("a request with Upgrade is no fallback")
	}
}

func TestBeginsSessionKnowsFirstRequests(t *testing.T) {
	tests := []struct {
		method, target string
		want           bool
	}{
		{"GET", "/socket.io/?EIO=4&transport=polling&t=abc", true},
		{"GET", "/socket.io/?transport=polling", true},
		{"GET", "/socket.io/?EIO=4&transport=polling&sid=xyz", false},
		{"POST", "/socket.io/?sid=xyz&EIO=4&transport=polling", false},
		{"GET", "/socket.io/?EIO=4&transport=websocket", false},
		{"GET", "/chat/info?t=1", true},
		{"GET", "//chat/info", true},
		{"POST", "/chat/000/abc/xhr_streaming", false},
		{"POST", "/chat/000/abc/xhr_send", false},
		{"POST", "/hub/negotiate?negotiateVersion=1", true},
		{"POST", "/hub?id=xyz", false},
		{"GET", "/", false},
		{"GET", "/information", false},
	}
	for _, tt := range tests {
		if got := BeginsSession(httptest.NewRequest(tt.method, tt.target, nil)); got != tt.want {
			t.Errorf("BeginsSession(%s %s) = %t; want %t", tt.method, tt.target, got, tt.want)
		}
	}
}
