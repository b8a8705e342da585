#!/usr/bin/env bash
# Runs what a tunnel must survive once more: root runs it as an ordinary user, who may
# have fewer pipes, and an ordinary user runs it as root, where sudo asks for no
# password.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=180 # at most, for each binary

dir=$(mktemp -d)
trap 'rm -rf "$dir" 2>/dev/null || sudo -n rm -rf "$dir"' EXIT
chmod 755 "$dir"
mkdir "$dir/work"

if [ "$(id -u)" = 0 ]; then
	become=(setpriv --reuid 65534 --regid 65534 --clear-groups)
	chown 65534:65534 "$dir/work"
elif sudo -n true 2>/dev/null; then
	become=(sudo -n)
else
	echo "not run: this is not root, and sudo asks for a password"
	exit 0
fi

# run PACKAGE [SKIP]: run the tests of a package, but those that match SKIP, in a directory that
# belongs to the other user.
run() {
	echo "--- $1 as user $("${become[@]}" id -u)"
	go test -c -o "$dir/tests" "./$1"
	if [ -d "$1/testdata" ]; then
		cp -r "$1/testdata" "$dir/work"
	fi
	(
		cd "$dir/work"
		timeout $((seconds + 5)) "${become[@]}" env -i PATH="$PATH" HOME="$dir/work" TMPDIR="$dir/work" \
			"$dir/tests" -test.timeout="${seconds}s" -test.skip="${2:-^$}"
	)
}

run internal/epoll
run internal/relay
run .
run test/process "^TestSIGTERMWithDrainDelayCutsNobody$" # it builds a program of the repository
run test/soak
