#!/bin/bash
# Runs kubernetes' CRI specs (critest, pinned by hack/tools) against a node of
# its own, with images from a local registry.
#
# All 122 specs run, one after the other and then four at a time, with SPDY where
# there are streams; then those of streaming once for each of exec, attach and
# port-forward over WebSocket, and those of networking with pods on networks of
# CNI. One that fails, or is skipped without hack/critest/allowed.txt naming it
# with the reason, fails the run.
#
#   FOCUS   regular expression of the specs to run   (default: all)
#   SKIP    regular expression of the specs to leave out
#   NETWORK embedded, cni or cni-without-portmap: the pods' network; of the last
#           two, without FOCUS, the specs of networking only
#   PASS    without FOCUS, the only one to run: specs (one after the other),
#           parallel, websocket-exec, -attach or -portforward, networking-cni or
#           networking-cni-without-portmap
#   RUNS    with one of those, how many specs must run and pass
#   FLAGS   more of critest's flags, with one of those, such as -websocket-exec
#           or -parallel 8
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin

[ "$(id -u)" = 0 ] || { echo "critest needs root. Run: sudo make critest" >&2; exit 1; }
hack/setup.sh --quiet
hack/busybox.sh
mkdir -p hack/.cache
CGO_ENABLED=0 go build -trimpath -buildvcs=false -o hack/.cache/critest-node ./hack/critest
exec hack/.cache/critest-node
