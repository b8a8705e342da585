// Package observed measures what the modules for Prometheus and OpenTelemetry cost a proxy:
//
//	go test -run '^$' -bench . -benchtime 40x .
//
// It is a module of its own, so that the other benchmarks do not need theirs.
package observed
