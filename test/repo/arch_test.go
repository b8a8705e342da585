package repo_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What follows are the rules of ARCHITECTURE.md, each with its reason. They hold
// for all files of a package, whatever platform they are for. Tests and examples
// are exempt.

const modulePath = "github.com/wsproxy/wsproxy"

// A packageRule says what one package of the module may know of the others.
type packageRule struct {
	imports []string // packages of this module
	forTest bool     // only tests may import it
	isPure  bool     // values in, values out: see impure
}

// packageRules by their directory. Imports point downwards: a package that knew who calls
// it could not be read, or tested, without its callers.
var packageRules = map[string]packageRule{
	".": {imports: []string{"internal/affinity", "internal/backendtest", "internal/dialer", "internal/frame", "internal/h2stream", "internal/handshake", "internal/health", "internal/histogram", "internal/limit", "internal/netconn", "internal/pace", "internal/proxyproto", "internal/rebalance", "internal/relay"}},

	// What it shows, the root exports.
	"wsproxyadmin": {imports: []string{".", "internal/buildinfo", "internal/label"}},
	// It reads what the root counts.
	"wsproxymetrics": {imports: []string{".", "internal/buildinfo", "internal/label"}},

	// It must be initialized before net/http: see TestHTTP2WSImportsOSAlone.
	"http2ws": {},

	// They are for the tests of users.
	"wsproxytest":        {forTest: true, imports: []string{".", "internal/backendtest", "internal/wstest", "wsproxytest/memnet"}},
	"wsproxytest/memnet": {forTest: true},

	"internal/relay":      {imports: []string{"internal/epoll", "internal/frame", "internal/histogram", "internal/limit", "internal/netconn"}},
	"internal/epoll":      {},
	"internal/h2stream":   {},
	"internal/netconn":    {},
	"internal/dialer":     {},
	"internal/histogram":  {},
	"internal/buildinfo":  {},
	"internal/label":      {},
	"internal/affinity":   {isPure: true},
	"internal/frame":      {isPure: true},
	"internal/handshake":  {isPure: true},
	"internal/health":     {isPure: true},
	"internal/limit":      {isPure: true},
	"internal/pace":       {isPure: true},
	"internal/proxyproto": {isPure: true},
	"internal/rebalance":  {isPure: true},

	// It has a variable that the root sets, so that wsproxytest can change a backend.
	"internal/backendtest": {},

	"internal/leaktest": {forTest: true},
	"internal/wstest":   {forTest: true},

	// It helps to test a whole proxy, so it imports the root. Only tests in packages
	// of their own can import it: the root imports nothing of it.
	"internal/proxytest": {forTest: true, imports: []string{".", "wsproxytest/memnet", "internal/wstest"}},
}

// impure are the imports that a pure package does without, so that its tests are
// tables and fuzz targets, and what it decides is the same each time.
var impure = map[string]string{
	"context":      "there is nothing to wait for",
	"crypto/rand":  "random bytes are passed in, so that tests can repeat them",
	"log":          "what was found is returned; the caller knows whether anybody wants to read it",
	"log/slog":     "what was found is returned; the caller knows whether anybody wants to read it",
	"math/rand":    "random numbers are passed in, so that tests can repeat them",
	"math/rand/v2": "random numbers are passed in, so that tests can repeat them",
	"net":          "it opens no socket",
	"os":           "it knows no files and no environment",
	"runtime":      "it starts no goroutine, and depends on no platform",
	"sync":         "it shares nothing between goroutines",
	"sync/atomic":  "it shares nothing between goroutines",
}

// never are further imports that one package does without.
var never = map[string]map[string]string{
	"internal/frame": {
		"net/http":  "frames are the same whatever opened the tunnel",
		"net/netip": "frames have no addresses",
		"net/url":   "frames have no addresses",
	},
	"internal/relay": {
		"net/http": "a tunnel begins where HTTP ends: it must work the same over any pair of streams",
		"log":      "its caller logs, once, and knows which tunnel it is",
		"log/slog": "its caller logs, once, and knows which tunnel it is",
		"net/url":  "a tunnel begins where HTTP ends",
	},
}

// networkHTTP are the names of net/http that do more than hold values.
var networkHTTP = regexp.MustCompile(`^(Client|Default.*|Get|Handle.*|Head|ListenAndServe.*|NewServeMux|Post.*|ResponseController|NewResponseController|Server?|Serve.*|Transport)$`)

// descriptorFiles are the only places with calls that act on a descriptor: whether
// a number still means the same connection is a question of its own.
var descriptorFiles = regexp.MustCompile(`^internal/(epoll/.*|netconn/.*_unix)\.go$`)

// durations are the names of package time that hold values. A pure package uses no other:
// time is passed in, so that no test waits.
var durations = regexp.MustCompile(`^(Duration|(Nano|Micro|Milli)second|Second|Minute|Hour)$`)

