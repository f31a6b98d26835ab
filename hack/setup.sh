#!/bin/bash
# Installs what building and testing berth needs and the machine lacks.
# Idempotent; where nothing lacks it takes a few milliseconds.
#
# usage: hack/setup.sh [--quiet] [vm] [vm-arm64] [amd64|arm64]
#   --quiet   nothing to say when nothing lacks
#   vm        for the guests of hack/vm too: the emulator, and what unpacks a kernel and a root
#   vm-arm64  the same for the guest of arm64
#   arm64     (or amd64) the compiler for it, where the machine is another
set -euo pipefail

quiet='' vm='' vm_arm64='' triplet=''
machine=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
for argument in "$@"; do
	case $argument in
	--quiet) quiet=1 ;;
	vm) vm=1 ;;
	vm-arm64) vm_arm64=1 ;;
	"$machine") ;;
	amd64) arch=$argument triplet=x86_64-linux-gnu ;;
	arm64) arch=$argument triplet=aarch64-linux-gnu ;;
	*) sed -n '/^# usage/,/^set/p' "$0" | sed '$d; s/^# \?//' >&2; exit 2 ;;
	esac
done
PATH=$PATH:/usr/local/go/bin:/usr/lib/go/bin

die() { printf '%s\n' "$@" >&2; exit 1; }

command -v go >/dev/null || die \
	"Go is not on PATH nor in /usr/local/go/bin. Install Go 1.26 or newer from https://go.dev/dl/, then run this again."

# Each line: what it is for | the Debian package | a command that succeeds when it is there.
needs() {
	cat <<-'LIST'
		C compiler for the shim and the pod's init|gcc|command -v gcc
		C library to link statically|libc6-dev|test -e "$(gcc -print-file-name=libc.a)"
		make|make|command -v make
		finds libseccomp|pkg-config|command -v pkg-config
		system call filters, static|libseccomp-dev|test -e "$(gcc -print-file-name=libseccomp.a)"
		the local registry of demo and tests|docker-registry|command -v docker-registry
		nft, by which the reference plugins of CNI publish ports|nftables|command -v nft
		the programs in the test images|busybox-static|test -x /bin/busybox && ! head -c 4096 /bin/busybox | grep -qa ld-linux
	LIST
	[ -z "$vm" ] || cat <<-'LIST'
		the emulator|qemu-system-x86|command -v qemu-system-x86_64
		gives directories to guests|qemu-system-common|test -x /usr/lib/qemu/virtiofsd -o -x /usr/libexec/virtiofsd
		lists of a kernel's modules|kmod|command -v depmod || test -x /usr/sbin/depmod
		unpacks modules|xz-utils|command -v xz
		makes a root with systemd, or SELinux|debootstrap|command -v debootstrap || test -x /usr/sbin/debootstrap
	LIST
	[ -z "$vm_arm64" ] || cat <<-'LIST'
		the emulator of arm64|qemu-system-arm|command -v qemu-system-aarch64
		lists of a kernel's modules|kmod|command -v depmod || test -x /usr/sbin/depmod
		unpacks modules|xz-utils|command -v xz
	LIST
	[ -z "$triplet" ] || cat <<-LIST
		C compiler for $arch|gcc-${triplet/_/-}|command -v $triplet-gcc
		C library for $arch, to link statically|libc6-dev-$arch-cross|test -e "\$($triplet-gcc -print-file-name=libc.a)"
	LIST
}

missing=()
reasons=()
while IFS='|' read -r what package probe; do
	if ! bash -c "$probe" >/dev/null 2>&1; then
		missing+=("$package")
		reasons+=("$(printf '  %-16s %s' "$package" "$what")")
	fi
done < <(needs)

if [ ${#missing[@]} -eq 0 ]; then
	[ -n "$quiet" ] || echo "setup: nothing lacks"
	exit 0
fi

echo "setup: this machine lacks, as Debian packages (10 to 60 seconds to install):"
printf '%s\n' "${reasons[@]}"

command -v apt-get >/dev/null || die \
	"This system has no apt, so nothing was installed." \
	"Install what the list names by other means, then run this again. It looks for gcc and make, the static libraries" \
	"libc.a and libseccomp.a, pkg-config, docker-registry and nft on PATH, and a static /bin/busybox."
[ "$(id -u)" = 0 ] || die "Installing needs root. Run:" "  sudo apt-get install -y --no-install-recommends ${missing[*]}"

# Debian starts a service of the registry on port 5000 when it is installed.
# Ours are started by the tests on ports of their own, so it must not stay.
had_registry=$(command -v docker-registry || true)

export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! install >"$log" 2>&1 && ! { apt-get update -q >"$log" 2>&1 && install >>"$log" 2>&1; }; then
	tail -n 20 "$log" >&2
	die "cannot install ${missing[*]}: see apt's words above"
fi

if [ -z "$had_registry" ] && [ -d /run/systemd/system ] && command -v docker-registry >/dev/null; then
	systemctl disable --now docker-registry.service >/dev/null 2>&1 || true
fi
echo "setup: installed ${missing[*]}"
