package usage

import (
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"
)

func TestParseStatSkipsAnyName(t *testing.T) {
	const text = "42 (a) b (c) S 7 42 42 0 -1 4194560 100 0 0 0 150 50 9 9 20 0 1 0 100 1 1"
	got, err := parseStat(text)
	if want := (stat{parent: 7, cpu: 2 * time.Second}); err != nil || got != want {
		t.Errorf("parseStat(%q) = %v, %v; want %v", text, got, err, want)
	}
	if got, err := parseStat("42 (cut) S 7"); err == nil {
		t.Errorf("parseStat of too few fields = %v; want an error", got)
	}
}

func TestPssReadsLinePss(t *testing.T) {
	const text = "5500-7fff ---p 00000000 00:00 0 [rollup]\nRss:  9000 kB\nPss:     12 kB\nPss_Dirty: 7 kB\n"
	if got := pss(text); got != 12<<10 {
		t.Errorf("pss(%q) = %d; want %d", text, got, 12<<10)
	}
}

func TestUsageCountsDescendants(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	alone, err := Of(os.Getpid())
	if err != nil || alone.Bytes == 0 || alone.Descriptors == 0 {
		t.Fatalf("Of(itself) = %+v, %v; want memory and descriptors", alone, err)
	}
	child := exec.Command("sh", "-c", "read line; exit") // a shell with a pipe to wait for
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if got := descendants(os.Getpid()); !slices.Contains(got, child.Process.Pid) {
		t.Errorf("descendants() = %v; want %d among them", got, child.Process.Pid)
	}
	in.Close()
	child.Wait() // returns an error, because read got no line
	if _, err := Of(child.Process.Pid); err == nil {
		t.Error("Of(a process that has ended) has no error")
	}
}
