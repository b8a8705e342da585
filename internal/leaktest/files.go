package leaktest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// openFiles returns the open descriptors, each with what it refers to: a number
// alone may have been given to something else meanwhile. It is empty where the
// system does not say.
func openFiles() map[string]bool {
	if runtime.GOOS != "linux" {
		return nil
	}
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	files := make(map[string]bool, len(entries))
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || strings.HasPrefix(target, "/proc/") && strings.HasSuffix(target, "/fd") {
			continue // that with which dir was read
		}
		files[fmt.Sprintf("%s -> %s", e.Name(), target)] = true
	}
	return files
}

// startPoller makes the runtime open its own descriptors, which it does with the
// first one that it polls and then keeps.
func startPoller() {
	r, w, err := os.Pipe()
	if err != nil {
		return
	}
	r.Close()
	w.Close()
}
