#!/usr/bin/env bash
# Runs the tests of e2e: clients, browsers and servers of others. On Debian it installs what is
# missing, and the packages of package.json from npm. A test that cannot run fails.
#
#	ci/e2e.sh [ARGUMENT OF GO TEST]...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../e2e"

missing=()
for command in chromium haproxy mosquitto nginx; do
	PATH=$PATH:/usr/sbin command -v "$command" >/dev/null || missing+=("$command")
done
/usr/bin/python3 -c 'import websockets' 2>/dev/null || missing+=(python3-websockets)
command -v npm >/dev/null || missing+=(nodejs npm)
[ -n "$(fc-list Inter 2>/dev/null)" ] || missing+=(fontconfig fonts-inter) # for screenshots
if [ ${#missing[@]} -gt 0 ]; then
	sudo=
	if [ "$(id -u)" != 0 ]; then
		sudo=sudo
	fi
	$sudo apt-get update -q
	$sudo apt-get install -q -y --no-install-recommends "${missing[@]}"
fi
npm ci --no-audit --no-fund

export WSPROXY_REQUIRE_E2E=1
go test -timeout 20m "$@" ./...
