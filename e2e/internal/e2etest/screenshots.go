package e2etest

import (
	"os"
	"path/filepath"
	"testing"
)

// Screenshots returns dir, or a temporary directory if it is empty, as the variable SCREENSHOTS
// tells it to the programs that the test starts.
func Screenshots(t testing.TB, dir string) string {
	t.Helper()
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
	return dir
}

// UpdatePicture makes a screenshot the picture of that name in docs, if it has at most maxBytes.
func UpdatePicture(t testing.TB, screenshot, name string, maxBytes int) {
	t.Helper()
	picture, err := os.ReadFile(screenshot)
	if err != nil {
		t.Fatal(err)
	}
	if len(picture) > maxBytes {
		t.Fatalf("the picture has %d bytes; want at most %d", len(picture), maxBytes)
	}
	if err := os.WriteFile(filepath.Join(Root(), "../docs", name), picture, 0o666); err != nil {
		t.Fatal(err)
	}
}
