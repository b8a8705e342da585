// Package browser_test runs the *.test.js files, which drive pages in Chromium.
package browser_test

import (
	"flag"
	"path/filepath"
	"testing"

	"github.com/wsproxy/wsproxy/e2e/internal/e2etest"
)

var (
	screenshots = flag.String("screenshots", "", "write screenshots of the quickstart to this `directory`")
	update      = flag.Bool("update", false, "write docs/quickstart.png, the picture of README.md")
)

const maxPictureBytes = 200_000

// At 1280 and 400 px, in light and dark mode.
func TestQuickstartPage(t *testing.T) {
	dir := e2etest.Screenshots(t, *screenshots)
	runTests(t, "quickstart.test.js", "QUICKSTART", "github.com/wsproxy/wsproxy/examples/quickstart")
	if *update {
		e2etest.UpdatePicture(t, filepath.Join(dir, "1280-light-start.png"), "quickstart.png", maxPictureBytes)
	}
}

func TestPageObservesRefusals(t *testing.T) {
	runTests(t, "refusal.test.js", "REFUSALS", "./browser/refusals")
}

func TestPageThatDoesNotReadIsCut(t *testing.T) {
	runTests(t, "stall.test.js", "STALLS", "./browser/stalls")
}

// runTests runs a file of tests, which finds the program of a package in a variable.
func runTests(t *testing.T, file, variable, pkg string) {
	e2etest.Need(t, "node", "chromium")
	t.Setenv(variable, e2etest.BuildProgram(t, pkg))
	t.Log(e2etest.RunNode(t, file))
}
