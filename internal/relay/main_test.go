package relay

import (
	"flag"
	"testing"

	"github.com/wsproxy/wsproxy/internal/leaktest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Parallel tests wait here. With the race detector they have much to do as well.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue && !hasRaceDetector {
		f.Value.Set("16")
	}
	leaktest.Main(m)
}
