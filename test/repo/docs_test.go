package repo_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy/wsproxymetrics"
)

// documents are what users read beside the reference.
var documents = []string{
	"ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md", "docs/production.md",
	"docs/benchmarks.md", "contrib/otel/README.md", "contrib/prometheus/README.md",
}

func TestProgramsOfDocumentsCompile(t *testing.T) {
	atRoot(t)
	for _, doc := range []string{"README.md", "docs/production.md"} {
		file := filepath.Join(t.TempDir(), "main.go")
		if err := os.WriteFile(file, []byte(programOf(t, doc)), 0o666); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("go", "vet", file).CombinedOutput(); err != nil {
			t.Errorf("go vet of the program in %s: %v\n%s", doc, err, out)
		}
	}
}

// What is not a complete program, and no framework's, is in an example.
func TestReadmeHasCodeOfExample(t *testing.T) {
	atRoot(t)
	_, section, _ := strings.Cut(read(t, "README.md"), "## Coming from nginx `ip_hash`\n")
	_, rest, _ := strings.Cut(section, "```go\n")
	code, _, ok := strings.Cut(rest, "```\n")
	indented := strings.ReplaceAll("\n"+code, "\n", "\n\t")
	const file = "example_affinity_test.go"
	if !ok || !strings.Contains(read(t, file), strings.TrimRight(indented, "\t")) {
		t.Errorf("%s does not have the code of README.md:\n%s", file, code)
	}
}

// programOf returns the complete program in a document.
func programOf(t *testing.T, doc string) string {
	t.Helper()
	const begin = "```go\npackage main\n"
	_, rest, ok := strings.Cut(read(t, doc), begin)
	program, _, closed := strings.Cut(rest, "```\n")
	if !ok || !closed {
		t.Fatalf("%s has no program", doc)
	}
	return strings.TrimPrefix(begin, "```go\n") + program
}

func TestProgramFacingTheInternetIsTheOneThatIsTested(t *testing.T) {
	atRoot(t)
	const begin = "// newProxy returns"
	_, documented, _ := strings.Cut(programOf(t, "docs/production.md"), begin)
	_, tested, ok := strings.Cut(read(t, "test/process/internet_config_linux_test.go"), begin)
	if !ok || documented != tested {
		t.Error("the functions of the program in docs/production.md are not those in test/process/internet_config_linux_test.go")
	}
}

func TestPackageDocumentationHasReadmeProgram(t *testing.T) {
	atRoot(t)
	_, rest, _ := strings.Cut(read(t, "README.md"), "```go\n")
	program, _, _ := strings.Cut(rest, "```\n")
	file, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	indented := strings.ReplaceAll("\t"+strings.TrimSpace(program), "\n", "\n\t")
	indented = strings.ReplaceAll(indented, "\n\t\n", "\n\n")
	if doc := file.Doc.Text(); !strings.Contains(doc, indented) {
		t.Errorf("doc.go does not have the program of README.md:\n%s", indented)
	}
}

func TestDocumentsNameTestsThatExist(t *testing.T) {
	atRoot(t)
	declared := make(map[string]bool)
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Example|Fuzz)\w*)\(`)
	walkFiles(t, func(name string) {
		if strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "wsproxytest") {
			for _, m := range declaration.FindAllStringSubmatch(read(t, name), -1) {
				declared[m[1]] = true
			}
		}
	})
	mention := regexp.MustCompile(`\b(?:Test|Example|Fuzz)[A-Z]\w*`)
	for _, doc := range documents {
		for _, name := range mention.FindAllString(read(t, doc), -1) {
			if !declared[name] && name != "TestAPI" && name != "TestIdleTunnel" && name != "TestReadme" { // which are patterns
				t.Errorf("%s names %s, which does not exist", doc, name)
			}
		}
	}
}

func TestDocumentsNameMetricsThatExist(t *testing.T) {
	atRoot(t)
	exists := make(map[string]bool)
	for _, m := range wsproxymetrics.Metrics() {
		exists[m.Name] = true
	}
	for _, doc := range documents {
		for _, name := range regexp.MustCompile(`\bwsproxy_[a-z_]+`).FindAllString(read(t, doc), -1) {
			if !exists[strings.TrimSuffix(name, "_bucket")] && name != "wsproxy_portable" { // a build tag
				t.Errorf("%s names the metric %s, which does not exist", doc, name)
			}
		}
	}
}

func TestDocumentsNameFilesThatExist(t *testing.T) {
	atRoot(t)
	link := regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`)
	for _, doc := range documents {
		for _, m := range link.FindAllStringSubmatch(read(t, doc), -1) {
			name := doc
			if m[1] != "" {
				name = filepath.Join(filepath.Dir(doc), m[1])
			}
			if _, err := os.Stat(name); err != nil {
				t.Errorf("%s links to %s: %v", doc, m[1], err)
				continue
			}
			if m[2] != "" && !slices.Contains(anchors(read(t, name)), m[2]) {
				t.Errorf("%s links to #%s of %s, which has no such heading", doc, m[2], name)
			}
		}
	}
	for dir := range packageRules {
		if dir != "." && !strings.Contains(read(t, "ARCHITECTURE.md"), "`"+dir+"`") {
			t.Errorf("ARCHITECTURE.md has no row for %s", dir)
		}
	}
	for _, dir := range nestedModules(t) {
		if !strings.Contains(read(t, "ARCHITECTURE.md"), "`"+dir+"`") {
			t.Errorf("ARCHITECTURE.md does not name the module in %s", dir)
		}
	}
}

func TestContentsOfProductionDocumentListEachSection(t *testing.T) {
	atRoot(t)
	text := read(t, "docs/production.md")
	contents, _, _ := strings.Cut(text, "\n## ")
	var listed, sections []string
	for _, m := range regexp.MustCompile(`(?m)^- \[(.*)\]\(#`).FindAllStringSubmatch(contents, -1) {
		listed = append(listed, m[1])
	}
	for _, m := range regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(text, -1) {
		sections = append(sections, m[1])
	}
	if !slices.Equal(listed, sections) {
		t.Errorf("docs/production.md lists the sections %q; it has %q", listed, sections)
	}
}

func TestArchitectureNamesFilesThatExist(t *testing.T) {
	atRoot(t)
	var names []string
	walkFiles(t, func(name string) { names = append(names, "/"+name) })
	for _, m := range regexp.MustCompile("`([\\w/]+\\.go)`").FindAllStringSubmatch(read(t, "ARCHITECTURE.md"), -1) {
		if !slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(name, "/"+m[1]) }) {
			t.Errorf("ARCHITECTURE.md names %s, which does not exist", m[1])
		}
	}
}

// anchors returns what links to the headings of a document may say, as GitHub makes
// it.
func anchors(document string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(document, -1) {
		words := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(words, " ", "-"))
	}
	return all
}

// nestedModules returns the folders, below this one, that have a go.mod.
func nestedModules(t *testing.T) []string {
	t.Helper()
	var dirs []string
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "go.mod" && name != "go.mod" {
			dirs = append(dirs, filepath.ToSlash(filepath.Dir(name)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// walkFiles calls f for each Go file of the module.
func walkFiles(t *testing.T, f func(name string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(name, ".go") {
			f(filepath.ToSlash(name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
