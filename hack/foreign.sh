#!/bin/bash
# Unpacks packages of Debian's for another architecture below
# hack/.cache/foreign/ARCH, each into a directory of its own name. Nothing is
# installed and the machine stays of one architecture: apt works on lists and a
# state of its own there, with the sources and keys of the machine. A package
# that only names another, as linux-image-cloud-arm64 does, stands for that one.
# Idempotent; needs no root.
#
# usage: hack/foreign.sh ARCH PACKAGE...
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n 's/^# usage/usage/p' "$0" >&2; exit 2; }
arch=$1
shift
cache=$PWD/hack/.cache/foreign/$arch

die() { printf '%s\n' "$@" >&2; exit 1; }

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 # another run may be fetching the same

missing=()
for package; do [ -d "$cache/$package" ] || missing+=("$package"); done
[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
	die "${missing[*]} for $arch come from Debian's packages, and this system has no apt."

work=$(mktemp -d "$cache/new.XXXXXX")
trap 'rm -rf "$work"' EXIT

# What the machine does after an update of its own lists is not for these.
apt=$cache/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
: >"$apt/status"
cat >"$apt/apt.conf" <<CONF
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear APT::Architectures;
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::State "$apt";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
CONF
aptly() { "apt-$1" -q -c "$apt/apt.conf" "${@:2}"; }
# Packages of the kernel have their version in the name.
real() { aptly cache depends "$1" 2>/dev/null | awk '/Depends: linux-image/ { print $2; exit }' | grep . || echo "$1"; }
fetch() {
	rm -rf "$work/fetched"
	mkdir "$work/fetched"
	(cd "$work/fetched" && aptly get download "$(real "$1")" >"$work/log" 2>&1)
}

for package in "${missing[@]}"; do
	echo "fetching $package for $arch"
	# A list that is there may be older than what the archive still has.
	fetch "$package" || { aptly get update >"$work/log" 2>&1 && fetch "$package"; } || {
		tail -n 20 "$work/log" >&2
		die "cannot fetch $package for $arch: see apt's words above. Do the machine's sources of packages serve $arch? Debian's do."
	}
	dpkg-deb -x "$work"/fetched/*.deb "$work/unpacked"
	mv "$work/unpacked" "$cache/$package"
done
