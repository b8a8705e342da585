package wsprometheus_test

import (
	"testing"

	"github.com/wsproxy/wsproxy/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
