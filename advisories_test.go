package wsproxy_test

import (
	"bytes"
	"compress/flate"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestAdvisoriesNameTestsThatExist(t *testing.T) {
	text, err := os.ReadFile("testdata/advisories.txt")
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

// A megabyte that is a kilobyte on the wire passes a limit of four kilobytes, and
// arrives as it was sent: nothing inflates it.
func TestCompressedMessagesAreMeasuredOnTheWire(t *testing.T) {
	var bomb bytes.Buffer
	w, err := flate.NewWriter(&bomb, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(make([]byte, 1<<20))
	w.Flush()
	frame := wstest.Frame{Fin: true, RSV: 4, Opcode: wstest.OpBinary, Payload: bytes.TrimSuffix(bomb.Bytes(), []byte{0, 0, 0xff, 0xff})}

	backend := wstest.StartBackend(t)
	closed := make(chan wsproxy.TunnelEnd, 1)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithLimits(wsproxy.Limits{MessageSize: 4096}),
		wsproxy.WithTrace(&wsproxy.Trace{Closed: func(e wsproxy.TunnelEnd) { closed <- e }}))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(chatOffer)
	leg := backend.Accepted(t)
	leg.AcceptUpgrade(map[string][]string{"Sec-Websocket-Extensions": {"permessage-deflate"}})
	proxytest.WantSwitch(t, client)
	client.Send(frame)
	leg.Want(frame)
	leg.Send(frame)
	client.Want(frame)

	// And what is more on the wire does not.
	client.Send(wstest.Frame{Fin: true, RSV: 4, Opcode: wstest.OpBinary, Payload: make([]byte, 4097)})
	client.WantClose(1009)
	leg.WantClose(1001)
	client.Close()
	leg.Close()
	if e := <-closed; e.Cause != wsproxy.CauseTooBig || e.Side != wsproxy.SideClient {
		t.Errorf("tunnel ended by %v %v; want client too big", e.Side, e.Cause)
	}
}
