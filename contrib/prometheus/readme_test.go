package wsprometheus_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/wsproxy/wsproxy/wsproxymetrics"
)

var update = flag.Bool("update", false, "write the table of metrics into "+readme)

const readme = "README.md"

func readFile(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// code returns the blocks of a language in README.md.
func code(t testing.TB, language string) []string {
	t.Helper()
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(readFile(t, readme), -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

func TestReadmeListsAllMetrics(t *testing.T) {
	const head = "|---|---|---|---|\n"
	var table strings.Builder
	for _, m := range wsproxymetrics.Metrics() {
		labels := ""
		if len(m.Labels) > 0 {
			labels = "`" + strings.Join(m.Labels, "`, `") + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %v | %s | %s |\n", m.Name, m.Kind, labels, m.Help)
	}
	text := readFile(t, readme)
	before, rest, ok := strings.Cut(text, head)
	got, after, hasEnd := strings.Cut("\n"+rest, "\n\n")
	if !ok || !hasEnd {
		t.Fatalf("%s has no table of metrics", readme)
	}
	got = strings.TrimPrefix(got, "\n") + "\n"
	if *update {
		if err := os.WriteFile(readme, []byte(before+head+table.String()+"\n"+after), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(table.String(), got); diff != "" {
		t.Errorf("the table of %s differs from Metrics() (-):\n%s\nIf this is meant, run: go test -run TestReadme -update", readme, diff)
	}
}

func TestReadmeProgramCompiles(t *testing.T) {
	blocks := code(t, "go")
	if len(blocks) != 1 {
		t.Fatalf("%s has %d programs; want 1", readme, len(blocks))
	}
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(blocks[0]), 0o666); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "vet", file).CombinedOutput(); err != nil {
		t.Errorf("go vet of the program in %s: %v\n%s", readme, err, out)
	}
}

const alertsFile = "alerts.yml"

func TestAlertsNameMetricsThatExist(t *testing.T) {
	alerts := readFile(t, alertsFile)
	for _, name := range unknownMetrics(alerts, nil) {
		t.Errorf("%s names %s, which does not exist", alertsFile, name)
	}
	for _, m := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(alerts, -1) {
		if !strings.Contains(readFile(t, readme), "`"+m[1]+"`") {
			t.Errorf("%s does not have the alert %s", readme, m[1])
		}
	}
}

// TestAlertsFireInTheirCases runs the cases of alerts_test.yml.
func TestAlertsFireInTheirCases(t *testing.T) {
	promtool := lookPath(t, "promtool")
	if out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", "alerts_test.yml").CombinedOutput(); err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}
}

// unknownMetrics returns the names of metrics in an expression that are neither wsproxy's nor
// others'.
func unknownMetrics(expr string, others map[string]bool) (unknown []string) {
	known := make(map[string]bool)
	for _, m := range wsproxymetrics.Metrics() {
		if m.Kind == wsproxymetrics.Histogram {
			known[m.Name+"_bucket"], known[m.Name+"_sum"], known[m.Name+"_count"] = true, true, true
		} else {
			known[m.Name] = true
		}
	}
	for _, name := range regexp.MustCompile(`\b(?:wsproxy|go|process|promhttp)_\w+`).FindAllString(expr, -1) {
		if !known[name] && !others[name] {
			unknown = append(unknown, name)
		}
	}
	return unknown
}
