// Package browser_test runs the *.test.js files, which drive pages in Chromium.
package browser_test

import (
	"flag"
	"os"
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
	dir := *screenshots
	if dir == "" {
		dir = t.TempDir()
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SCREENSHOTS", dir)
	runTests(t, "quickstart.test.js", "QUICKSTART", "github.com/wsproxy/wsproxy/examples/quickstart")
	if *update {
		updatePicture(t, filepath.Join(dir, "1280-light-start.png"))
	}
}

func updatePicture(t *testing.T, name string) {
	picture, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if len(picture) > maxPictureBytes {
		t.Fatalf("the picture has %d bytes; want at most %d", len(picture), maxPictureBytes)
	}
	if err := os.WriteFile("../../docs/quickstart.png", picture, 0o666); err != nil {
		t.Fatal(err)
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
