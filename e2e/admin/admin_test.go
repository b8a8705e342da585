// Package admin_test runs the *.test.js files, which drive the page of wsproxyadmin in Chromium.
package admin_test

import (
	"flag"
	"path/filepath"
	"testing"

	"github.com/wsproxy/wsproxy/e2e/internal/e2etest"
)

var (
	screenshots = flag.String("screenshots", "", "write screenshots of the page to this `directory`")
	update      = flag.Bool("update", false, "write docs/admin.png, the picture of README.md")
)

const maxPictureBytes = 350_000

// At 1280 and 400 px, in light and dark mode.
func TestPageShowsWhatIsWrong(t *testing.T) {
	dir := e2etest.Screenshots(t, *screenshots)
	if *update {
		t.Setenv("PICTURE", "1")
	}
	runTests(t, "look.test.js")
	if *update {
		e2etest.UpdatePicture(t, filepath.Join(dir, "1280-light.png"), "admin.png", maxPictureBytes)
	}
}

func TestPageDrainsAndCloses(t *testing.T) { runTests(t, "actions.test.js") }

func TestPageExplainsWhatIsMissing(t *testing.T) { runTests(t, "empty.test.js") }

func TestPageReconnects(t *testing.T) { runTests(t, "reconnect.test.js") }

func TestPageIsFastWithManyTunnels(t *testing.T) { runTests(t, "crowd.test.js") }

// runTests runs a file of tests, which starts sites by requests to the URL in SITES.
func runTests(t *testing.T, file string) {
	e2etest.Need(t, "node", "chromium")
	t.Setenv("SITES", serveSites(t))
	t.Log(e2etest.RunNode(t, file))
}