// harmlessSyscall are the names of package syscall that act on nothing: what a
// connection can show of itself, errno values, and signals.
var harmlessSyscall = regexp.MustCompile(`^(RawConn|Conn|Errno|E[A-Z0-9]+|Signal|SIG[A-Z0-9]+)$`)

// thirdParty are the packages of others that users of the core get with it.
// Whatever needs another one is a module of its own.
var thirdParty = map[string]string{
	"golang.org/x/net/http/httpguts": "what a token is, and a field value, as net/http itself decides it",
}

// thirdPartyForTests are those that packages for tests may import as well.
var thirdPartyForTests = map[string]string{
	"golang.org/x/net/http2":       "the frames of a client over HTTP/2 that may break rules",
	"golang.org/x/net/http2/hpack": "the header of such a client",
}

func TestPackagesFollowImportRules(t *testing.T) {
	atRoot(t)
	seen := make(map[string]bool)
	for _, name := range sourceFiles(t) {
		seen[path.Dir(name)] = true
		for _, b := range breaches(t, name, nil) {
			t.Error(b)
		}
	}
	for dir := range packageRules {
		if !seen[dir] {
			t.Errorf("there is no package in %s: remove it from packageRules in arch_test.go", dir)
		}
	}
}

func TestImportRulesFindBreaches(t *testing.T) {
	const want = "" // nothing to say
	for _, tt := range []struct {
		file, src string
		want      string
	}{
		{"internal/relay/x.go", `import _ "github.com/wsproxy/wsproxy"`, "imports point downwards"},
		{"internal/relay/x.go", `import _ "github.com/wsproxy/wsproxy/internal/handshake"`, "imports point downwards"},
		{"internal/relay/x.go", `import _ "net/http"`, "any pair of streams"},
		{"internal/relay/x.go", `import _ "time"`, want},
		{"internal/frame/x.go", `import "time"; var _ = time.Now`, "time is passed in"},
		{"internal/frame/x.go", `import "time"; const _ = time.Second`, want},
		{"internal/frame/x.go", `import _ "net/http"`, "whatever opened the tunnel"},
		{"internal/frame/x.go", `import _ "github.com/wsproxy/wsproxy/internal/handshake"`, "imports point downwards"},
		{"internal/frame/x.go", `func f() { go f() }`, "starts no goroutine"},
		{"internal/handshake/x.go", `import _ "net/netip"`, want},
		{"internal/handshake/x.go", `import _ "net"`, "opens no socket"},
		{"internal/handshake/x.go", `import web "net/http"; var _ = web.Get`, "http.Get"},
		{"internal/handshake/x.go", `import "net/http"; var _ http.Header`, want},
		{"internal/netconn/x.go", `import _ "unsafe"`, "acts on a descriptor"},
		{"internal/netconn/x.go", `import "syscall"; var _ = syscall.Read`, "syscall.Read"},
		{"internal/netconn/x.go", `import . "syscall"`, "syscall"},
		{"internal/netconn/x.go", `import "syscall"; var _ syscall.RawConn`, want},
		{"internal/netconn/x.go", `import "syscall"; var _ = syscall.EAGAIN`, want},
		{"internal/netconn/x_unix.go", `import "syscall"; var _ = syscall.Read`, want},
		{"x.go", `import _ "github.com/wsproxy/wsproxy/internal/wstest"`, "only tests"},
		{"x.go", `import _ "github.com/wsproxy/wsproxy/internal/proxytest"`, "only tests"},
		{"internal/proxytest/x.go", `import _ "github.com/wsproxy/wsproxy"`, want},
		{"internal/wstest/x.go", `import _ "github.com/wsproxy/wsproxy"`, "imports point downwards"},
		{"x.go", `import _ "github.com/wsproxy/wsproxy/wsproxytest"`, "only tests"},
		{"x.go", `import _ "github.com/coder/websocket"`, "module of its own"},
		{"x.go", `import _ "golang.org/x/net/http/httpguts"`, want},
		{"x.go", `import _ "golang.org/x/net/http2"`, "module of its own"},
		{"internal/proxytest/x.go", `import _ "golang.org/x/net/http2"`, want},
		{"internal/new/x.go", ``, "arch_test.go"},
	} {
		got := strings.Join(breaches(t, tt.file, []byte("package x; "+tt.src)), "\n")
		if !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("breaches of %s with %s: %q; want %q", tt.file, tt.src, got, tt.want)
		}
	}
}

