#!/bin/bash
# Makes what a guest boots from, out of Debian's packages, below hack/.cache/vm:
#
#   kernel/    a cgroup v2 kernel with its modules (34 MB fetched, once)
#   systemd/   a root with systemd as process 1, AppArmor and D-Bus (fetched
#              and unpacked by debootstrap, once); only where it is asked for
#
# Nothing of it is installed on the machine but the emulator and the tools that
# hack/setup.sh names. Idempotent.
#
# usage: hack/vm/prepare.sh [systemd]
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
	find_package() {
		for meta in "${metapackages[@]}"; do
			package=$(apt-cache depends "$meta" 2>/dev/null | awk '/Depends: linux-image/ { print $2; exit }')
			[ -z "$package" ] || return 0
		done
		return 1
	}
	find_package || { apt-get update -q >/dev/null && find_package; } || true
	[ -n "$package" ] || die "apt knows none of: ${metapackages[*]}. Is its list of packages there? (apt-get update)"
	echo "vm: fetching $package"
	(cd "$work" && apt-get -q -o APT::Sandbox::User=root download "$package" >/dev/null && dpkg-deb -x linux-image-*.deb .)
	mkdir "$work/kernel"
	mv "$work"/boot/vmlinuz-* "$work/kernel/vmlinuz"
	tree=$work
	[ -d "$work/lib/modules" ] || tree=$work/usr # Debian 13
	# Unpacked here: under emulation each module would take its time at each boot.
	find "$tree/lib/modules" -name '*.ko.xz' -print0 | xargs -0 -r -n 64 -P "$(nproc)" xz -d
	find "$tree/lib/modules" -name '*.ko.zst' -print0 | xargs -0 -r -n 64 -P "$(nproc)" zstd -q -d --rm
	mkdir "$work/kernel/lib"
	mv "$tree/lib/modules" "$work/kernel/lib/"
	depmod -b "$work/kernel" "$(ls "$work/kernel/lib/modules")"
	mv "$work/kernel" "$cache/kernel"
fi

# What the tests use inside, beside what they bring along. A root with other
# packages is of an earlier list.
inside=systemd,systemd-sysv,dbus,kmod,apparmor,iproute2,nftables,procps,busybox-static,util-linux,mount,docker-registry,sudo

if [ "$want" = systemd ] && [ "$(cat "$cache/systemd.packages" 2>/dev/null)" != "$inside" ]; then
	# shellcheck source=/dev/null
	. /etc/os-release
	echo "vm: fetching a root with systemd ($VERSION_CODENAME; a minute or two, once)"
	# What debootstrap mounts in it ends with the namespace.
	unshare --mount --propagation private debootstrap --variant=minbase --include="$inside" "$VERSION_CODENAME" "$work/systemd" >"$work/log" 2>&1 || {
		tail -n 20 "$work/log" >&2
		die "cannot make a root with systemd: see debootstrap's words above"
	}
	rm -rf "$work/systemd"/var/cache/apt/archives/*.deb "$work/systemd"/var/lib/apt/lists/*
	if [ -e "$cache/systemd" ]; then mv "$cache/systemd" "$work/old"; fi
	mv "$work/systemd" "$cache/systemd"
	echo "$inside" >"$cache/systemd.packages"
fi
