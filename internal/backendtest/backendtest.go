// Package backendtest lets tests choose the counts and the flags of a backend.
package backendtest

// State has the counts of a backend, and its flags.
type State struct {
	NumTunnels int
	Refusals   int      // upgrades refused, and none accepted
	IsLive     bool     // Refusals decay from now on; otherwise never
	Flags      []string // names of flags, which are raised now, as by a first failure
}

// Set changes backend, which is a *wsproxy.Backend. Package wsproxy sets the variable when
// it is initialized, because none of its exported methods changes a backend.
var Set func(backend any, s State)
