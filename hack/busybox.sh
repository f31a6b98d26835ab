#!/bin/bash
# Builds hack/.cache/busybox from Debian's source, for the images of critest.
#
# Debian's own busybox-static prefers the applets inside it to the files on
# PATH, so that masking /bin/ls or taking its execute bit away hides nothing,
# and it lacks ipcs and pgrep. Both are set at build time. It takes 20 seconds,
# once; apt checks the source's signature. The machine's package lists stay as
# they are: the list of sources is one of our own.
#
# usage: hack/busybox.sh
set -euo pipefail
cd "$(dirname "$0")/.."

target=$PWD/hack/.cache/busybox
[ ! -x "$target" ] || exit 0
mkdir -p hack/.cache
exec 9>hack/.cache/busybox.lock
flock 9 # another run may be building it
[ ! -x "$target" ] || exit 0
# shellcheck source=/dev/null
. /etc/os-release
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ "$ID" = debian ] && [ -e "$keyring" ] || {
	echo "cannot fetch busybox's source: this is $ID, not Debian. Build busybox elsewhere as hack/busybox.sh does, and put it at $target." >&2
	exit 1
}
# The source comes from where the machine has its packages from.
origin() {
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: ${VERSION_CODENAME:-stable}" 'Component: main' 'Origin: Debian' | sort -u | head -n 1
}
uri=$(origin)
[ -n "$uri" ] || { apt-get -q update >/dev/null && uri=$(origin); }
[ -n "$uri" ] || { echo "cannot fetch busybox's source: apt knows no archive of Debian ${VERSION_CODENAME:-stable}; add one to /etc/apt." >&2; exit 1; }
command -v dpkg-source >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends dpkg-dev </dev/null

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{sources,lists/partial,cache}
chmod 755 "$work" # apt fetches as a user of its own
cat >"$work/sources/source.sources" <<LIST
Types: deb-src
URIs: $uri
Suites: ${VERSION_CODENAME:-stable}
Components: main
Signed-By: $keyring
LIST
apt=(apt-get -q -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/sources"
	-o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)

echo "building busybox from Debian's source (20 seconds, once)"
build() { # chained, since set -e does not hold where failure is asked for
	cd "$work" &&
		"${apt[@]}" update &&
		"${apt[@]}" source --download-only busybox &&
		dpkg-source --no-check -x busybox_*.dsc source && # apt has checked it
		cd source &&
		sed -E 's/^CONFIG_FEATURE_(SH_STANDALONE|PREFER_APPLETS)=y/# CONFIG_FEATURE_\1 is not set/
			s/^# CONFIG_(IPCS|PGREP) is not set/CONFIG_\1=y/' debian/config/pkg/static >.config &&
		make oldconfig < <(yes '') &&
		make -j"$(nproc)" busybox
}
build >"$work/log" 2>&1 || {
	tail -n 20 "$work/log" >&2
	echo "cannot build busybox: see the words above" >&2
	exit 1
}
install -m 0755 "$work/source/busybox" "$target.new"
mv "$target.new" "$target"
