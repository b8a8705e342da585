package repo_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// rootDoc returns the documentation of the root package.
func rootDoc(t *testing.T) *doc.Package {
	t.Helper()
	fset := token.NewFileSet()
	names, err := filepath.Glob("../../*.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(fset, name, src, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	p, err := doc.NewFromFiles(fset, files, "github.com/wsproxy/wsproxy")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var (
	saysDefault  = regexp.MustCompile(`(?i)\bdefaults?\b|\bSee \[|without `)
	saysZero     = regexp.MustCompile(`(?i)\bzero\b`)
	saysNegative = regexp.MustCompile(`(?i)\bnegative\b`)
	saysUnit     = regexp.MustCompile(`(?i)bytes|tunnels|upgrades|calls|failures|checks|second|weight|number|share|port|times|part|once`)
)

func TestEachOptionDocumentsItsDefault(t *testing.T) {
	n := 0
	for _, typ := range rootDoc(t).Types {
		if typ.Name != "Option" {
			continue
		}
		for _, f := range typ.Funcs {
			n++
			if !saysDefault.MatchString(f.Doc) {
				t.Errorf("the documentation of %s says nothing about the default", f.Name)
			}
		}
	}
	if n < 15 {
		t.Errorf("%d options found; want 15 or more", n)
	}
}

func TestEachNumberDocumentsItsUnitZeroAndNegative(t *testing.T) {
	p := rootDoc(t)
	settable := settableStructs(p)
	if len(settable) < 6 {
		t.Errorf("%d structs found whose fields a program sets; want 6 or more", len(settable))
	}
	for _, typ := range p.Types {
		s := settable[typ.Name]
		if s == nil {
			continue
		}
		for _, field := range s.Fields.List {
			kind := typeName(field.Type)
			switch kind {
			case "int", "int64", "float64", "Rate", "time.Duration":
			default:
				continue
			}
			own := field.Doc.Text() + field.Comment.Text()
			for _, name := range field.Names {
				path := typ.Name + "." + name.Name
				if !saysZero.MatchString(typ.Doc + own) {
					t.Errorf("%s: nothing is said about zero", path)
				}
				if !saysNegative.MatchString(typ.Doc + own) {
					t.Errorf("%s: nothing is said about negative values", path)
				}
				if kind != "time.Duration" && !saysUnit.MatchString(typ.Doc+own) {
					t.Errorf("%s: no unit", path)
				}
			}
		}
	}
}

// settableStructs returns the structs that exported functions have as parameters, and those
// that are fields of these.
func settableStructs(p *doc.Package) map[string]*ast.StructType {
	all := make(map[string]*ast.StructType)
	var params []*ast.FieldList
	for _, f := range p.Funcs {
		params = append(params, f.Decl.Type.Params)
	}
	for _, typ := range p.Types {
		if s, ok := typ.Decl.Specs[0].(*ast.TypeSpec).Type.(*ast.StructType); ok {
			all[typ.Name] = s
		}
		for _, f := range append(typ.Funcs, typ.Methods...) {
			params = append(params, f.Decl.Type.Params)
		}
	}
	settable := make(map[string]*ast.StructType)
	for len(params) > 0 {
		list := params[0]
		params = params[1:]
		for _, field := range list.List {
			name := typeName(field.Type)
			if s := all[name]; s != nil && settable[name] == nil {
				settable[name] = s
				params = append(params, s.Fields)
			}
		}
	}
	return settable
}

// typeName returns the name of a type, or of the elements of a parameter with dots.
func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.Ellipsis:
		return typeName(e.Elt)
	case *ast.SelectorExpr:
		return typeName(e.X) + "." + e.Sel.Name
	}
	return ""
}
