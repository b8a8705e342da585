#!/usr/bin/env bash
# Runs the tests of test/soak, and those of test/process that have a larger size, with
# the race detector and for longer than a plain go test: tunnels are opened and dropped
# at random for 30 seconds blocking and 30 detached, or DURATION each:
#
#	ci/soak.sh [DURATION [TESTS]]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export WSPROXY_SOAK=${1:-30s}
tests=${2:-.}
go test -race -count=1 -v -timeout=60m -run "$tests" ./test/soak
if [ "$tests" = . ]; then
	go test -race -count=1 -v -timeout=60m -run 'TestTunnelBoundsMemory|TestProxyRecovers' ./test/process
fi
