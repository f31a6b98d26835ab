#!/bin/bash
# Makes the corpus of images by other builders, which imageservice's tests
# load, pull and mount: imageservice/testdata/corpus. NAME.tar is an archive as
# the builder wrote it, NAME.list says what its root file system is: found in
# the builder's own tree by find and getfattr, without a tar.
#
# Run as root on Debian 12. The builders are unpacked into a temporary folder
# and not installed. What they write differs from run to run in dates of
# creation only, hence in digests too.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages=(
	buildah=1.28.2+ds1-3+deb12u1+b3 podman=4.3.1+ds1-8+deb12u1+b3 skopeo=1.9.3+ds1-1+b10 umoci=0.4.7+ds-3+b7
	golang-github-containers-common=0.50.1+ds1-4 golang-github-containers-image=5.23.1-4
	libgpgme11 libassuan0 libsubid4 crun conmon libyajl2 attr libcap2-bin
)
out=$PWD/imageservice/testdata/corpus
work=$(mktemp -d)
cleanup() {
	while read -r target; do umount -l "$target"; done < <(awk -v w="$work/" 'index($2, w) == 1 { print $2 }' /proc/mounts | sort -r)
	rm -rf "$work"
}
trap cleanup EXIT

mkdir "$work/debs" "$work/bin"
(cd "$work/debs" && apt-get download "${packages[@]}" >/dev/null)
for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$work/root"; done
export PATH=$work/root/usr/bin:$work/root/sbin:$work/root/usr/sbin:$PATH
export LD_LIBRARY_PATH=$work/root/usr/lib/x86_64-linux-gnu

cat >"$work/storage.conf" <<TEXT
[storage]
driver = "overlay"
graphroot = "$work/graph"
runroot = "$work/run"
TEXT
echo 'unqualified-search-registries = []' >"$work/registries.conf"
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$work/policy.json"
export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_REGISTRIES_CONF=$work/registries.conf
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=overlay

# populate fills the first layer in the directory $1.
populate() (
	cd "$1"
	mkdir -p usr/bin usr/lib etc/conf.d home/user tmp opaque/deep becomes-file gone-dir/deep empty dev "$(printf 'd%.0s' {1..120})"
	ln -s usr/bin bin
	ln -s usr/lib lib
	ln -s /usr/lib lib64
	ln -s nowhere dangling
	printf program >usr/bin/program && chmod 4755 usr/bin/program
	printf capable >usr/bin/capable && chmod 755 usr/bin/capable && setcap cap_net_raw+ep usr/bin/capable
	printf group >usr/bin/group && chown 0:50 usr/bin/group && chmod 2755 usr/bin/group
	ln usr/bin/program usr/bin/same
	ln usr/bin/program usr/lib/same-too
	printf config >etc/conf.d/a && printf config >etc/conf.d/b && chmod 600 etc/conf.d/b
	printf low >opaque/low && printf low >opaque/deep/low
	printf x >becomes-file/x && printf file >becomes-dir && printf x >gone-dir/deep/x && printf x >gone
	printf link >becomes-link
	printf long >"$(printf 'd%.0s' {1..120})/$(printf 'n%.0s' {1..200})"
	printf odd >"$(printf 'not-\xff-UTF-8')" && printf space >'a b'
	mkfifo -m 622 home/user/fifo
	mknod -m 666 dev/null c 1 3
	chown 1000:1001 home/user home/user/fifo && chmod 700 home/user
	printf big >home/user/huge-owner && chown 2147483648:4294967294 home/user/huge-owner
	chmod 1777 tmp && chmod 2775 empty && chown 0:60 empty
	setfattr -n user.note -v kept etc/conf.d/a
	ln -s a etc/conf.d/link && chown -h 7:8 etc/conf.d/link
	find . -exec touch -h -d @1234567890 {} +
	touch -h -d @1111111111 usr/bin/program etc/conf.d
	touch -h -d '1969-12-31 23:00:00 UTC' etc/conf.d/b
)

# change makes the second layer of it.
change() (
	cd "$1"
	rm -r gone gone-dir etc/conf.d/b
	rm -r opaque && mkdir opaque && printf high >opaque/high && chmod 711 opaque
	rm -r becomes-file && printf now-a-file >becomes-file
	rm becomes-dir && mkdir becomes-dir && printf y >becomes-dir/y
	rm becomes-link && ln -s usr becomes-link
	printf new >lib/new
	printf changed >etc/conf.d/a
	ln usr/bin/group usr/lib/group-too
	chmod 750 home/user
	mkdir home/user/new && printf n >home/user/new/n && chown -R 1000:1001 home/user/new
	find opaque becomes-file becomes-dir becomes-link usr/lib/new etc/conf.d/a home/user/new -exec touch -h -d @1300000000 {} +
	touch -h -d @1300000001 . etc/conf.d usr/bin usr/lib home/user
)

