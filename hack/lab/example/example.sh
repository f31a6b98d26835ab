#!/bin/bash
# Node tests in a script: two nodes beside each other, each with an image and a
# pod, and at the end nothing of them. Needs root, busybox-static, and crictl,
# which `make crictl` builds.
set -euo pipefail
hack=$(cd "$(dirname "$0")/../.." && pwd)
PATH=$hack/../bin:$hack/.cache:$PATH

fail() { echo "example: $*" >&2; exit 1; }
export CONTAINER_RUNTIME_ENDPOINT IMAGE_SERVICE_ENDPOINT

work=$(mktemp -d)
labs=()
finish() {
	[ ${#labs[@]} = 0 ] || "$hack/lab.sh" stop "${labs[@]}"
	rm -rf "$work"
}
trap finish EXIT

cp /bin/busybox "$work/busybox"
printf 'FROM scratch\nCOPY busybox /bin/busybox\nENV PATH=/bin\n' >"$work/Dockerfile"
cat >"$work/pod.json" <<'JSON'
{"metadata": {"name": "mine", "uid": "mine", "namespace": "example"}, "linux": {}}
JSON
cat >"$work/container.json" <<'JSON'
{"metadata": {"name": "main"}, "image": {"image": "example.org/busybox:1"}, "command": ["busybox", "sleep", "1000"], "linux": {}}
JSON

for _ in first second; do
	eval "$("$hack/lab.sh" start)"
	labs+=("$BERTH_LAB")
	berth build -q -t example.org/busybox:1 "$work" >/dev/null
	container=$(crictl --config /dev/null run --no-pull "$work/container.json" "$work/pod.json")
	[ "$(crictl --config /dev/null exec "$container" busybox echo hello)" = hello ] || fail "exec said something else than hello"
	[ "$(crictl --config /dev/null pods -q | wc -l)" = 1 ] || fail "there are other pods than the node's own"
done
"$hack/lab.sh" stop "${labs[@]}"
for lab in "${labs[@]}"; do
	[ ! -e "$lab" ] || fail "$lab is left"
	! grep -q "${lab##*/}" /proc/mounts /proc/net/dev || fail "of $lab something is left"
done
labs=()
echo "example: two nodes ran, and nothing of them is left"