// sourceFiles returns the files that the rules are about: not those of tests,
// examples and nested modules.
func sourceFiles(t *testing.T) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		base := d.Name()
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name != "." && strings.HasPrefix(base, ".") || base == "examples" || base == "testdata"):
			return fs.SkipDir
		case base == "go.mod" && name != "go.mod":
			names = slices.DeleteFunc(names, func(n string) bool {
				return strings.HasPrefix(n, path.Dir(filepath.ToSlash(name))+"/")
			})
			return fs.SkipDir
		case strings.HasSuffix(base, ".go") && !strings.HasSuffix(base, "_test.go"):
			names = append(names, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// breaches returns the rules that a file breaks. Its text is src, or the file's
// own if that is nil.
func breaches(t *testing.T, name string, src []byte) []string {
	t.Helper()
	fset := token.NewFileSet()
	var content any
	if src != nil {
		content = src
	}
	file, err := parser.ParseFile(fset, name, content, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	c := &checker{fset: fset, name: name, dir: path.Dir(name), used: make(map[string]string)}
	var known bool
	if c.packageRule, known = packageRules[c.dir]; !known {
		return []string{fmt.Sprintf("%s: a package without rules: add it to packageRules in arch_test.go", name)}
	}
	for _, spec := range file.Imports {
		c.checkImport(spec)
	}
	ast.Inspect(file, c.checkNode)
	return c.found
}

// A checker looks at one file.
type checker struct {
	fset        *token.FileSet
	name, dir   string
	packageRule packageRule
	used        map[string]string // "http" or "syscall" by the name that the file uses
	found       []string
}

func (c *checker) report(pos token.Pos, format string, args ...any) {
	c.found = append(c.found, fmt.Sprintf("%s:%d: %s", c.name, c.fset.Position(pos).Line, fmt.Sprintf(format, args...)))
}

func (c *checker) checkImport(spec *ast.ImportSpec) {
	imported, _ := strconv.Unquote(spec.Path.Value)
	if imported == modulePath || strings.HasPrefix(imported, modulePath+"/") {
		c.checkOwnImport(spec, path.Clean("."+strings.TrimPrefix(imported, modulePath)))
		return
	}
	if first, _, _ := strings.Cut(imported, "/"); strings.Contains(first, ".") && !c.mayImport(imported) {
		c.report(spec.Pos(), "imports %s: what needs a package that is not in the standard library is a module of its own", imported)
	}
	if reason := impure[imported]; c.packageRule.isPure && reason != "" {
		c.report(spec.Pos(), "a pure package imports %s: %s", imported, reason)
	}
	if reason := never[c.dir][imported]; reason != "" {
		c.report(spec.Pos(), "imports %s: %s", imported, reason)
	}
	switch imported {
	case "unsafe":
		if !descriptorFiles.MatchString(c.name) {
			c.report(spec.Pos(), "imports unsafe: whatever needs it acts on a descriptor, and belongs into internal/epoll")
		}
	case "syscall", "net/http", "time":
		c.used[path.Base(imported)] = path.Base(imported)
		if spec.Name == nil {
			return
		}
		c.used[spec.Name.Name] = path.Base(imported)
		if spec.Name.Name == "." {
			c.report(spec.Pos(), "imports the names of %s: they could not be told from its own", imported)
		}
	}
}

// mayImport reports whether the file may import a package of others.
func (c *checker) mayImport(imported string) bool {
	return thirdParty[imported] != "" || c.packageRule.forTest && thirdPartyForTests[imported] != ""
}

// checkOwnImport checks the import of a package of this module.
func (c *checker) checkOwnImport(spec *ast.ImportSpec, dir string) {
	switch {
	case packageRules[dir].forTest && !c.packageRule.forTest:
		c.report(spec.Pos(), "imports %s, which only tests may", dir)
	case !slices.Contains(c.packageRule.imports, dir):
		c.report(spec.Pos(), "%s imports %s: imports point downwards, as in ARCHITECTURE.md", c.dir, dir)
	}
}

func (c *checker) checkNode(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GoStmt:
		if c.packageRule.isPure {
			c.report(n.Pos(), "a pure package starts no goroutine: its callers could not tell when it ends")
		}
	case *ast.SelectorExpr:
		if pkg, ok := n.X.(*ast.Ident); ok {
			c.checkName(n.Pos(), c.used[pkg.Name], n.Sel.Name)
		}
	}
	return true
}

// checkName checks the use of a name of another package.
func (c *checker) checkName(pos token.Pos, pkg, name string) {
	switch {
	case pkg == "syscall" && !harmlessSyscall.MatchString(name) && !descriptorFiles.MatchString(c.name):
		c.report(pos, "uses syscall.%s: what acts on a descriptor belongs into internal/epoll, or a _unix.go file of internal/netconn", name)
	case pkg == "time" && c.packageRule.isPure && !durations.MatchString(name):
		c.report(pos, "a pure package uses time.%s: time is passed in, so that no test waits", name)
	case pkg == "http" && c.packageRule.isPure && networkHTTP.MatchString(name):
		c.report(pos, "a pure package uses http.%s: it opens no socket", name)
	}
}
