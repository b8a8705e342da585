#!/usr/bin/env bash
# Runs the tests that have a larger size or a longer time. Those of test/closing run
# without the race detector, under which messages of 100 MB do not move at the rates that
# the tests are about; go test -race ./... runs them with smaller ones. The tests of
# test/soak that run for a given time, such as those that open and drop tunnels at random,
# do so for 30 seconds blocking and 30 detached, or DURATION each, and so does test/chaos, once:
#
#	ci/soak.sh [DURATION [TESTS]]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export WSPROXY_SOAK=${1:-30s}
tests=${2:-.}
go test -count=1 -v -timeout=60m -run "$tests" ./test/closing
go test -race -count=1 -v -timeout=60m -run "$tests" ./test/chaos ./test/process ./test/soak
