// Package backendtest lets tests choose what a backend has counted.
package backendtest

// State is what a backend counts, and which flags are up.
type State struct {
	NumTunnels int
	Refusals   int      // upgrades refused, and none accepted; they do not decay
	IsFailing  bool     // its last attempt failed to connect
	Flags      []string // these are raised at the moment of the call, by their names
}

// Set changes backend, which is a *wsproxy.Backend. Package wsproxy sets the variable when
// it is initialized, because none of its exported methods changes a backend.
var Set func(backend any, s State)
