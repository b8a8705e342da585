package leaktest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// openFiles returns the open descriptors, each with the file that it refers to: its
// number alone may have been reused for another file. The result is empty on
// systems other than Linux.
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
			continue // the descriptor of dir itself
		}
		files[fmt.Sprintf("%s -> %s", e.Name(), target)] = true
	}
	return files
}

// startPoller makes the runtime open the descriptors of its poller. The runtime
// opens them for the first file that it polls, and never closes them.
func startPoller() {
	r, w, err := os.Pipe()
	if err != nil {
		return
	}
	r.Close()
	w.Close()
}
