#!/bin/bash
# Builds the programs of a Kubernetes node to hack/.cache/kube: kubelet first,
# then what a cluster of one node needs, and kubeadm. Pinned by hack/tools/kube;
# what is there already for this pin is left alone. Cold it takes about 14 minutes
# of CPU time.
#
# usage: hack/kube/build.sh [PROGRAM...]     (default: all)
set -euo pipefail
cd "$(dirname "$0")/../tools/kube"
export PATH=$PATH:/usr/local/go/bin
out=../../.cache/kube

version=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' go.mod)
minor=${version#v1.}
minor=${minor%%.*}
pkg=k8s.io/component-base/version
ldflags="-s -w -X $pkg.gitVersion=$version -X $pkg.gitMajor=1 -X $pkg.gitMinor=$minor -X $pkg.gitTreeState=clean"

# The pin says what is built: another pin is another set of programs.
stamp=$(cat go.mod go.sum | sha256sum | cut -c1-16)-$(go env GOVERSION)
mkdir -p "$out"
programs=("$@")
[ ${#programs[@]} -gt 0 ] || programs=(kubelet kube-apiserver kube-scheduler kube-controller-manager kubectl kubeadm agnhost etcd)
for program in "${programs[@]}"; do
	[ "$(cat "$out/$program.of" 2>/dev/null || true)" != "$stamp" ] || [ ! -x "$out/$program" ] || continue
	case $program in
	agnhost) package=k8s.io/kubernetes/test/images/agnhost ;;
	etcd) package=go.etcd.io/etcd/server/v3 ;;
	*) package=k8s.io/kubernetes/cmd/$program ;;
	esac
	echo "kube: building $program"
	rm -f "$out/$program.of"
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "$ldflags" -o "$out/$program" "$package"
	echo "$stamp" >"$out/$program.of"
done
