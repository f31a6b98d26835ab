#!/bin/bash
# Runs, in guests (run.sh), the tests that want more than this machine may have:
#
#   cgroup2   a host with cgroup v2 only, the cgroupfs driver
#   systemd   systemd as process 1, its cgroup driver and AppArmor
#
# They are the packages' own tests, built here with `go test -c` and run there.
# Each package's whole output stays in hack/.cache/vm/log. What is not run, and
# why: packages that know no cgroup and no security module, since the guest
# computes ten times slower, and the race detector, for the same reason.
#
# usage: hack/vm/test.sh [cgroup2|systemd]...     default: both
#   RUN    regular expression of the tests to run
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PATH:/usr/local/go/bin

cgroup2=(runtime/sys/cgroup runtime/shim runtime/stats runtime/pod)
systemd=(runtime/pod)
tags='seccomp runc_nocriu netgo osusergo'

bin=hack/.cache/vm/bin
log=hack/.cache/vm/log

binary() { echo "$bin/${1//\//-}.test"; }

# In the guest: one package after the other, all of them even if one fails.
inside() { # guest's name, packages
	local name=$1 package start code failed=0
	shift
	export BERTH_BIN=$PWD/$bin
	for package in "$@"; do
		start=$SECONDS code=0
		(cd "$package" && exec "$OLDPWD/$(binary "$package")" -test.v -test.timeout 40m ${RUN:+-test.run "$RUN"}) \
			>"/share/$name-${package//\//-}.log" 2>&1 || code=$?
		printf '%s  %s  %ds\n' "$([ $code = 0 ] && echo 'ok    ' || echo FAILED)" "$package" $((SECONDS - start))
		[ $code = 0 ] || failed=1
	done
	return $failed
}

if [ "${1:-}" = inside ]; then
	shift
	inside "$@"
	exit
fi

[ "$(id -u)" = 0 ] || { echo "the guest needs root. Run: sudo make test-vm" >&2; exit 1; }
[ $# -gt 0 ] || set -- cgroup2 systemd
hack/setup.sh --quiet
mkdir -p "$bin" "$log"
rm -f "$log"/*.log

# Copies: another make may write bin meanwhile.
cp bin/berthd bin/berth-shim bin/berth bin/berth-init "$bin/"
for package in $(printf '%s\n' "${cgroup2[@]}" "${systemd[@]}" | sort -u); do
	CGO_ENABLED=1 go test -c -tags "$tags" -o "$(binary "$package")" "./$package"
done

failed=()
for guest in "$@"; do
	case $guest in
	cgroup2) arguments=() packages=("${cgroup2[@]}") ;;
	systemd) arguments=(--systemd --append 'apparmor=1 security=apparmor') packages=("${systemd[@]}") ;;
	*) echo "cannot test in a guest called $guest: there are cgroup2 and systemd" >&2; exit 2 ;;
	esac
	printf '\n=== %s: %s\n' "$guest" "${packages[*]}"
	hack/vm/run.sh "${arguments[@]}" --share "$log" --timeout 5400 \
		"RUN='${RUN:-}' hack/vm/test.sh inside $guest ${packages[*]}" || failed+=("$guest")
done

printf '\n'
skips=$(grep -A1 -h -- '--- SKIP' "$log"/*.log | grep -v '^--$' || true)
[ -z "$skips" ] || printf 'skipped:\n%s\n' "$skips"
if [ ${#failed[@]} -gt 0 ]; then
	for file in "$log"/*.log; do
		grep -E -B12 -- '^ *--- FAIL|^panic:' "$file" | grep -vE '^ *(=== |--- PASS)' | sed "s|^|  ${file##*/}: |" | head -n 80 || true
	done
	printf 'make test-vm: FAILED in the guests %s; all of it: %s\n' "${failed[*]}" "$log"
	exit 1
fi
printf 'make test-vm: passed in the guests %s\n' "$*"
