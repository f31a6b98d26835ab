#!/bin/bash
# Tries berth on arm64, under emulation: what it says of itself and its units'
# tests by QEMU's translator of single programs, and then the whole of it in an
# arm64 guest, whose kernel and shell are Debian's and whose rest is ours
# (arm64-guest.sh says what is tried). All for arm64 is below hack/.cache; the
# machine stays as it is, but for the emulator, and knows no binfmt.
#
# usage: hack/vm/arm64.sh [units|node|packages]...     default: all; make test-arm64
#
#   units      commands and tests of packages, as translated programs
#   node       a guest with a daemon and pods
#   packages   a guest with the tests of packages that ask the kernel
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin
foreign=$PWD/hack/.cache/foreign/arm64

die() { printf '%s\n' "$@" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "the guest and the packages for it need root. Run: sudo make test-arm64"
[ "$(uname -m)" = x86_64 ] || die "this emulates arm64 on x86-64, and this machine is $(uname -m). Where it is aarch64, make test is the test."

hack/setup.sh --quiet vm-arm64

# ---- single programs -------------------------------------------------------

# Those whose tests need neither namespaces, nor mounts, nor a program that
# executes itself, which this machine's kernel would refuse. Debian 12's
# emulator lacks openat2(2) and what is new of pidfds, so that runtime/sys/inroot
# and runtime/sys/pidfd are not among them.
translated=(
	cmd/berthd cri/admin cri/journal cri/metrics cri/operations cri/stream cri/translate
	imageservice/ahead imageservice/build imageservice/content imageservice/inflate imageservice/manifest imageservice/meta
	imageservice/refs imageservice/registry imageservice/verifier
	runtime/cdi runtime/checkpoint runtime/local runtime/local/manifest runtime/shimrpc runtime/spec runtime/state runtime/steps
	runtime/sys/apparmor runtime/sys/atomicfile runtime/sys/device runtime/sys/errkind runtime/sys/keylock
	volumes/etcfiles volumes/named
)

units() {
	hack/foreign.sh amd64 qemu-user-static
	local emulator program
	emulator=$PWD/hack/.cache/foreign/amd64/qemu-user-static/usr/bin/qemu-aarch64-static
	for program in 'berth --help' 'berth-shim -check' 'berthd version' 'berthd config default' 'berthd steps'; do
		# shellcheck disable=SC2086 # the words of a command line
		"$emulator" bin/arm64/$program >/dev/null || die "bin/arm64/$program failed"
		printf 'ok      %s\n' "$program"
	done
	GOARCH=arm64 CGO_ENABLED=0 go test -tags nri_no_wasm -exec "$emulator" "${translated[@]/#/./}"
}

# ---- the guest -------------------------------------------------------------

# An image for two platforms, of which the guest must take the right one: an
# OCI layout with busybox of either, as a tar.
image() { # file
	local work=$run/image entries='' arch variant manifest
	mkdir -p "$work/blobs/sha256"
	printf '{"imageLayoutVersion":"1.0.0"}' >"$work/oci-layout"
	for arch in amd64 arm64; do
		rm -rf "$run/layer"
		mkdir -p "$run/layer"/{bin,tmp,www}
		cp "$(busybox_for $arch)" "$run/layer/bin/busybox"
		for applet in sh cat echo sleep true uname id hostname httpd unshare ps nslookup wget; do ln -s busybox "$run/layer/bin/$applet"; done
		echo "served on $arch" >"$run/layer/www/index.html"
		tar -C "$run/layer" --sort=name --mtime=@0 -cf "$run/layer.tar" .
		printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
			$arch "$(sha256sum "$run/layer.tar" | cut -d ' ' -f 1)" >"$run/config"
		printf '{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s]}' application/vnd.oci.image.manifest.v1+json \
			"$(blob application/vnd.oci.image.config.v1+json "$run/config")" \
			"$(blob application/vnd.oci.image.layer.v1.tar "$run/layer.tar")" >"$run/manifest"
		manifest=$(blob application/vnd.oci.image.manifest.v1+json "$run/manifest")
		variant=''
		[ $arch != arm64 ] || variant=',"variant":"v8"'
		entries="$entries${entries:+,}${manifest%\}},\"platform\":{\"os\":\"linux\",\"architecture\":\"$arch\"$variant}}"
	done
	printf '{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}' application/vnd.oci.image.index.v1+json "$entries" >"$run/index"
	manifest=$(blob application/vnd.oci.image.index.v1+json "$run/index")
	printf '{"schemaVersion":2,"manifests":[%s,"annotations":{"io.containerd.image.name":"docker.io/library/box:latest"}}]}' "${manifest%\}}" >"$work/index.json"
	tar -C "$work" -cf "$1" .
}
busybox_for() { # architecture
	hack/foreign.sh "$1" busybox-static >&2
	echo "hack/.cache/foreign/$1/busybox-static/bin/busybox"
}
blob() { # media type, file: puts it into the layout and prints its descriptor
	local digest
	digest=$(sha256sum "$2" | cut -d ' ' -f 1)
	cp "$2" "$run/image/blobs/sha256/$digest"
	printf '{"mediaType":"%s","digest":"sha256:%s","size":%d}' "$1" "$digest" "$(stat -c %s "$2")"
}

# Packages whose tests the guest runs: what asks the kernel, by numbers, flags
# and structs that are others on arm64.
kernel_packages=(
	runtime/sys/cgroup runtime/sys/idmap runtime/sys/inroot runtime/sys/mount runtime/sys/pidfd runtime/sys/selinux runtime/sys/tartree
	runtime/network/bridge runtime/network/hostcheck runtime/network/modes runtime/network/named runtime/network/netns runtime/network/portmap
	imageservice/inventory imageservice/snapshot imageservice/unpack
	runtime/crilog runtime/doctor runtime/shim runtime/stats volumes volumes/shm
)

# Modules that berth, or the kernel for it, asks for, but for those of nftables.
modules=(overlay veth bridge br_netfilter dummy iptable_filter ip6table_filter inet_diag tcp_diag udp_diag unix_diag)

# The guest's first file system, from which it makes its root.
pack() { # file
	local root=$run/root kernel=$foreign/$kernel module file
	mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,usr/local/bin,etc,proc,sys,dev,run,tmp,var/lib,root,new}
	cp "$foreign/busybox-static/bin/busybox" "$root/bin/"
	cp bin/arm64/berth* "$root/usr/local/bin/"
	cp hack/vm/arm64-guest.sh "$root/init"
	printf 'root:x:0:0::/root:/bin/sh\n' >"$root/etc/passwd"
	printf 'root:x:0:\n' >"$root/etc/group"
	printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
	: >"$root/etc/resolv.conf"
	# Unpacked here, where it is faster.
	[ -e "$kernel/lib/modules/$release/modules.dep" ] || depmod -b "$kernel" "$release"
	mapfile -t -O ${#modules[@]} modules < <(find "$kernel/lib/modules/$release/kernel/net" -name 'nf[t_]*.ko.xz' -printf '%f\n' | sed 's/\.ko\.xz$//')
	for module in "${modules[@]}"; do modprobe -d "$kernel" -S "$release" --show-depends "$module"; done |
		awk '$1 == "insmod" { print $2 }' | sort -u | while read -r module; do
		file=$root/${module#"$kernel"/}
		mkdir -p "${file%/*}"
		xz -dc "$module" >"${file%.xz}"
	done
	cp "$kernel/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} "$root/lib/modules/$release/"
	depmod -b "$root" "$release"
	(cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null) >"$1"
}

programs() { # directory: the tests of the packages
	local package
	for package in "${kernel_packages[@]}"; do
		mkdir -p "$1/$package"
		if [ "$package" = runtime/shim ]; then
			make --no-print-directory ARCH=arm64 shim-test OUT="$1/$package/test"
		else
			GOARCH=arm64 CGO_ENABLED=0 go test -c -tags nri_no_wasm -ldflags '-s -w' -o "$1/$package/test" "./$package"
		fi
		[ ! -d "$package/testdata" ] || cp -a "$package/testdata" "$1/$package/"
	done
}

. hack/vm/boot.sh
boot() {
	rm -f "$run/said"
	# -icount: time there is what it has computed and slept, whatever else this machine does, so that no deadline passes too soon.
	timeout --foreground -k 5 2400 qemu-system-aarch64 -accel tcg,thread=single,tb-size=512 -icount shift=0,sleep=off -M virt -cpu cortex-a76 -m 3072 -smp 1 \
		-nodefaults -no-user-config -no-reboot -display none -chardev "file,id=console,path=$run/console.log" -serial chardev:console \
		-device virtio-serial-pci \
		-chardev stdio,id=output,signal=off -device virtconsole,chardev=output \
		-chardev "file,id=said,path=$run/said" -device virtconsole,chardev=said \
		-kernel "$foreign/$kernel/boot/vmlinuz-$release" -initrd "$run/initrd" \
		-append 'console=ttyAMA0 loglevel=4 panic=-1 mitigations=off nokaslr cryptomgr.notests' </dev/null
}
said() { tr -d '\r' <"$run/said" 2>/dev/null | grep -x "$1"; }
started() { said started >/dev/null; }
status() { said '[0-9]*'; }

node() {
	start
	image "$run/root/box.tar"
	pack "$run/initrd"
	guest
}
packages() {
	start
	programs "$run/root/tests"
	pack "$run/initrd"
	guest
}
start() {
	kernel=linux-image-6.12-cloud-arm64
	hack/foreign.sh arm64 "$kernel" busybox-static
	release=$(ls "$foreign/$kernel/lib/modules")
	[ -z "${run:-}" ] || rm -rf "$run"
	run=$(mktemp -d /tmp/berth-arm64.XXXXXX)
	trap 'rm -rf "$run"' EXIT
	mkdir "$run/root"
}

# ----------------------------------------------------------------------------

[ $# -gt 0 ] || set -- units node packages
for part; do
	case $part in
	units | node | packages) ;;
	*) die "there is no part called $part: there are units, node and packages." ;;
	esac
	printf '\n=== %s\n' "$part"
	"$part"
done
printf '\nmake test-arm64: passed: %s\n' "$*"
