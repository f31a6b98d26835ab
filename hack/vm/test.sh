#!/bin/bash
# Runs, in guests (run.sh), the tests that want more than this machine may have.
# Each lane is a guest of its own:
#
#   smoke            the essential part with cgroup v2 only, some five minutes
#   cgroup2          packages with cgroup v2 only, the cgroupfs driver
#   cgroup2-critest  kubernetes' specs of CRI there
#   cgroup2-e2e      the built binaries there, driven by crictl and berth
#   systemd          packages with systemd as process 1: its cgroup driver, AppArmor
#   systemd-critest  kubernetes' specs of CRI there: the nine of AppArmor run
#   systemd-e2e      the built binaries there, as far as cgroups and units matter
#
# All is built here and only runs there. What each lane prints stays in
# hack/.cache/vm/log. What is left out, and why, is in tests.txt. Nothing is
# decided by time: the guest computes some ten times slower than the machine.
#
# usage: hack/vm/test.sh [--smoke] [LANE]...     default: all lanes but smoke
#   RUN    regular expression of the packages' and the end-to-end tests to run
#   FOCUS  regular expression of the specs to run
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PATH:/usr/local/go/bin

lanes=(cgroup2 cgroup2-critest cgroup2-e2e systemd systemd-critest systemd-e2e)
tags='seccomp runc_nocriu netgo osusergo'

bin=hack/.cache/vm/bin
log=hack/.cache/vm/log

parts() { # lane
	case $1 in
	smoke) echo packages critest e2e ;;
	*-critest) echo critest ;;
	*-e2e) echo e2e ;;
	*) echo packages ;;
	esac
}

packages() { # lane
	case $1 in
	smoke) echo runtime/sys/cgroup ;;
	cgroup2) echo runtime/sys/cgroup runtime/shim runtime/stats runtime/pod ;;
	systemd) echo runtime/pod ;;
	esac
}

# How many specs a lane runs, and which; empty: all.
specs() { # lane
	case $1 in
	smoke) echo '24 basic operations on|OOMKilled|port mapping|streaming interfaces runtime should support (exec|attach)' ;;
	esac
}

# The tests that tests.txt has for a lane, as a regular expression.
tests() { # lane, run or out
	awk -F ' *[|] *' -v lane="$1" -v what="$2" '$1 == lane && $2 == what { found = found sep $3; sep = "|" }
		END { if (found) print "^(" found ")$" }' hack/vm/tests.txt
}

binary() { echo "$bin/${1//\//-}.test"; }

# ---- in the guest ---------------------------------------------------------

# Runs a function in a shell of its own; what it says goes to /share.
step() { # name, command...
	local name=$1 start=$SECONDS code=0
	shift
	("$@") >"/share/${name//\//-}.log" 2>&1 || code=$?
	printf '%s  %s  %ds\n' "$([ $code = 0 ] && echo 'ok    ' || echo FAILED)" "$name" $((SECONDS - start))
	[ $code = 0 ] || failed=1
}

run_package() {
	local test=$PWD/$(binary "$1")
	cd "$1"
	exec "$test" -test.v -test.timeout 120m ${RUN:+-test.run "$RUN"}
}

run_specs() { # lane
	local runs='' focus=''
	if [ -n "${FOCUS:-}" ]; then
		focus=$FOCUS
	else
		read -r runs focus <<<"$(specs "$1")" || true
	fi
	RUNS=$runs FOCUS=$focus PASS=specs exec hack/.cache/critest-node built
}

run_e2e() { # lane
	local test=$PWD/$(binary hack/e2e) run out
	run=${RUN:-$(tests "$1" run)} out=$(tests "$1" out)
	export PATH=$PATH:$PWD/hack/.cache/engines/bin
	cd hack/e2e
	exec "$test" -test.v -test.timeout 150m ${run:+-test.run "$run"} ${out:+-test.skip "$out"}
}

# All of a lane's parts, even if one fails.
inside() { # lane
	local part package failed=0
	export BERTH_BIN=$PWD/$bin
	echo 1 >/proc/sys/net/ipv4/ip_forward
	modprobe -a loop tun # tests look for their devices
	for part in $(parts "$1"); do
		case $part in
		packages) for package in $(packages "$1"); do step "$package" run_package "$package"; done ;;
		critest) step critest run_specs "$1" ;;
		e2e) step e2e run_e2e "$1" ;;
		esac
	done
	return $failed
}

if [ "${1:-}" = inside ]; then
	inside "$2"
	exit
