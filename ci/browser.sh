#!/usr/bin/env bash
# Drives the page of examples/quickstart in Chromium, at 1280 and 400 px, in light and dark
# mode, and checks what a page observes when it is refused, and that one that does not read is
# cut. Screenshots are written to DIR, or to a temporary directory that is removed:
#
#	ci/browser.sh [-update] [DIR]
#
# With -update, it writes docs/quickstart.png, the picture of README.md. It needs Node.js 20
# and npm. What is missing it installs: Debian packages, and playwright-core from npm in a
# temporary directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

maxBytes=200000 # of docs/quickstart.png

update=
if [ "${1:-}" = -update ]; then
	update=1
	shift
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
dir=${1:-$tmp/screenshots}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

missing=()
if ! CHROMIUM=$(command -v chromium || command -v google-chrome); then
	missing+=(chromium)
fi
command -v npm >/dev/null || missing+=(nodejs npm)
[ -n "$(fc-list Inter 2>/dev/null)" ] || missing+=(fontconfig fonts-inter)
if [ ${#missing[@]} -gt 0 ]; then
	sudo=
	if [ "$(id -u)" != 0 ]; then
		sudo=sudo
	fi
	$sudo apt-get update -q
	$sudo apt-get install -q -y --no-install-recommends "${missing[@]}"
	CHROMIUM=$(command -v chromium || command -v google-chrome)
fi

cp -R test/browser "$tmp/test"
go build -o "$tmp/" ./examples/quickstart ./test/browser/refusals ./test/browser/stalls
(
	cd "$tmp/test"
	npm ci --no-audit --no-fund
	export CHROMIUM QUICKSTART=$tmp/quickstart REFUSALS=$tmp/refusals STALLS=$tmp/stalls SCREENSHOTS=$dir
	timeout 480 node --test --test-timeout=240000
)
ls "$dir"

if [ -n "$update" ]; then
	size=$(wc -c <"$dir/1280-light-start.png")
	if [ "$size" -gt "$maxBytes" ]; then
		echo "the picture has $size bytes; want at most $maxBytes"
		exit 1
	fi
	cp "$dir/1280-light-start.png" docs/quickstart.png
fi
