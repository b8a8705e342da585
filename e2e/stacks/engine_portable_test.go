//go:build wsproxy_portable

package stacks_test

const isPortable = true
