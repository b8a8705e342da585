package wsproxyadmin

import (
	"testing"

	"github.com/wsproxy/wsproxy/internal/leaktest"
)

// TestMain fails the binary if its tests leave a goroutine or a descriptor.
func TestMain(m *testing.M) { leaktest.Main(m) }
