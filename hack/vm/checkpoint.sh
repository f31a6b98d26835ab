#!/bin/bash
# Runs the end-to-end test of checkpoints in a guest (run.sh), whose kernel is
# one that Debian's CRIU knows: with that of this machine it may not work. CRIU
# must be installed here, since the guest's root is the machine's.
#
# usage: hack/vm/checkpoint.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PATH:/usr/local/go/bin
test=hack/.cache/vm/bin/e2e.test

# In the guest: the parts of the clone that the test needs, on a tmpfs, since an
# overlay's writable layer cannot lie on the overlay that the clone is there.
inside() {
	copy=$(mktemp -d)
	mkdir -p "$copy/hack/.cache/vm"
	cp -a bin go.mod "$copy/"
	cp -a hack/imports.txt hack/e2e "$copy/hack/"
	cp -a hack/.cache/crictl "$test" "$copy/hack/.cache/"
	mount --bind hack/.cache/vm "$copy/hack/.cache/vm" # the kernel's modules
	mount --rbind "$copy" "$PWD"
	echo 1 >/proc/sys/net/ipv4/ip_forward
	modprobe -a nf_tables unix_diag # CRIU looks for them without loading them
	cd "$PWD/hack/e2e"
	exec ../.cache/e2e.test -test.run '^TestCheckpoint$' -test.v -test.timeout 10m
}

if [ "${1:-}" = inside ]; then
	inside
fi

[ "$(id -u)" = 0 ] || { echo "the guest needs root. Run: sudo make test-checkpoint" >&2; exit 1; }
hack/setup.sh --quiet
command -v criu >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends criu </dev/null >/dev/null ||
	{ echo "the test needs CRIU; on Debian: apt install criu" >&2; exit 1; }
mkdir -p "${test%/*}"
CGO_ENABLED=0 go test -c -tags e2e -o "$test" ./hack/e2e
out=$(mktemp)
trap 'rm -f "$out"' EXIT
code=0
hack/vm/run.sh --timeout 900 "hack/vm/checkpoint.sh inside" | tee "$out" || code=$?
# A skip there would be a test that nobody has run.
if grep -q -- '--- SKIP' "$out"; then
	echo "hack/vm/checkpoint.sh: the test was skipped, so nothing was tested" >&2
	exit 1
fi
exit "$code"
