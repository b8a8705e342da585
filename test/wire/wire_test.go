// Package wire_test has upgrades as bytes: what a client sends and a backend answers, and
// what both of them must get.
package wire_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

var update = flag.Bool("update", false, "write what was got to the files, instead of comparing it with them")

// TestMain lets many tests run at once: they mostly wait.
func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "32")
	leaktest.Main(m)
}

// Each directory of testdata is one upgrade:
//
//   - client: what the client sends
//   - backend: what the backend answers, with {accept} for its Sec-WebSocket-Accept; an
//     ordinary 101 if there is no such file
//   - prefix: the path of the backend's URL, if it has one
//   - at-backend: the request that the backend must get; none if there is no such file
//   - at-client: what the client must get
//
// {key}, {accept}, {id} and {date} stand for what differs each time.
func TestUpgradeReachesBothSidesByteForByte(t *testing.T) {
	dirs, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		t.Run(dir.Name(), func(t *testing.T) {
			t.Parallel() // where a client broke the protocol, its backend is waited for
			testUpgrade(t, filepath.Join("testdata", dir.Name()))
		})
	}
}

func testUpgrade(t *testing.T, dir string) {
	answer := proxytest.Switching
	if b, ok := readFile(t, dir, "backend"); ok {
		answer = string(b)
	}
	prefix, _ := readFile(t, dir, "prefix")
	sent, _ := readFile(t, dir, "client")
	wantAtBackend, isDialed := readFile(t, dir, "at-backend")
	wantAtClient, _ := readFile(t, dir, "at-client")

	backend := wstest.StartRaw(t, answer)
	_, site := proxytest.Start(t, wsproxy.WithBackends(backend.URL()+strings.TrimSpace(string(prefix))))
	conn, err := net.Dial("tcp", strings.TrimPrefix(site.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(sent); err != nil {
		t.Fatal(err)
	}
	atClient := readAnswer(t, conn, wantAtClient)
	conn.Close()
	site.Wait()
	var atBackend []byte
	if backend.NumAccepted() > 0 {
		_, head, _ := proxytest.ReceivedHead(t, backend)
		atBackend = normalize([]byte(head))
	}

	if *update {
		writeFile(t, dir, "at-client", atClient)
		os.Remove(filepath.Join(dir, "at-backend"))
		if atBackend != nil {
			writeFile(t, dir, "at-backend", atBackend)
		}
		return
	}
	if !bytes.Equal(atClient, wantAtClient) {
		t.Errorf("client got\n%q; want\n%q", atClient, wantAtClient)
	}
	if isDialed != (atBackend != nil) || !bytes.Equal(atBackend, wantAtBackend) {
		t.Errorf("backend got\n%q; want\n%q", atBackend, wantAtBackend)
	}
}

// A request that is no upgrade has the same path and query at its backend as an upgrade.
func TestPlainRequestHasTheTargetOfAnUpgrade(t *testing.T) {
	dirs, err := targetDirs()
	if err != nil || len(dirs) == 0 {
		t.Fatal(err, dirs)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			prefix, _ := readFile(t, dir, "prefix")
			sent, _ := readFile(t, dir, "client")
			line, _, _ := bytes.Cut(sent, []byte("\r\n"))
			want, isDialed := readFile(t, dir, "at-backend")
			wantLine, _, _ := bytes.Cut(want, []byte("\r\n"))

			backend := wstest.StartRaw(t, proxytest.Refusing(200, "", "Connection: close"))
			_, site := proxytest.Start(t, wsproxy.WithHTTP(true), wsproxy.WithBackends(backend.URL()+strings.TrimSpace(string(prefix))))
			resp, _ := proxytest.Exchange(t, site.URL, proxytest.Head(string(line), "Host: chat.example", "Connection: close"))
			if !isDialed {
				proxytest.WantStatus(t, resp, 400)
				proxytest.WantUntouched(t, backend)
				return
			}
			_, head, _ := proxytest.ReceivedHead(t, backend)
			if got, _, _ := strings.Cut(head, "\r\n"); got != string(wantLine) {
				t.Errorf("backend got %q; want %q", got, wantLine)
			}
		})
	}
}

// readAnswer reads what the client gets: up to the end of the stream, or in a tunnel until
// nothing has come for a moment after as much as is wanted.
func readAnswer(t *testing.T, conn net.Conn, want []byte) []byte {
	t.Helper()
	timeout := 10 * time.Second
	if *update {
		timeout = 3 * time.Second
	}
	conn.SetReadDeadline(time.Now().Add(timeout))
	var got []byte
	buf := make([]byte, 4<<10)
	for {
		n, err := conn.Read(buf)
		got = append(got, buf[:n]...)
		normal := normalize(got)
		isWhole := *update || bytes.HasPrefix(normal, []byte("HTTP/1.1 101 ")) && len(normal) >= len(want)
		switch {
		case err == io.EOF, isWhole && errors.Is(err, os.ErrDeadlineExceeded):
			return normal
		case err != nil:
			t.Fatalf("after %q: %v", normal, err)
		case isWhole && !*update:
			conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // for what must not come
		}
	}
}

// variables are the parts of messages that differ each time.
var variables = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`(?m)^(Sec-WebSocket-Key: ).*?\r$`), "${1}{key}\r"},
	{regexp.MustCompile(`(?m)^(Sec-WebSocket-Accept: ).*?\r$`), "${1}{accept}\r"},
	{regexp.MustCompile(`(?m)^(X-Request-Id: )[0-9a-f]{32}\r$`), "${1}{id}\r"},
	{regexp.MustCompile(`(?m)^(Date: ).* GMT\r$`), "${1}{date}\r"},
}

// targetDirs returns the directories that are about a path or a query.
func targetDirs() ([]string, error) {
	paths, err := filepath.Glob(filepath.Join("testdata", "path-*"))
	queries, _ := filepath.Glob(filepath.Join("testdata", "query-*"))
	return append(paths, queries...), err
}

func normalize(message []byte) []byte {
	for _, v := range variables {
		message = v.pattern.ReplaceAll(message, []byte(v.name))
	}
	return message
}

func readFile(t *testing.T, dir, name string) (content []byte, ok bool) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	if err != nil {
		t.Fatal(err)
	}
	return b, true
}

func writeFile(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
		t.Fatal(err)
	}
}
