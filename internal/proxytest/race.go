//go:build race

package proxytest

// IsRace reports whether the race detector is on.
const IsRace = true
