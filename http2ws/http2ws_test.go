package http2ws

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

func TestAddKeepsTheEnvironmentsSetting(t *testing.T) {
	for old, want := range map[string]string{
		"":                              "http2xconnect=1",
		"http2debug=1":                  "http2debug=1,http2xconnect=1",
		"http2xconnect=0":               "http2xconnect=0",
		"http2xconnect=1":               "http2xconnect=1",
		"gctrace=1,http2xconnect=0":     "gctrace=1,http2xconnect=0",
		"http2xconnect=0,gctrace=1":     "http2xconnect=0,gctrace=1",
		"nohttp2xconnect=0":             "nohttp2xconnect=0,http2xconnect=1",
		"a=http2xconnect=0":             "a=http2xconnect=0,http2xconnect=1",
		"http2xconnect":                 "http2xconnect,http2xconnect=1",
		"http2xconnect=0,http2client=0": "http2xconnect=0,http2client=0",
	} {
		if got := add(old); got != want {
			t.Errorf("add(%q) = %q; want %q", old, got, want)
		}
	}
}

// Go initializes first, of the packages whose imports are initialized, the one with the least
// import path. What os needs, net/http needs too; with another import that would not be so.
func TestHTTP2WSImportsOSAlone(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{join .Imports \" \"}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != "os" {
		t.Errorf("http2ws imports %q; want os alone", got)
	}
}

// "The SETTINGS_ENABLE_CONNECT_PROTOCOL parameter": a server that sends it with 1 accepts an
// extended CONNECT.
// https://www.rfc-editor.org/rfc/rfc8441#section-3
func TestServersAcceptWebSocketsWithImportOrEnvironment(t *testing.T) {
	dir := t.TempDir()
	for _, program := range []string{"plain", "imported"} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, program+".exe"), "./testdata/"+program)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	for _, tt := range []struct {
		program, godebug string
		accepts          bool
	}{
		{"plain", "", false},
		{"plain", "http2xconnect=1", true},
		{"imported", "", true},
		{"imported", "madvdontneed=1", true},
		{"imported", "http2xconnect=1", true},
		{"imported", "http2xconnect=0", false},
	} {
		t.Run(tt.program+" "+tt.godebug, func(t *testing.T) {
			addr := start(t, filepath.Join(dir, tt.program+".exe"), tt.godebug)
			if accepts := acceptsExtendedConnect(t, addr); accepts != tt.accepts {
				t.Errorf("with GODEBUG=%q the server's setting is %v; want %v", tt.godebug, accepts, tt.accepts)
			}
		})
	}
}

// start starts a program until the test ends, and returns its address.
func start(t *testing.T, program, godebug string) (addr string) {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "GODEBUG=")
	}), "GODEBUG="+godebug)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(stderr).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func acceptsExtendedConnect(t *testing.T, addr string) bool {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	framer.WriteSettings()
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if settings, ok := f.(*http2.SettingsFrame); ok && !settings.IsAck() {
			value, _ := settings.Value(http2.SettingEnableConnectProtocol)
			return value == 1
		}
	}
}
