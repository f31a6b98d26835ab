#!/bin/bash
# Tries the Debian package where systemd is process 1: install, restart and hang
# of the daemon, upgrade with a container that runs, remove, purge; and looks at
# what each leaves.
#
# usage: hack/vm/package.sh     (make test-package)
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PATH:/usr/local/go/bin

. hack/vm/holds.sh
restarted() { [ "$(value NRestarts)" != 0 ] && [ "$(value ActiveState)" = active ]; }
barked() { journalctl -q -u berthd -g 'Watchdog timeout'; }
alive() { [ -d "/proc/$container" ]; }
gone() { ! alive; }
own_unit() { grep -q "berth-shim-node-$shim.scope" "/proc/$shim/cgroup"; }
same_shim() { shims | grep -qx "$shim"; }
version() { berth version | grep -q "^Daemon:.*$1" && berthd version | grep -qx "$1"; }
mounts() { cut -d ' ' -f 2,3 /proc/mounts | sort; }
tables() { nft list tables | sort; }
nothing_left() {
	local left
	left=$(
		mounts | diff /tmp/mounts - | sed -n 's/^> /mount /p'
		tables | diff /tmp/tables - | sed -n 's/^> //p'
		ip -o link show | grep veth
		traces
	) || true
	[ -z "$left" ] || { echo "$left"; return 1; }
}

inside() {
	# Overlays cannot be written to the guest's root, which is one.
	mkdir -p /var/lib/berth
	mount -t tmpfs berth /var/lib/berth
	box
	mounts >/tmp/mounts
	tables >/tmp/tables

	holds 'install' dpkg -i /share/old.deb
	holds 'it runs, and has said that it is ready' systemctl is-active berthd.service
	holds 'systemd waits for it to say so, and feels its pulse' test "$(value Type) $(value WatchdogUSec)" = 'notify 3min'
	holds 'it is the packaged one' version 0.1.0
	holds 'man page' test -s /usr/share/man/man1/berth-run.1.gz
	holds 'load an image' berth load -i /tmp/box.tar
	holds 'run a container' berth run -d --name web box sleep 100000
	container=$(berth inspect --format '{{.State.Pid}}' web)
	shim=$(shims | head -n 1)
	holds 'it runs by the pid that is told' alive
	holds 'the shim has a unit of its own' own_unit

	holds 'restart' systemctl restart berthd.service
	holds 'the container did not notice' alive
	holds 'nor did the shim' same_shim

	# The same watchdog, with less patience than the package's three minutes.
	mkdir -p /run/systemd/system/berthd.service.d
	printf '[Service]\nWatchdogSec=60s\n' >/run/systemd/system/berthd.service.d/watchdog.conf
	systemctl daemon-reload
	holds 'restart with a shorter watchdog' systemctl restart berthd.service
	kill -STOP "$(value MainPID)"
	holds 'a daemon that hangs is started anew' soon restarted
	holds 'by the watchdog' barked
	holds 'the container did not notice' alive
	holds 'exec' soon berth exec web true
	rm -r /run/systemd/system/berthd.service.d
	systemctl daemon-reload

	holds 'upgrade' dpkg -i /share/new.deb
	holds 'the new one runs' soon version 0.1.1
	holds 'the container did not notice' alive
	holds 'nor did the shim' same_shim
	holds 'exec by the new one' berth exec web true

	holds 'remove' dpkg -r berth
	holds 'the container has ended' soon gone
	holds 'nothing of it is in the kernel' nothing_left
	holds 'images are there still' test -e /var/lib/berth/images
	holds 'and the configuration' test -e /etc/berth/config.toml
	holds 'purge' dpkg -P berth
	holds 'nothing of it is on the disk' empty /var/lib/berth
	holds 'nor of its configuration' absent /etc/berth
}

# box makes /tmp/box.tar, an image of busybox.
box() {
	mkdir -p /tmp/box/bin
	cp "$(command -v busybox)" /tmp/box/bin/
	for applet in sh sleep true; do ln -s busybox "/tmp/box/bin/$applet"; done
	archive /tmp/box /tmp/box.tar box:latest null
}

if [ "${1:-}" = inside ]; then
	inside
	exit
fi

[ "$(id -u)" = 0 ] || { echo "the guest needs root. Run: sudo make test-package" >&2; exit 1; }
hack/setup.sh --quiet
share=$(mktemp -d /tmp/berth-package.XXXXXX)
trap 'rm -rf "$share"' EXIT
for name in new:0.1.1 old:0.1.0; do # bin ends with the version that it has else
	make --no-print-directory package VERSION=${name#*:} >/dev/null
	cp "hack/.cache/berth_${name#*:}_amd64.deb" "$share/${name%:*}.deb"
done
hack/vm/run.sh --systemd --append 'apparmor=1 security=apparmor' --share "$share" --timeout 2400 'hack/vm/package.sh inside'
echo 'make test-package: passed'
