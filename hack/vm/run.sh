#!/bin/bash
# Runs a command in a guest: a Linux with cgroup v2 only, under QEMU without
# hardware's help. It boots in some ten seconds, and computes some ten times
# slower than the machine: for what is right, never for what is fast.
#
# The guest's root is the machine's own, or with --systemd a Debian with
# systemd as process 1, or with --image what is in a file. This clone lies where
# it lies here. The guest may write
# everywhere; the machine sees nothing of it but /share, its directory --share.
# Output comes as it is written, and the command's exit status comes back; 125
# means that the guest gave none. A boot that dies is tried again.
#
# usage: hack/vm/run.sh [--systemd | --image FILE] [--append ARGUMENTS] [--memory MIB] [--cpus N]
#                       [--timeout SECONDS] [--share DIRECTORY] [--net FORWARD] COMMAND
#
#   --append   more arguments for the kernel, "security=selinux" for one
#   --net      a network card: 10.0.2.2 is the machine's 127.0.0.1 there, and what
#              comes to FORWARD here goes to the guest ("tcp:127.0.0.1:80-10.0.2.15:80")
set -euo pipefail
cd "$(dirname "$0")/../.."
source=$PWD
cache=$source/hack/.cache/vm

systemd='' image='' append='' memory=4096 cpus=1 timeout=1800 share= net=
while [ $# -gt 1 ]; do
	case $1 in
	--systemd) systemd=1 ;;
	--image) image=$(realpath "$2"); shift ;;
	--append) append=$2; shift ;;
	--memory) memory=$2; shift ;;
	--cpus) cpus=$2; shift ;;
	--timeout) timeout=$2; shift ;;
	--share) share=$(realpath "$2"); shift ;;
	--net) net=$2; shift ;;
	*) break ;;
	esac
	shift
done
[ $# = 1 ] || { sed -n '/^# usage/,/^set/p' "$0" | sed '$d; s/^# \?//' >&2; exit 2; }

# The views below are mounts, which nobody else is to see.
if [ -z "${VM_UNSHARED:-}" ]; then
	hack/vm/prepare.sh ${systemd:+systemd}
	VM_UNSHARED=1 exec unshare --mount --propagation private hack/vm/run.sh ${systemd:+--systemd} ${image:+--image "$image"} --append "$append" --memory "$memory" \
		--cpus "$cpus" --timeout "$timeout" ${share:+--share "$share"} ${net:+--net "$net"} "$1"
fi

run=$(mktemp -d /tmp/berth-vm.XXXXXX)
daemons=()
end() {
	for pid in "${daemons[@]}"; do kill "$pid" 2>/dev/null || true; done
	umount -l "$run/root" "$run/source" 2>/dev/null || true
	rm -rf --one-file-system "$run"
}
trap end EXIT
mkdir "$run"/{root,source,share}
share=${share:-$run/share}

# Read-only whatever the guest does.
mount --bind / "$run/root"
mount -o remount,bind,ro "$run/root"
mount --bind "$source" "$run/source"
mount -o remount,bind,ro "$run/source"

virtiofsd=/usr/lib/qemu/virtiofsd # Debian 12
[ -x "$virtiofsd" ] || virtiofsd=/usr/libexec/virtiofsd

devices=()
serve() { # name, directory, cache
	"$virtiofsd" --socket-path="$run/$1.sock" -o "source=$2,sandbox=chroot,cache=$3,xattr" --rlimit-nofile=0 --thread-pool-size=4 >"$run/$1.log" 2>&1 &
	daemons+=($!)
	for _ in $(seq 500); do
		[ ! -S "$run/$1.sock" ] || break
		sleep 0.02
	done
	[ -S "$run/$1.sock" ] || { cat "$run/$1.log" >&2; exit 125; }
	devices+=(-chardev "socket,id=$1,path=$run/$1.sock" -device "vhost-user-fs-pci,chardev=$1,tag=$1")
}

boot() {
	rm -f "$share/status" "$share/started"
	devices=()
	for pid in "${daemons[@]}"; do kill "$pid" 2>/dev/null || true; done
	daemons=()
	rm -f "$run"/*.sock
	serve root "$run/root" always
	serve source "$run/source" always
	serve share "$share" none
	[ -z "$net" ] || devices+=(-netdev "user,id=net,hostfwd=$net" -device virtio-net-pci,netdev=net,romfile=)
	local root="root=root rootfstype=virtiofs ro"
	if [ -n "$image" ]; then
		# What the guest writes goes with the emulator.
		devices+=(-drive "file=$image,format=raw,if=none,id=image,snapshot=on" -device nvme,drive=image,serial=image)
		root="root=/dev/nvme0n1 rootfstype=ext4 rootwait rw VM_IMAGE=1"
	fi
	# panic=-1 with -no-reboot: a guest that dies ends the emulator.
	local arguments="console=ttyS0 loglevel=4 panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check cryptomgr.notests
		$root systemd.show_status=0 $append VM_SOURCE=$source ${systemd:+VM_SYSTEMD=1}
		init=/bin/sh -- -c \"mount -t virtiofs source /mnt && exec /bin/sh /mnt/hack/vm/guest.sh\""
	timeout --foreground -k 5 "$timeout" qemu-system-x86_64 -accel tcg,thread=multi,tb-size=1024 -cpu max,-la57 -M q35 -m "$memory" -smp "$cpus" \
		-nodefaults -no-user-config -no-reboot -display none \
		-object "memory-backend-memfd,id=memory,size=${memory}M,share=on" -numa node,memdev=memory \
		-chardev "file,id=console,path=$run/console.log" -serial chardev:console \
		-device virtio-serial-pci -chardev stdio,id=output,signal=off -device virtconsole,chardev=output \
		-device virtio-rng-pci "${devices[@]}" \
		-kernel "$cache/kernel/vmlinuz" -append "${arguments//[$'\n\t']/ }" </dev/null
}

printf '%s\n' "$1" >"$share/command"
. hack/vm/boot.sh
started() { [ -e "$share/started" ]; }
status() { [ -s "$share/status" ] && cat "$share/status"; }
guest