# list says what is below the directory $1: a line for each name, then its
# attributes. Names that are one file share a number.
list() {
	(
		cd "$1"
		# Not the root: some builders write no entry for it.
		find . -mindepth 1 -printf '%P\t%y\t%m\t%U:%G\t%Ts\t%s\t%l\t%i\n' | LC_ALL=C sort |
			awk -F '\t' -v OFS='\t' '$2 == "d" || $2 == "l" { $6 = "-" } { if (!($8 in n)) n[$8] = ++count; $8 = n[$8]; print }'
		echo
		LC_ALL=C getfattr -R -h -d -m '^(user|security)\.' -e hex . 2>/dev/null
	) >"$out/$2.list"
}

rm -rf "$out" && mkdir -p "$out"
buildah() { command buildah --registries-conf "$work/registries.conf" "$@"; }

# buildah: two layers of its overlay, compressed by gzip.
one=$(buildah from scratch)
populate "$(buildah mount "$one")"
buildah config --label from=buildah --cmd /bin/program "$one"
buildah commit -q --signature-policy "$work/policy.json" --format oci "$one" corpus-one >/dev/null
two=$(buildah from --signature-policy "$work/policy.json" localhost/corpus-one)
tree=$(buildah mount "$two")
change "$tree"
list "$tree" buildah
buildah commit -q --signature-policy "$work/policy.json" --format oci "$two" corpus-two >/dev/null
skopeo --policy "$work/policy.json" copy -q containers-storage:localhost/corpus-two "oci-archive:$out/buildah.tar:corpus:buildah"

# skopeo: the same, compressed anew by zstd, and as docker's archive.
skopeo --policy "$work/policy.json" copy -q --dest-compress-format zstd "oci-archive:$out/buildah.tar" "oci:$work/zstd:corpus:zstd"
tar -C "$work/zstd" --sort=name -cf "$out/skopeo-zstd.tar" .
cp "$out/buildah.list" "$out/skopeo-zstd.list"
skopeo --policy "$work/policy.json" copy -q "oci-archive:$out/buildah.tar" "docker-archive:$out/skopeo-docker.tar:corpus:docker"
cp "$out/buildah.list" "$out/skopeo-docker.list"

# podman: a build of COPY and ADD, a layer each, saved in docker's format.
mkdir "$work/context" "$work/context/add"
populate "$work/context/add"
rm -r "$work/context/add/dev" "$work/context/add/home/user/fifo"
touch -d @1400000000 "$work/context/add/etc/conf.d/b" # its unpacker knows no time before 1970
printf copied >"$work/context/copied" && chmod 640 "$work/context/copied" && touch -d @1400000000 "$work/context/copied"
cat >"$work/context/Containerfile" <<'TEXT'
FROM scratch
COPY add/ /
COPY --chown=5:6 copied /etc/deep/er/
COPY copied /opaque
TEXT
# podman looks for its policy below /etc only.
mkdir -p "$work/etc/containers" && cp "$work/policy.json" "$work/registries.conf" "$work/etc/containers"
podman() { unshare -m bash -c 'mount -t overlay -o "lowerdir=$0/etc:/etc" overlay /etc && exec podman "$@"' "$work" "$@"; }
podman build -q --isolation chroot --layers -t corpus-podman "$work/context" >/dev/null
podman save -q --format docker-archive -o "$out/podman.tar" localhost/corpus-podman
tree=$(buildah mount "$(buildah from --signature-policy "$work/policy.json" localhost/corpus-podman)")
list "$tree" podman

# umoci: its own unpacker and differ, no overlay.
umoci init --layout "$work/umoci"
umoci new --image "$work/umoci:corpus"
umoci unpack --image "$work/umoci:corpus" "$work/bundle" 2>/dev/null
populate "$work/bundle/rootfs"
umoci repack --refresh-bundle --image "$work/umoci:corpus" "$work/bundle" 2>/dev/null
change "$work/bundle/rootfs"
umoci repack --refresh-bundle --image "$work/umoci:corpus" "$work/bundle" 2>/dev/null
umoci gc --layout "$work/umoci" 2>/dev/null
list "$work/bundle/rootfs" umoci
tar -C "$work/umoci" --sort=name -cf "$out/umoci.tar" .

ls -l "$out"
