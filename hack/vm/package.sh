#!/bin/bash
# Tries the Debian package where systemd is process 1: install, restart and hang
# of the daemon, upgrade with a container that runs, remove, purge; and looks at
# what each leaves.
#
# usage: hack/vm/package.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PATH:/usr/local/go/bin

# What one step after the other holds; in the guest.
inside() {
	holds() { # words, command...
		local what=$1
		shift
		if ! "$@" >/tmp/said 2>&1; then
			printf 'FAILED  %s: %s\n' "$what" "$*"
			cat /tmp/said
			journalctl -u berthd -n 40 --no-pager 2>/dev/null || true
			exit 1
		fi
		printf 'ok      %s\n' "$what"
	}
	soon() { # command...; within two minutes, since all takes its time here
		local _
		for _ in $(seq 240); do
			if "$@"; then return 0; fi
			sleep 0.5
		done
		return 1
	}
	value() { systemctl show -P "$1" berthd.service; }
	restarted() { [ "$(value NRestarts)" != 0 ] && [ "$(value ActiveState)" = active ]; }
	alive() { [ -d "/proc/$container" ]; }
	gone() { ! [ -d "/proc/$container" ]; }
	own_unit() { grep -q "berth-shim-node-$shim.scope" "/proc/$shim/cgroup"; }
	same_shim() { pgrep -x berth-shim | grep -qx "$shim"; }
	version() { berth version | grep -q "^Daemon:.*$1" && berthd version | grep -qx "$1"; }
	nothing_left() {
		local left
		left=$(
			grep -v ' /var/lib/berth tmpfs ' /proc/mounts | grep berth
			pgrep -a '^berth' | grep -v package.sh
			ip -o link show | grep -w berth0
			nft list tables | grep berth
			find /sys/fs/cgroup -type d -name '*berth*'
			systemctl list-units --all --plain --no-legend '*berth*'
			ls -d /run/berth /usr/bin/berth* /usr/lib/systemd/system/berth* 2>/dev/null
		) || true
		[ -z "$left" ] || { echo "$left"; return 1; }
	}

	# Overlays cannot be written to the guest's root, which is one.
	mkdir -p /var/lib/berth
	mount -t tmpfs berth /var/lib/berth
	archive

	holds 'install' dpkg -i /share/old.deb
	holds 'it starts, and says when it is ready' systemctl is-active berthd.service
	holds 'it is the packaged one' version 0.1.0
	holds 'man page' test -s /usr/share/man/man1/berth-run.1.gz
	berth doctor || true
	holds 'load an image' berth load -i /tmp/box.tar
	holds 'run a container' berth run -d --name web box sleep 100000
	container=$(berth inspect web --format '{{(index . 0).info.info.pid}}' 2>/dev/null || true)
	[ -n "$container" ] || container=$(pgrep -f '^sleep 100000')
	shim=$(pgrep -x berth-shim)
	holds 'the shim has a unit of its own' own_unit

	holds 'restart' systemctl restart berthd.service
	holds 'the container did not notice' alive
	holds 'nor did the shim' same_shim

	mkdir -p /etc/systemd/system/berthd.service.d
	printf '[Service]\nWatchdogSec=30s\n' >/etc/systemd/system/berthd.service.d/watchdog.conf
	systemctl daemon-reload
	systemctl restart berthd.service
	kill -STOP "$(value MainPID)"
	holds 'a daemon that hangs is started anew' soon restarted
	holds 'the container did not notice' alive
	rm -r /etc/systemd/system/berthd.service.d
	systemctl daemon-reload

	holds 'upgrade' dpkg -i /share/new.deb
	holds 'the new one runs' soon version 0.1.1
	holds 'the container did not notice' alive
	holds 'exec by the new one' berth exec web true

	holds 'remove' dpkg -r berth
	holds 'the container has ended' soon gone
	holds 'nothing is left in the kernel' nothing_left
	holds 'images are there still' test -e /var/lib/berth/images
	holds 'and the configuration' test -e /etc/berth/config.toml
	holds 'purge' dpkg -P berth
	holds 'nothing is left on the disk' test -z "$(ls -A /var/lib/berth; ls -d /etc/berth 2>/dev/null)"
}

# archive makes /tmp/box.tar, an image of busybox in docker's form.
archive() {
	local work=/tmp/box layer
	mkdir -p $work/root/bin
	cp "$(command -v busybox)" $work/root/bin/
	for applet in sh sleep true; do ln -s busybox "$work/root/bin/$applet"; done
	tar -C $work/root -cf $work/layer.tar .
	layer=$(sha256sum <$work/layer.tar | cut -d' ' -f1)
	printf '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$layer" >$work/config.json
	printf '[{"Config":"config.json","RepoTags":["box:latest"],"Layers":["layer.tar"]}]' >$work/manifest.json
	tar -C $work -cf /tmp/box.tar manifest.json config.json layer.tar
}

if [ "${1:-}" = inside ]; then
	inside
	exit
fi

[ "$(id -u)" = 0 ] || { echo "the guest needs root. Run: sudo hack/vm/package.sh" >&2; exit 1; }
share=$(mktemp -d /tmp/berth-package.XXXXXX)
trap 'rm -rf "$share"' EXIT
for version in 0.1.1 0.1.0; do # bin keeps what it had
	make --no-print-directory package VERSION=$version >/dev/null
	cp "hack/.cache/berth_${version}_amd64.deb" "$share/$([ $version = 0.1.0 ] && echo old || echo new).deb"
done
hack/vm/run.sh --systemd --append 'apparmor=1 security=apparmor' --share "$share" --timeout 2400 'hack/vm/package.sh inside'
echo 'package.sh: the package held'
