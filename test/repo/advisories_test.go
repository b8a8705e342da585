package repo_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestAdvisoriesNameTestsThatExist(t *testing.T) {
	atRoot(t)
	text, err := os.ReadFile("test/security/testdata/advisories.txt")
	if err != nil {
		t.Fatal(err)
	}
	tests := testFunctions(t)
	id := regexp.MustCompile(`^(CVE-\d{4}-\d+|GHSA(-[0-9a-z]{4}){3}|GO-\d{4}-\d{4}|RFC-\d+|[a-z0-9-]+#\d+|[a-z0-9-]+|[A-Z]\d\d)$`)
	seen := make(map[string]bool)
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, verdict, ok := strings.Cut(line, " → ")
		if !ok || !id.MatchString(name) || seen[name] {
			t.Errorf("line %d: %q is malformed, or there twice", n, line)
		}
		seen[name] = true
		if reason, ok := strings.CutPrefix(verdict, "not applicable: "); ok {
			if reason == "" {
				t.Errorf("line %d: no reason", n)
			}
			continue
		}
		for test := range strings.SplitSeq(verdict, ", ") {
			if !tests[test] {
				t.Errorf("line %d: %s: there is no %s", n, name, test)
			}
		}
	}
}

// testFunctions returns the names of all tests and fuzz targets of the module.
func testFunctions(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && f.Recv == nil && (strings.HasPrefix(f.Name.Name, "Test") || strings.HasPrefix(f.Name.Name, "Fuzz")) {
				names[f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
