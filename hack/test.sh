#!/bin/bash
# Runs the lanes of `make test` one after the other, all of them even if one
# fails, and names at the end what failed. Each lane's output stays in
# hack/.cache/test. Two things go on beside other lanes, which wait for much of
# their time: Kubernetes is built, and the guest, which has one processor, runs.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin:/usr/lib/go/bin

[ "$(id -u)" = 0 ] || { echo "make test needs root for most of its lanes. Run: sudo make test (or, without root: make test-unit)" >&2; exit 1; }

cat <<'TEXT'
berth's tests, in lanes: lint; unit; root (the real kernel, with the race detector); e2e (built binaries and crictl);
critest (kubernetes' specs of CRI); kubelet (a handful of tests in a cluster of one node); guest (with cgroup v2 only,
under QEMU).

  needs     Linux 5.15 or newer, root, Go 1.26, gcc, make; Debian or a descendant for what lacks
  installs  Debian packages that lack (libseccomp-dev, pkg-config, docker-registry, nftables, busybox-static, dpkg-dev,
            QEMU and what makes a guest)
  unpacks   podman, containerd, tmux and etcd-server, where they lack, to hack/.cache of this clone
  writes    hack/.cache, /tmp while a test runs, Go's own caches (3 GB more for Kubernetes); no test uses the internet

TEXT
hack/setup.sh --quiet || exit 1

logs=hack/.cache/test
mkdir -p "$logs"
begin=$SECONDS
lanes=()
failed=()
times=()

# What runs beside has a session of its own, so that it ends with what it has
# started. If this fails, the lane that needs it tries again and says why. busybox
# is first: what it installs must be there before the guest installs more.
setsid nice -n 19 bash -c 'hack/busybox.sh; exec hack/kube/build.sh' </dev/null >"$logs/kubernetes.log" 2>&1 &
kubernetes=$!
guest=
trap 'for session in $kubernetes $guest; do kill -- "-$session" 2>/dev/null; done' EXIT
trap 'exit 130' INT TERM

ended() { # name, verdict, seconds
	[ "$2" = passed ] || failed+=("$1")
	times+=("$1 $2 in $3s")
	printf '=== %s\n' "${times[-1]}"
}

lane() { # name, make target
	local start=$SECONDS log=$logs/$1.log verdict=passed
	lanes+=("$1")
	printf '\n=== %s: make %s\n' "$1" "$2"
	# Verbose into the log, so that a skip is never hidden; short on the screen.
	if ! make --no-print-directory "$2" TESTFLAGS=-v </dev/null 2>&1 | tee "$log" |
		{ grep --line-buffered -vE '^ *(=== |--- PASS)|^    |^PASS$|^[IWE][0-9]{4} |\[no test files\]' || true; }; then
		verdict=FAILED
	fi
	ended "$1" "$verdict" $((SECONDS - start))
}

# It is as long beside the next lanes as they take, and is then waited for.
begin_guest() {
	lanes+=(guest)
	printf '\n=== guest: make vm-smoke, beside the next lanes\n'
	rm -f "$logs/guest.end"
	setsid bash -c 'start=$SECONDS; make --no-print-directory vm-smoke; echo $? $((SECONDS - start)) >"$0"' "$logs/guest.end" \
		</dev/null >"$logs/guest.log" 2>&1 &
	guest=$!
}

end_guest() {
	local code=1 seconds=0 verdict=passed
	printf '\n=== guest: what it has printed\n'
	wait "$guest"
	guest=
	read -r code seconds <"$logs/guest.end"
	cat "$logs/guest.log"
	[ "$code" = 0 ] || verdict=FAILED
	ended guest $verdict "$seconds"
}

lane lint lint
lane unit test-unit
lane root test-root
lane e2e test-e2e
begin_guest
lane critest critest
start=$SECONDS
wait "$kubernetes"
kubernetes=
[ $((SECONDS - start)) -lt 5 ] || printf '\n=== waited %ds until Kubernetes was built\n' $((SECONDS - start))
lane kubelet kubelet-smoke
end_guest

printf '\n'
skips=$(cd "$logs" && grep -h -A1 -- '--- SKIP' root.log e2e.log kubelet.log | grep -v '^--$')
[ -z "$skips" ] || printf 'skipped:\n%s\n' "$skips"
for name in "${failed[@]}"; do
	printf 'FAILED %s:\n' "$name"
	{
		grep -E -A30 -- 'WARNING: DATA RACE|^panic:|^fatal error:' "$logs/$name.log" | head -n 70
		grep -E -B10 -- '^ *--- FAIL' "$logs/$name.log"
	} | grep -vE '^ *(=== |--- PASS)' | head -n 120 | sed 's/^/  | /'
	grep -E -- '^ *--- FAIL|^FAIL[[:space:]]|^not gofmt|\.go:[0-9]+:[0-9]+: ' "$logs/$name.log" | sort -u | head -n 60 | sed 's/^/  /'
	tail -n 15 "$logs/$name.log" | sed 's/^/  | /'
	printf '  all of it: %s\n' "$logs/$name.log"
done
printf '%s\n' "${times[@]}"
printf 'make test: %d of %d lanes passed in %ds\n' $((${#lanes[@]} - ${#failed[@]})) ${#lanes[@]} $((SECONDS - begin))
[ ${#failed[@]} -eq 0 ]
