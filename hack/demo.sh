#!/bin/bash
# From a clone to a running pod, as a story. Everything it makes lies in
# hack/.cache of this clone and in the kernel under one random name, and is
# gone at the end; it runs beside docker, containerd or a kubelet.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/go/bin:/usr/lib/go/bin

cat <<'TEXT'
berth's demo: from a clone to a running pod that outlives its daemon.

  needs     Linux 5.15 or newer, root, Go 1.26, gcc, make; Debian or a descendant for what lacks
  installs  Debian packages that lack (libseccomp-dev, pkg-config, docker-registry, busybox-static);
            Go modules and build results go to Go's own caches; nothing else outlives the demo
  takes     about 1 minute on two cores the first time (it builds libcontainer and gRPC), 5 seconds after that

TEXT

if [ "$(id -u)" != 0 ]; then
	echo "Containers need root. Run: sudo make demo" >&2
	exit 1
fi
begin=$SECONDS
hack/setup.sh
make --no-print-directory bin
mkdir -p hack/.cache
CGO_ENABLED=0 go build -trimpath -buildvcs=false -o hack/.cache/demo ./hack/demo
echo "built in $((SECONDS - begin))s"
echo
exec hack/.cache/demo
