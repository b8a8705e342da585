// Package benchmarks measures wsproxy: by itself with the Go benchmarks of this
// folder, and beside nginx, HAProxy and [net/http/httputil] with one command.
//
//	go test -bench . .                          # frames, handshakes, relay
//	go test -bench . -tags wsproxy_portable .   # the same with the portable engine
//	go run ./compare                            # beside other proxies; 25 minutes
//	go run ./compare -h
//
// What a pick costs is measured in the core module, where the candidates are seen:
// go test -bench Pick -run '^$' . in the folder above.
//
// The programs beside compare are what it starts: backend answers, load makes
// traffic and measures, host is a program with a proxy in it, httputil is a proxy
// of the standard library alone. Figures, and what is to be thought of them, are
// in docs/benchmarks.md.
package benchmarks
