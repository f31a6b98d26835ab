#!/bin/bash
# Runs the lanes of `make test` one after the other, all of them even if one
# fails, and names at the end what failed. Each lane's output stays in
# hack/.cache/test.
set -uo pipefail
cd "$(dirname "$0")/.."

[ "$(id -u)" = 0 ] || { echo "make test needs root for its root and e2e lanes. Run: sudo make test (or, without root: make test-unit)" >&2; exit 1; }

cat <<'TEXT'
berth's tests: lint, unit, root (the real kernel, with the race detector), e2e (built binaries and crictl).

  needs     Linux 5.15 or newer, root, Go 1.26, gcc, make; Debian or a descendant for what lacks
  installs  Debian packages that lack (libseccomp-dev, pkg-config, docker-registry, nftables, busybox-static)
  writes    hack/.cache of this clone, /tmp while a test runs, Go's own caches; no test uses the internet

TEXT
hack/setup.sh --quiet || exit 1

logs=hack/.cache/test
mkdir -p "$logs"
begin=$SECONDS
failed=()

lane() { # name, make target
	local start=$SECONDS log=$logs/$1.log verdict=passed
	printf '\n=== %s: make %s\n' "$1" "$2"
	# Verbose into the log, so that a skip is never hidden; short on the screen.
	if ! make --no-print-directory "$2" TESTFLAGS=-v </dev/null 2>&1 | tee "$log" |
		{ grep --line-buffered -vE '^ *(=== |--- PASS)|^    |^PASS$|^[IWE][0-9]{4} |\[no test files\]' || true; }; then
		verdict=FAILED
		failed+=("$1")
	fi
	printf '=== %s %s in %ds\n' "$1" "$verdict" $((SECONDS - start))
}

lane lint lint
lane unit test-unit
lane root test-root
lane e2e test-e2e

printf '\n'
skips=$(grep -h -A1 -- '--- SKIP' "$logs"/root.log "$logs"/e2e.log | grep -v '^--$')
[ -z "$skips" ] || printf 'skipped:\n%s\n' "$skips"
for name in "${failed[@]}"; do
	printf 'FAILED %s:\n' "$name"
	{
		grep -E -A30 -- 'WARNING: DATA RACE|^panic:|^fatal error:' "$logs/$name.log" | head -n 70
		grep -E -B10 -- '^ *--- FAIL' "$logs/$name.log"
	} | grep -vE '^ *(=== |--- PASS)' | head -n 120 | sed 's/^/  | /'
	grep -E -- '^ *--- FAIL|^FAIL[[:space:]]|^not gofmt|\.go:[0-9]+:[0-9]+: |^make.*Error' "$logs/$name.log" | sort -u | head -n 60 | sed 's/^/  /'
	printf '  all of it: %s\n' "$logs/$name.log"
done
printf 'make test: %s of 4 lanes passed in %ds\n' $((4 - ${#failed[@]})) $((SECONDS - begin))
[ ${#failed[@]} -eq 0 ]
