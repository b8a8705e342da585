#!/usr/bin/env bash
# Runs every fuzz target for a while, 10 minutes unless told otherwise:
#
#	ci/fuzz.sh [DURATION]
#
# An input that fails is written to the package's testdata/fuzz: commit it with the
# fix, and each go test will try it again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

duration=${1:-10m}

# Lines of package and target.
targets=$(go test -list '^Fuzz' ./... | awk '
	/^Fuzz/ { names[n++] = $1 }
	/^ok/ { for (i = 0; i < n; i++) print $2, names[i]; n = 0 }')

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# isEndOfTime: report whether the run in the log failed only because its time was
# over: https://go.dev/issue/75804, fixed with Go 1.27. A real failure says more.
isEndOfTime() {
	grep -qx '    context deadline exceeded' "$log" &&
		[ "$(sed -n '/^--- FAIL/,/^FAIL/p' "$log" | wc -l)" = 3 ]
}

while read -r package target; do
	echo "--- $package $target"
	if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "$duration" "$package" 2>&1 | tee "$log"; then
		isEndOfTime || exit 1
		echo "not a failure: its time was over"
	fi
done <<<"$targets"
