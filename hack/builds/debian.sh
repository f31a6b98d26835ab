#!/bin/bash
# Makes hack/.cache/debian, a context for berth build: the smallest Debian of this
# machine's release, by debootstrap, with the machine's own sources of packages.
# It takes a minute or three, once.
#
# usage: hack/builds/debian.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$PWD/hack/.cache/debian/root.tar
[ ! -s "$target" ] || exit 0
# shellcheck source=/dev/null
. /etc/os-release
[ "$ID" = debian ] || { echo "cannot make a root file system of Debian: this is $ID. Put the tar of one at $target." >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "cannot make a root file system: debootstrap needs root" >&2; exit 1; }
command -v debootstrap >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends debootstrap </dev/null

# Where this machine gets Debian from: nothing of that belongs into the repository.
sources=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
	awk -v c="$VERSION_CODENAME" 'index($3, c) == 1 && !seen[$0]++ { print "deb", $1, $3, $4 }')
mirror=$(awk -v c="$VERSION_CODENAME" '$3 == c { print $2; exit }' <<<"$sources")
[ -n "$mirror" ] || { echo "cannot tell where this machine gets $VERSION_CODENAME from: apt-get update first" >&2; exit 1; }

mkdir -p "${target%/*}"
printf 'FROM scratch\nADD root.tar /\nCMD ["bash"]\n' >"${target%/*}/Dockerfile"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
debootstrap --variant=minbase --include=ca-certificates "$VERSION_CODENAME" "$work/root" "$mirror" >"$work/log" 2>&1 ||
	{ tail -n 20 "$work/log" >&2; echo "cannot make a root file system of Debian: see debootstrap's words above" >&2; exit 1; }
printf '%s\n' "$sources" >"$work/root/etc/apt/sources.list"
apt-config dump | grep -E '^Acquire::(Check-|http|https|Retries|ForceIPv)' >"$work/root/etc/apt/apt.conf.d/99machine"
printf 'Dpkg::Use-Pty "0";\n' >>"$work/root/etc/apt/apt.conf.d/99machine"
rm -rf "$work"/root/var/{cache/apt,lib/apt/lists,log}/* "$work"/root/{dev,proc,sys,run,tmp}/*
tar --sort=name --numeric-owner --xattrs -C "$work/root" -cf "$target.new" .
mv "$target.new" "$target"
