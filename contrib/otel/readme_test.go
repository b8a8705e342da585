package wsotel

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	_ "go.opentelemetry.io/otel/exporters/stdout/stdoutmetric" // of the program
	_ "go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
)

const readme = "README.md"

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestReadmeProgramCompiles(t *testing.T) {
	_, rest, _ := strings.Cut(read(t, readme), "```go\n")
	program, _, ok := strings.Cut(rest, "```\n")
	if !ok {
		t.Fatalf("%s has no program", readme)
	}
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(program), 0o666); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "vet", file).CombinedOutput(); err != nil {
		t.Errorf("go vet of the program in %s: %v\n%s", readme, err, out)
	}
}

func TestReadmeListsAttributes(t *testing.T) {
	rows := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| `[^|]*\\|").FindAllString(read(t, readme), -1) {
		for _, name := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(row, -1) {
			rows[name[1]] = true
		}
	}
	declared := make(map[string]bool)
	for _, file := range []string{"upgrade.go", "tunnel.go"} {
		for _, key := range regexp.MustCompile(`attribute\.Key\("([^"]*)"\)`).FindAllStringSubmatch(read(t, file), -1) {
			declared[key[1]] = true
			if !rows[key[1]] {
				t.Errorf("%s does not list %s", readme, key[1])
			}
		}
	}
	for name := range rows {
		if strings.HasPrefix(name, "wsproxy.") && !declared[name] {
			t.Errorf("%s lists %s, which does not exist", readme, name)
		}
	}
}
