//go:build !unix

package netconn

import "runtime"

// A Parker lets other goroutines run.
type Parker struct{}

// Park lets other goroutines run.
func (*Parker) Park() { runtime.Gosched() }

// Close does nothing.
func (*Parker) Close() {}
