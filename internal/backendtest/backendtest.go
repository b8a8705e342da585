// Package backendtest lets tests choose what a backend has counted.
package backendtest

// State is what a backend counts, and its state.
type State struct {
	NumTunnels int
	Refusals   int // since its last good opening; they do not decay
	IsFailing  bool
	IsRemoved  bool
}

// Set changes a *wsproxy.Backend. Package wsproxy sets it when it is initialized: no
// exported method changes a backend.
var Set func(backend any, s State)