fi

# ---- on the machine -------------------------------------------------------

[ "$(id -u)" = 0 ] || { echo "the guest needs root. Run: sudo make test-vm" >&2; exit 1; }
[ "${1:-}" != --smoke ] || set -- smoke
[ $# -gt 0 ] || set -- "${lanes[@]}"
for lane in "$@"; do
	[[ " smoke ${lanes[*]} " = *" $lane "* ]] || { echo "there is no lane $lane: there are smoke ${lanes[*]}" >&2; exit 2; }
done
hack/setup.sh --quiet vm
mkdir -p "$bin"
for lane in "$@"; do rm -rf "${log:?}/$lane"; done

# Another make may write bin meanwhile, hence copies.
cp --remove-destination bin/berthd bin/berth-shim bin/berth bin/berth-init "$bin/"
for package in $(for lane in "$@"; do packages "$lane"; done | xargs -n 1 | sort -u); do
	CGO_ENABLED=1 go test -c -tags "$tags" -o "$(binary "$package")" "./$package"
done
all_parts=$(for lane in "$@"; do parts "$lane"; done)
if [[ $all_parts = *critest* ]]; then
	hack/busybox.sh
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -o hack/.cache/critest-node ./hack/critest
	hack/.cache/critest-node build
fi
if [[ $all_parts = *e2e* ]]; then
	hack/engines.sh
	CGO_ENABLED=0 go test -c -tags e2e -o "$(binary hack/e2e)" ./hack/e2e
fi

run_lane() { # lane
	local arguments=() timeout=9000 code start=$SECONDS
	case $1 in
	smoke) timeout=2700 ;;
	# Debian's kernel has AppArmor on; without its parser what tries it would fail.
	cgroup2 | cgroup2-critest) arguments=(--append apparmor=0) ;;
	systemd*) arguments=(--systemd --append 'apparmor=1 security=apparmor') ;;
	esac
	mkdir -p "$log/$1"
	# A guest that dies is tried once more: that is the emulator's fault, or it dies again.
	for _ in 1 2; do
		code=0
		hack/vm/run.sh "${arguments[@]}" --share "$log/$1" --timeout $timeout \
			"RUN='${RUN:-}' FOCUS='${FOCUS:-}' hack/vm/test.sh inside $1" || code=$?
		[ $code = 125 ] || break
	done
	# What is skipped nobody has run. tests.txt is where to say why.
	if [ -e "$log/$1/e2e.log" ] && grep -A 1 -- '^--- SKIP' "$log/$1/e2e.log"; then
		echo "skipped, and not left out by hack/vm/tests.txt"
		code=1
	fi
	printf '%s in %ds\n' "$([ $code = 0 ] && echo passed || echo FAILED)" $((SECONDS - start))
	return $code
}

# As many guests at a time as there are processors: each has one.
for lane in "$@"; do
	while [ "$(jobs -r | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
	{ run_lane "$lane" && : >"$log/$lane/passed"; } 2>&1 | sed -u "s/^/$lane: /" &
done
wait
failed=()
for lane in "$@"; do [ -e "$log/$lane/passed" ] || failed+=("$lane"); done

printf '\nleft out (hack/vm/tests.txt):\n'
for lane in "$@"; do
	awk -F ' *[|] *' -v lane="$lane" '$1 == lane && $2 == "out" { printf "  %s: %s: %s\n", lane, $3, $4 }
		$1 == lane && $2 == "run" { some = 1 }
		END { if (some) printf "  %s: the end-to-end tests that it does not name\n", lane }' hack/vm/tests.txt
done
skips=$(grep -rA1 -h -- '--- SKIP' "$log" | grep -v '^--$' || true)
[ -z "$skips" ] || printf 'skipped:\n%s\n' "$skips"
if [ ${#failed[@]} -gt 0 ]; then
	for lane in "${failed[@]}"; do
		for file in "$log/$lane"/*.log; do
			{
				grep -E -B12 -- '^ *--- FAIL|^panic:' "$file" | grep -vE '^ *(=== |--- PASS)' || true
				grep -E -A40 -- '^critest: .* (failed|not) ' "$file" || true
			} | sed "s|^|  $lane/${file##*/}: |" | tail -n 80
		done
	done
	printf 'hack/vm/test.sh: FAILED: %s; all of it: %s\n' "${failed[*]}" "$log"
	exit 1
fi
printf 'hack/vm/test.sh: passed: %s\n' "$*"
