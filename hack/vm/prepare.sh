#!/bin/bash
# Makes what a guest boots from, out of Debian's packages, below hack/.cache/vm:
#
#   kernel/    a cgroup v2 kernel with its modules (34 MB fetched, once)
#   systemd/   a root with systemd as process 1, AppArmor and D-Bus
#   selinux/   a root with Debian's policy, of which selinux/root.sh makes an image
#
# A root is fetched and unpacked by debootstrap, once, and only where it is asked
# for. Its list of packages stays beside it, as ROOT.packages.
#
# Nothing of it is installed on the machine but the emulator and the tools that
# hack/setup.sh names. Idempotent.
#
# usage: hack/vm/prepare.sh [systemd|selinux]
set -euo pipefail
cd "$(dirname "$0")/../.."
want=${1:-}
cache=$PWD/hack/.cache/vm
PATH=$PATH:/usr/sbin:/sbin

die() { printf '%s\n' "$@" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "the guest needs root. Run: sudo make test-vm"
[ "$(uname -m)" = x86_64 ] || die "the guest is an x86-64 one; this machine is $(uname -m)."

hack/setup.sh --quiet vm

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 # another run may be fetching the same
work=$(mktemp -d "$cache/new.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT

# A name that apt knows: 6.12 has all that berth looks for; what a release of
# Debian calls its own comes next.
metapackages=(linux-image-6.12-cloud-amd64 linux-image-cloud-amd64)

if [ ! -e "$cache/kernel/vmlinuz" ]; then
	tree=''
	for package in "${metapackages[@]}"; do
		if hack/foreign.sh amd64 "$package"; then
			mv "hack/.cache/foreign/amd64/$package" "$work/package"
			tree=$work/package
			break
		fi
	done
	[ -n "$tree" ] || die "there is no kernel for the guest: see apt's words above, for ${metapackages[*]}"
	mkdir "$work/kernel"
	mv "$tree"/boot/vmlinuz-* "$work/kernel/vmlinuz"
	[ -d "$tree/lib/modules" ] || tree=$tree/usr # Debian 13
	# Unpacked here: under emulation each module would take its time at each boot.
	find "$tree/lib/modules" -name '*.ko.xz' -print0 | xargs -0 -r -n 64 -P "$(nproc)" xz -d
	find "$tree/lib/modules" -name '*.ko.zst' -print0 | xargs -0 -r -n 64 -P "$(nproc)" zstd -q -d --rm
	mkdir "$work/kernel/lib"
	mv "$tree/lib/modules" "$work/kernel/lib/"
	depmod -b "$work/kernel" "$(ls "$work/kernel/lib/modules")"
	mv "$work/kernel" "$cache/kernel"
fi

# What the tests use inside, beside what they bring along.
inside=kmod,iproute2,nftables,procps,busybox-static,util-linux,mount,docker-registry
case $want in
'') exit ;;
systemd) inside=$inside,systemd,systemd-sysv,dbus,apparmor,sudo ;;
selinux) inside=$inside,selinux-policy-default,policycoreutils,selinux-utils ;;
*) die "there is no root called $want: there are systemd and selinux" ;;
esac

# A root with other packages is of an earlier list.
if [ "$(cat "$cache/$want.packages" 2>/dev/null)" != "$inside" ]; then
	# shellcheck source=/dev/null
	. /etc/os-release
	echo "vm: fetching a root with $want ($VERSION_CODENAME; a minute or two, once)"
	# What debootstrap mounts in it ends with the namespace.
	unshare --mount --propagation private debootstrap --variant=minbase --include="$inside" "$VERSION_CODENAME" "$work/root" >"$work/log" 2>&1 || {
		tail -n 20 "$work/log" >&2
		die "cannot make a root with $want: see debootstrap's words above"
	}
	rm -rf "$work/root"/var/cache/apt/archives/*.deb "$work/root"/var/lib/apt/lists/*
	if [ -e "$cache/$want" ]; then mv "$cache/$want" "$work/old"; fi
	mv "$work/root" "$cache/$want"
	echo "$inside" >"$cache/$want.packages"
fi
