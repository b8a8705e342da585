// Package backendtest lets tests choose what a backend has counted, and its flags.
package backendtest

// State is what a backend counts, and which of its flags are up.
type State struct {
	NumTunnels int
	Refusals   int     // upgrades refused, and none accepted; they do not decay
	Flags      []uint8 // each a wsproxy.Flag; raised now, as by a first failure
}

// Set changes backend, which is a *wsproxy.Backend. Package wsproxy sets the variable when
// it is initialized, because none of its exported methods changes a backend.
var Set func(backend any, s State)
