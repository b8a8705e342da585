package handshake

import (
	"net/http/httptest"
	"testing"
)

func TestBeginsSession(t *testing.T) {
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
