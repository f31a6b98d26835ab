#!/bin/bash
# Tries labels of SELinux where the policy is enforced, in a guest whose root has
# Debian's policy and the module selinux/container.cil: the tests of hack/e2e
# that are built with the tag selinux, those of the packages that label, and
# the specs of SELinux that critest has on such a host.
#
# usage: hack/vm/selinux.sh     (make test-selinux)
#   RUN   regular expression of the tests of hack/e2e to run; critest is left out
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PATH:/usr/local/go/bin

bin=hack/.cache/vm/bin
packages=(runtime/sys/selinux runtime/pod)
specs=17 # of critest that say SELinux

# In the guest. Layers cannot lie on virtiofs, nor have files there labels, so
# what the tests need is copied over it.
inside() {
	local copy=/root/clone package failed=0
	mkdir -p "$copy/hack/.cache/vm"
	cp -a bin go.mod "$copy/"
	cp -a hack/imports.txt hack/e2e hack/critest "$copy/hack/"
	cp -a hack/.cache/crictl "$copy/hack/.cache/"
	[ -n "${RUN:-}" ] || cp -a hack/.cache/{busybox,critest*} "$copy/hack/.cache/"
	cp -a "$bin" "$copy/hack/.cache/vm/"
	for package in "${packages[@]}"; do mkdir -p "$copy/$package"; done
	chcon -R -t bin_t "$copy"
	chcon -t container_runtime_exec_t "$copy"/bin/{berthd,berth-shim}
	chcon -t container_var_lib_t "$copy/hack/.cache"
	mount --rbind "$copy" "$PWD"
	cd "$PWD"
	export BERTH_BIN=$PWD/bin
	echo 1 >/proc/sys/net/ipv4/ip_forward
	echo 0 >/proc/sys/kernel/printk_ratelimit # refusals are all told

	run hack/e2e e2e-selinux -test.run "${RUN:-^TestSELinux}" || failed=1
	if [ -z "${RUN:-}" ]; then
		for package in "${packages[@]}"; do run "$package" "${package//\//-}" -test.run 'SELinux|Label' || failed=1; done
		FOCUS=SELinux RUNS=$specs hack/.cache/critest-node built || failed=1
	fi
	dmesg | grep -a 'avc:  denied' >/share/denied || true
	# Who may do all is refused nothing; what containers are refused, the tests want.
	if grep scontext=system_u:system_r:container_runtime_t /share/denied; then
		echo "the runtime was refused the above"
		failed=1
	fi
	return $failed
}

run() { # package, program, arguments...
	(cd "$1" && exec "$OLDPWD/$bin/$2.test" -test.v -test.timeout 30m "${@:3}") >"/share/$2.log" 2>&1 && echo "ok      $1" || {
		echo "FAILED  $1"
		return 1
	}
}

if [ "${1:-}" = inside ]; then
	inside
	exit
fi

[ "$(id -u)" = 0 ] || { echo "the guest needs root. Run: sudo make test-selinux" >&2; exit 1; }
hack/setup.sh --quiet vm
hack/vm/selinux/root.sh
log=hack/.cache/vm/log/selinux
mkdir -p "$bin" "$log"
rm -f "$log"/*
CGO_ENABLED=0 go test -c -tags e2e,selinux -o "$bin/e2e-selinux.test" ./hack/e2e
if [ -z "${RUN:-}" ]; then
	for package in "${packages[@]}"; do
		CGO_ENABLED=1 go test -c -tags 'seccomp runc_nocriu netgo osusergo' -o "$bin/${package//\//-}.test" "./$package"
	done
	hack/busybox.sh
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -o hack/.cache/critest-node ./hack/critest
	hack/.cache/critest-node build
fi
code=0
hack/vm/run.sh --image hack/.cache/vm/selinux.img --append 'security=selinux enforcing=1' --share "$log" --timeout 3600 \
	"RUN='${RUN:-}' hack/vm/selinux.sh inside" || code=$?
# A skip there would be a test that nobody has run.
if grep -h -A1 -- '--- SKIP' "$log"/*.log; then
	echo "hack/vm/selinux.sh: the tests above were skipped"
	code=1
fi
if [ $code != 0 ]; then
	for file in "$log"/*.log; do
		grep -E -B12 -- '^ *--- FAIL|^panic:' "$file" | grep -vE '^ *(=== |--- PASS)' | sed "s|^|  ${file##*/}: |" | head -n 80 || true
	done
	echo "make test-selinux: FAILED; all of it: $log"
	exit 1
fi
echo "make test-selinux: passed"
