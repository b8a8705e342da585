package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const module = "github.com/wsproxy/wsproxy"

// A build is the name of a set of programs.
type build string

const (
	ordinary build = "ordinary"
	portable build = "portable" // without the event loop
	other    build = "other"    // from another checkout
)

// compile builds the programs of b into dir: the programs of this module, and
// examples/gateway of the core module. The build other consists of the gateway of
// another checkout.
func (b build) compile(ctx context.Context, dir, checkout string) error {
	// Git refuses to read the version of a checkout that belongs to another user.
	args := []string{"build", "-buildvcs=false", "-o", dir + string(filepath.Separator)}
	switch b {
	case portable:
		args = append(args, "-tags", "wsproxy_portable", module+"/benchmarks/host", module+"/examples/gateway")
	case other:
		args = append(args, module+"/examples/gateway")
	default:
		args = append(args, module+"/benchmarks/backend", module+"/benchmarks/load",
			module+"/benchmarks/host", module+"/benchmarks/httputil", module+"/examples/gateway")
	}
	if err := os.Mkdir(dir, 0o777); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	if b == other {
		cmd.Dir = checkout
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build (in the folder of the module benchmarks?): %w\n%s", err, out)
	}
	return nil
}
