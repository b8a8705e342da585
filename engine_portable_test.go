//go:build wsproxy_portable || !linux

package wsproxy_test

// engineName is that of the engine of a tunnel over plain TCP on both sides.
const engineName = "portable"
