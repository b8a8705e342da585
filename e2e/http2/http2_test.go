// Package http2_test opens WebSockets in Chromium over TLS, to servers that accept them over
// HTTP/2 and to one that does not.
package http2_test

import (
	"testing"

	"github.com/wsproxy/wsproxy/e2e/internal/e2etest"
)

func TestChromiumUsesHTTP2WhereServerAcceptsWebSockets(t *testing.T) {
	e2etest.Need(t, "node", "chromium")
	t.Setenv("PLAIN", e2etest.BuildProgram(t, "./http2/plain"))
	t.Setenv("IMPORTED", e2etest.BuildProgram(t, "./http2/imported"))
	t.Log(e2etest.RunNode(t, "http2.test.js"))
}
