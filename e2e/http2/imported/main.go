// Imported is package site in a program that accepts WebSockets over HTTP/2.
package main

import (
	"github.com/wsproxy/wsproxy/e2e/http2/internal/site"
	_ "github.com/wsproxy/wsproxy/http2ws"
)

func main() { site.Main() }
