#!/bin/bash
# Unpacks to hack/.cache/engines the programs of others that end-to-end tests
# talk to and this machine lacks: podman and containerd, whose images berth
# imports, and tmux, which is a terminal. They are Debian's packages, with what
# they need, and not installed: that would start services and leave a network of
# CNI in /etc. Wrappers in hack/.cache/engines/bin run them from there.
#
# usage: hack/engines.sh     (about 15 seconds, once; silent when nothing lacks)
set -euo pipefail
cd "$(dirname "$0")/.."

engines=$PWD/hack/.cache/engines
[ ! -e "$engines/bin" ] || exit 0
declare -A programs=([podman]=podman [containerd]="containerd ctr" [tmux]=tmux)
lacking=()
for package in podman containerd tmux; do
	for program in ${programs[$package]}; do
		command -v "$program" >/dev/null || { lacking+=("$package") && break; }
	done
done
[ ${#lacking[@]} -gt 0 ] || exit 0

# Without them the tests that need them are skipped, and name them.
missing() {
	echo "engines: the tests of ${lacking[*]} will be skipped: $1" >&2
	exit 0
}
command -v apt-get >/dev/null || missing "this system has no apt, and they are not on PATH"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# What an installation would fetch, with dependencies, as far as it is not there.
closure() { apt-get -s -q --no-install-recommends install "${APT[@]}" "${lacking[@]}" >"$work/plan"; }
download() { (cd "$work" && awk '$1 == "Inst" { print $2 }' plan | xargs apt-get -q -o APT::Sandbox::User=root download); }
APT=()
[ -z "${DPKG_STATUS:-}" ] || APT=(-o "Dir::State::status=$DPKG_STATUS") # to try this where nothing lacks
fetch() { closure && download; }
fetch >"$work/log" 2>&1 || { apt-get -q update && fetch; } >>"$work/log" 2>&1 || {
	tail -n 5 "$work/log" >&2
	missing "they cannot be fetched, see apt's words above"
}

mkdir -p "$work/tree/bin"
for deb in "$work"/*.deb; do
	dpkg-deb -x "$deb" "$work/tree"
done

# podman looks for these in /etc and /usr.
mkdir -p "$work/tree/home/.config/containers"
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$work/tree/home/.config/containers/policy.json"
first() { # programs of the tree or the machine
	local program
	for program in "$@"; do
		[ ! -x "$work/tree/usr/bin/$program" ] || { echo "$engines/usr/bin/$program" && return; }
		[ ! -x "$work/tree/usr/sbin/$program" ] || { echo "$engines/usr/sbin/$program" && return; }
		command -v "$program" && return
	done
}
runtime=$(first crun runc || true)
cat >"$work/tree/containers.conf" <<CONF
[engine]
runtime = "${runtime##*/}"
conmon_path = ["$(first conmon || true)"]
[engine.runtimes]
${runtime##*/} = ["$runtime"]
CONF
libraries=$(cd "$work/tree" && find . -type d -name '*-linux-gnu' -path './*lib/*' -printf ':$dir/%P')
for package in "${lacking[@]}"; do
	for program in ${programs[$package]}; do
		cat >"$work/tree/bin/$program" <<-SCRIPT
			#!/bin/sh
			dir=\${0%/bin/*}
			export LD_LIBRARY_PATH="${libraries#:}"
			$([ "$program" != podman ] || echo 'export CONTAINERS_CONF="$dir/containers.conf" HOME="$dir/home"')
			exec "\$dir/usr/bin/$program" "\$@"
		SCRIPT
		chmod 755 "$work/tree/bin/$program"
	done
done
chmod 755 "$work/tree"
mkdir -p "${engines%/*}"
rm -rf "$engines"
mv "$work/tree" "$engines"
echo "engines: unpacked ${lacking[*]}"
