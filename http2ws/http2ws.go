// Package http2ws makes the HTTP/2 servers of net/http accept WebSockets (RFC 8441). Import it
// for that effect:
//
//	import _ "github.com/wsproxy/wsproxy/http2ws"
//
// net/http does not accept them unless GODEBUG has http2xconnect=1 when the program starts.
// This package sets it, before package net/http reads it: Go initializes packages whose imports
// are initialized in the order of their import paths, and this one imports nothing but os. A
// GODEBUG of the environment that has http2xconnect already, with either value, is not changed.
//
// The package is experimental, as the setting of net/http is: a later release of Go may drop
// it, or have a field of http.Server in its place.
//
// The setting holds for all HTTP/2 servers of the process. Browsers that are connected over
// HTTP/2 then open their WebSockets over the same connection, where before they opened a second
// one over HTTP/1.1. A WebSocket handler that does not know HTTP/2 cannot serve them. So all
// WebSocket routes of a host must be those of a wsproxy.Proxy: see the section "HTTP/2" of the
// documentation of package wsproxy.
//
// Child processes inherit GODEBUG, and so the setting.
package http2ws

import "os"

const (
	key     = "http2xconnect="
	setting = key + "1"
)

func init() {
	old := os.Getenv("GODEBUG")
	if value := add(old); value != old {
		os.Setenv("GODEBUG", value)
	}
}

// add returns a value of GODEBUG with the setting, unless old has one already.
func add(old string) string {
	switch {
	case old == "":
		return setting
	case has(old):
		return old
	}
	return old + "," + setting
}

// has reports whether one of the settings in value, which commas separate, is that of
// http2xconnect.
func has(value string) bool {
	isStart := true
	for i := range len(value) {
		if isStart && len(value) >= i+len(key) && value[i:i+len(key)] == key {
			return true
		}
		isStart = value[i] == ','
	}
	return false
}
