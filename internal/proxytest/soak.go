package proxytest

import (
	"os"
	"testing"
	"time"
)

// SoakTime returns the time that long tests may take: the value of WSPROXY_SOAK. It is
// 0 in a plain go test. See ci/soak.sh.
func SoakTime(t testing.TB) time.Duration {
	t.Helper()
	s := os.Getenv("WSPROXY_SOAK")
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("WSPROXY_SOAK: %v", err)
	}
	return d
}
