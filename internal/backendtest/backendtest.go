// Package backendtest lets tests choose what a backend has counted.
package backendtest

// State is what a backend counts, and whether its last attempt failed.
type State struct {
	NumTunnels int
	Refusals   int // upgrades refused, and none accepted; they do not decay
	IsFailing  bool
}

// Set changes backend, which is a *wsproxy.Backend. Package wsproxy sets the variable when
// it is initialized, because none of its exported methods changes a backend.
var Set func(backend any, s State)
