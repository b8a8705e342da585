package repo_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write "+apiFile)

const apiFile = "api.txt"

// apiPackages are the packages that export names to programs, by their paths below the root.
var apiPackages = []string{"", "/wsproxyadmin", "/wsproxymetrics", "/wsproxytest", "/wsproxytest/memnet"}

// What a release has exported, later ones must keep: so a change of api.txt is
// looked at by itself.
func TestAPIMatchesFile(t *testing.T) {
	atRoot(t)
	var lines []string
	importPackage := packages(t)
	for _, p := range apiPackages {
		pkg, err := importPackage(modulePath + p)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, exported(pkg)...)
	}
	slices.Sort(lines)
	if *update {
		if err := os.WriteFile(apiFile, []byte(strings.Join(lines, "\n")+"\n"), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(apiFile)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("%s (-) differs from the code (+):\n%s\n"+
			"If this is meant, run: go test ./test/repo -run TestAPI -update", apiFile, diff)
	}
}

// packages returns a function that returns packages as the compiler knows them.
func packages(t *testing.T) func(importPath string) (*types.Package, error) {
	t.Helper()
	args := []string{"list", "-export", "-deps", "-json=ImportPath,Export"}
	for _, p := range apiPackages {
		args = append(args, "."+p)
	}
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	files := make(map[string]string)
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct{ ImportPath, Export string }
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		files[p.ImportPath] = p.Export
	}
	open := func(importPath string) (io.ReadCloser, error) { return os.Open(files[importPath]) }
	return importer.ForCompiler(token.NewFileSet(), "gc", open).Import
}

// exported returns a line for each exported name of pkg.
func exported(pkg *types.Package) []string {
	a := &api{pkg: pkg}
	for _, name := range pkg.Scope().Names() {
		if token.IsExported(name) {
			a.addObject(pkg.Scope().Lookup(name))
		}
	}
	return a.lines
}

type api struct {
	pkg   *types.Package
	lines []string
}

func (a *api) add(format string, args ...any) {
	a.lines = append(a.lines, a.pkg.Name()+": "+fmt.Sprintf(format, args...))
}

// text returns t as it is written within the package.
func (a *api) text(t types.Type) string {
	return types.TypeString(t, func(p *types.Package) string {
		if p == a.pkg {
			return ""
		}
		return p.Name()
	})
}

// signature returns what stands after the name in the declaration of a function.
func (a *api) signature(f types.Object) string {
	return strings.TrimPrefix(a.text(f.Type()), "func")
}

func (a *api) addObject(o types.Object) {
	switch o := o.(type) {
	case *types.Const:
		a.add("const %s %s = %s", o.Name(), a.text(o.Type()), o.Val())
	case *types.Var:
		a.add("var %s %s", o.Name(), a.text(o.Type()))
	case *types.Func:
		a.add("func %s%s", o.Name(), a.signature(o))
	case *types.TypeName:
		a.addType(o)
	}
}

func (a *api) addType(o *types.TypeName) {
	switch u := o.Type().Underlying().(type) {
	case *types.Struct:
		a.add("type %s struct", o.Name())
		a.addFields(o.Name(), u)
	case *types.Interface:
		a.add("type %s interface", o.Name())
		a.addInterface(o.Name(), u)
	default:
		a.add("type %s %s", o.Name(), a.text(u))
	}
	named, ok := o.Type().(*types.Named)
	if !ok {
		return
	}
	for m := range named.Methods() {
		if m.Exported() {
			a.add("method (%s) %s%s", a.text(m.Signature().Recv().Type()), m.Name(), a.signature(m))
		}
	}
}

func (a *api) addFields(name string, s *types.Struct) {
	for f := range s.Fields() {
		switch {
		case !f.Exported():
		case f.Embedded():
			a.add("field %s.%s embedded", name, f.Name())
		default:
			a.add("field %s.%s %s", name, f.Name(), a.text(f.Type()))
		}
	}
}

func (a *api) addInterface(name string, i *types.Interface) {
	for m := range i.Methods() {
		if !m.Exported() {
			a.add("method (%s) unexported: cannot be implemented elsewhere", name)
			continue
		}
		a.add("method (%s) %s%s", name, m.Name(), a.signature(m))
	}
}
