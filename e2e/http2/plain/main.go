// Plain is package site.
package main

import "github.com/wsproxy/wsproxy/e2e/http2/internal/site"

func main() { site.Main() }
