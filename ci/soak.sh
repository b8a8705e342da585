#!/usr/bin/env bash
# Runs for longer, with the race detector, what a plain go test does for a moment:
# tunnels opened and dropped at random, those whose readers never read, shutdown of
# thousands. 30 seconds a part unless told otherwise:
#
#	ci/soak.sh [DURATION]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export WSPROXY_SOAK=${1:-30s}
go test -race -count=1 -v -timeout=60m -run 'OpenedAndDropped|ReadersNeverRead|ShutdownOfThousands|WithoutDescriptors' .
