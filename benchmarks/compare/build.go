package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const module = "github.com/wsproxy/wsproxy"

// A build is a folder of programs.
type build string

const (
	ordinary build = "ordinary"
	portable build = "portable" // without the engine that only Linux has
	other    build = "other"    // of another checkout
)

// compile builds the programs of b into dir. They are those of this module, and
// the gateway of the core: of the same checkout, unless it is another one, from
// which only the gateway comes.
func (b build) compile(ctx context.Context, dir, checkout string) error {
	// A checkout that belongs to another user has no version to stamp.
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
