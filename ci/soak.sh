#!/usr/bin/env bash
# Runs for longer, with the race detector, what a plain go test does for a moment:
# tunnels opened and dropped at random, for 30 seconds blocking and 30 detached unless
# told otherwise, those whose readers never read, shutdown of thousands:
#
#	ci/soak.sh [DURATION [TESTS]]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export WSPROXY_SOAK=${1:-30s}
tests=${2:-OpenedAndDropped|ReadersNeverRead|ShutdownOfThousands|WithoutDescriptors}
go test -race -count=1 -v -timeout=60m -run "$tests" .
