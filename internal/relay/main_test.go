package relay

import (
	"flag"
	"testing"

	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		f.Value.Set(parallelTests)
	}
	wstest.MeasureLateness()
	leaktest.Main(m)
}
