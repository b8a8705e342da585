// Package repo_test tests what the repository holds beside code that runs: the exported
// API, the imports, the documents, and the lists that name tests.
package repo_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/wsproxy/wsproxy/internal/leaktest"
)

// TestMain makes the root of the repository the working directory.
func TestMain(m *testing.M) {
	if err := os.Chdir("../.."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	leaktest.Main(m)
}
