#!/usr/bin/env bash
# Measures what is in docs/benchmarks.md again, and writes the tables there. Arguments
# are those of compare:
#
#	ci/measure.sh -rounds 5
#
# It takes 40 minutes, or 25 with -rounds 3. Nothing else should run on the machine. The exit
# status is that of compare: 1 if a bound of -require does not hold.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../benchmarks"

document=../docs/benchmarks.md
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# fill NAME: put the text of $tmp/NAME between the two marks of that name.
fill() {
	awk -v begin="<!-- begin $1 -->" -v end="<!-- end $1 -->" -v file="$tmp/$1" '
		$0 == begin {
			print $0 "\n"
			while ((getline line < file) > 0) print line
			print ""
			inside = 1
		}
		$0 == end { inside = 0 }
		!inside' "$document" >"$tmp/document"
	cat "$tmp/document" >"$document"
}

# benchmarks TAGS: run the Go benchmarks, and write them as preformatted text.
benchmarks() {
	echo "Go benchmarks, tags: ${1:-none}" >&2
	go test -bench . -run '^$' -tags "$1" . | sed -n 's/^Benchmark/    &/p'
}

benchmarks '' >"$tmp/go"
fill go
benchmarks wsproxy_portable >"$tmp/go-portable"
fill go-portable

status=0
go run ./compare "$@" >"$tmp/compare" || status=$?
if [ -s "$tmp/compare" ]; then # it was not interrupted
	fill compare
fi
exit "$status"
