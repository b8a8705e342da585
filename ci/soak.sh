#!/usr/bin/env bash
# Runs the tests that have a larger size or a longer time, with the race detector. The
# tests of test/soak that run for a given time, such as those that open and drop tunnels
# at random, do so for 30 seconds blocking and 30 detached, or DURATION each:
#
#	ci/soak.sh [DURATION [TESTS]]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export WSPROXY_SOAK=${1:-30s}
tests=${2:-.}
go test -race -count=1 -v -timeout=60m -run "$tests" ./test/process ./test/closing ./test/soak
