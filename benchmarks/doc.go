// Package benchmarks measures wsproxy. The Go benchmarks of this folder measure it
// alone. One command compares it with nginx, HAProxy and [net/http/httputil].
//
//	go test -bench . .                          # frames, handshakes, relay
//	go test -bench . -tags wsproxy_portable .   # the same with the portable engine
//	go run ./compare                            # beside other proxies; 25 minutes
//	go run ./compare -h
//
// The benchmark of a pick needs unexported names, so it is in the core module: run
// go test -bench Pick -run '^$' . in the folder above.
//
// Compare starts the other programs: backend is a WebSocket server, load generates
// traffic and measures, host is a program with a proxy in it, and httputil is the
// proxy of the standard library. See docs/benchmarks.md for the figures and their
// limits.
package benchmarks
