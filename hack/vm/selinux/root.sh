#!/bin/bash
# Makes the root of the guest that has SELinux, below hack/.cache/vm: Debian's
# packages and policy (prepare.sh), the module container.cil, and the kernel's
# modules, all labelled, in an image of ext4. Labels are attributes of files,
# which no directory of the machine has. It is made anew when this file, the
# module, the list of packages or the kernel changes.
#
# usage: hack/vm/selinux/root.sh
set -euo pipefail
cd "$(dirname "$0")/../../.."
PATH=$PATH:/usr/sbin:/sbin
cache=$PWD/hack/.cache/vm
image=$cache/selinux.img
tree=$cache/selinux

mkdir -p "$cache"
exec 9>"$cache/selinux.lock"
flock 9
hack/vm/prepare.sh selinux
of=$(cat hack/vm/selinux/{root.sh,container.cil} "$tree.packages" <(ls "$cache/kernel/lib/modules") | sha256sum)
[ "$(cat "$image.of" 2>/dev/null)" != "$of" ] || exit 0

echo "vm: labelling the root"
sed -i 's/^SELINUX=.*/SELINUX=enforcing/' "$tree/etc/selinux/config"
cp hack/vm/selinux/container.cil "$tree/root/"
chroot "$tree" semodule --noreload --store default --install /root/container.cil
rm -rf "$tree/lib/modules"
mkdir -p "$tree/lib/modules" "$tree/share"
cp -a --reflink=auto "$cache/kernel/lib/modules/." "$tree/lib/modules/"
unshare --mount --propagation private sh -c "mount -t proc proc '$tree/proc' && chroot '$tree' setfiles -F -q -e /proc /etc/selinux/default/contexts/files/file_contexts /"
rm -f "$image"
truncate -s 6G "$image"
mkfs.ext4 -q -F -E lazy_itable_init=1,lazy_journal_init=1 -d "$tree" "$image"
echo "$of" >"$image.of"
