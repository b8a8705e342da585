// Package repo_test tests what the repository holds beside code that runs: the exported
// API, the imports, the documents, and the lists that name tests.
package repo_test

import (
	"testing"

	"github.com/wsproxy/wsproxy/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// atRoot makes the root of the repository the working directory of a test. The go
// command sees that, so it knows the files on which a cached result depends.
func atRoot(t *testing.T) {
	t.Helper()
	t.Chdir("../..")
}
