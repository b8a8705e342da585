// Package chaos_test tests that tunnels survive what changes around them: backends that are
// killed, frozen or broken, and a program that changes, drains and balances its backends
// meanwhile. Its clients and backends number their messages, so that one that is lost, doubled
// or out of order is found.
//
//	WSPROXY_SOAK=1m go test ./test/chaos                       # for a minute
//	WSPROXY_CHAOS_SEED=7 go test -run TestChaos ./test/chaos   # what was random, again
package chaos_test

import (
	"testing"

	"github.com/wsproxy/wsproxy/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
