#!/bin/bash
# Makes the root of the guest that has SELinux, below hack/.cache/vm: Debian's
# packages and policy (fetched and unpacked by debootstrap, once), the module
# container.cil, and the kernel's modules, all labelled, in an image of ext4.
# Labels are attributes of files, which no directory of the machine has. It is
# made anew when this file, the module or the kernel changes.
#
# usage: hack/vm/selinux/root.sh
set -euo pipefail
cd "$(dirname "$0")/../../.."
PATH=$PATH:/usr/sbin:/sbin
cache=$PWD/hack/.cache/vm
image=$cache/selinux.img
tree=$cache/selinux

hack/vm/prepare.sh
exec 9>"$cache/selinux.lock"
flock 9
of=$(cat hack/vm/selinux/{root.sh,container.cil} <(ls "$cache/kernel/lib/modules") | sha256sum)
[ "$(cat "$image.of" 2>/dev/null)" != "$of" ] || exit 0

# What the tests use inside, beside what they bring along.
inside=selinux-policy-default,policycoreutils,selinux-utils,docker-registry,kmod,iproute2,nftables,procps,busybox-static,util-linux,mount

# What debootstrap mounts ends with the namespace.
private() { unshare --mount --propagation private "$@"; }

if [ "$(cat "$tree.packages" 2>/dev/null)" != "$inside" ]; then
	# shellcheck source=/dev/null
	. /etc/os-release
	echo "vm: fetching a root with SELinux ($VERSION_CODENAME; two minutes, once)"
	rm -rf --one-file-system "$tree" "$tree.packages"
	private debootstrap --variant=minbase --include="$inside" "$VERSION_CODENAME" "$tree" >"$tree.log" 2>&1 || {
		tail -n 20 "$tree.log" >&2
		echo "cannot make a root with SELinux: see debootstrap's words above" >&2
		exit 1
	}
	rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
	echo "$inside" >"$tree.packages"
fi

echo "vm: labelling the root"
sed -i 's/^SELINUX=.*/SELINUX=enforcing/' "$tree/etc/selinux/config"
cp hack/vm/selinux/container.cil "$tree/root/"
chroot "$tree" semodule --noreload --store default --install /root/container.cil
rm -rf "$tree/lib/modules"
mkdir -p "$tree/lib/modules" "$tree/share"
cp -a --reflink=auto "$cache/kernel/lib/modules/." "$tree/lib/modules/"
private sh -c "mount -t proc proc '$tree/proc' && chroot '$tree' setfiles -F -q -e /proc /etc/selinux/default/contexts/files/file_contexts /"
rm -f "$image"
truncate -s 6G "$image"
mkfs.ext4 -q -F -E lazy_itable_init=1,lazy_journal_init=1 -d "$tree" "$image"
echo "$of" >"$image.of"
