#!/bin/bash
# Gives node tests, in whatever language, a running berthd of their own: own
# directories, sockets, bridge, subnets and cgroup parent, beside whatever else
# the machine runs. As many as one likes run at the same time.
#
#   eval "$(hack/lab.sh start)"     exports the variables below; fails if it fails
#   crictl pods; berth ps           they find this node by these variables
#   hack/lab.sh stop                ends it with all its pods and images, and says if anything is left
#
# BERTH_LAB                    its directory, by which stop finds it: unset, or other labs' as arguments
# BERTH_SOCKET                 where berth finds the daemon
# CONTAINER_RUNTIME_ENDPOINT, IMAGE_SERVICE_ENDPOINT
#                              unix://..., where crictl does, and critest by its flags
# BERTH_KUBELET_ENDPOINT       unix://..., the endpoint for a kubelet
# BERTH_LAB_REGISTRY           with start -registry: HOST:PORT of an empty registry
#
# start -config FILE adds TOML to the daemon's configuration, start -parent DIR
# says where the directory is made instead of in hack/.cache. The daemon's log is
# berthd.log there. BERTH_BIN may name berth's programs; those of the clone are
# made if they lack. Package hack/lab is the same for tests in Go.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
export PATH=$PATH:/usr/local/go/bin:/usr/lib/go/bin
# What eval gets where nothing was started: it fails too.
trap '[ $? = 0 ] || [ "${1:-}" != start ] || echo false' EXIT

[ "$(id -u)" = 0 ] || { echo "a node needs root. Run: sudo $0 $*" >&2; exit 1; }
mkdir -p "$root/hack/.cache"
exec 9>"$root/hack/.cache/lab.lock"
flock 9 # one at a time builds
"$root/hack/setup.sh" --quiet >&2
if [ -z "${BERTH_BIN:-}" ]; then
	for program in berthd berth-shim berth-init berth; do
		[ -x "$root/bin/$program" ] || { make -C "$root" --no-print-directory bin >&2 && break; }
	done
fi
(cd "$root" && CGO_ENABLED=0 go build -trimpath -buildvcs=false -o hack/.cache/lab ./hack/lab/command)
exec 9>&-
"$root/hack/.cache/lab" "$@"
