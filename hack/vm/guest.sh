#!/bin/sh
# Process 1 of the guest, until it hands over; see run.sh.
#
# It starts with the machine's root and this clone, both read-only over
# virtiofs, the clone at /mnt. It puts a tmpfs over each and changes the root
# to that (with VM_SYSTEMD=1: to hack/.cache/vm/systemd instead of the
# machine's), so that the guest may write everywhere and the machine sees
# nothing of it. Then it runs the command, or starts systemd to run it.
#
# The kernel gives its unknown arguments to process 1 as variables:
#   VM_SOURCE   where the clone is on the machine, and here
#   VM_SYSTEMD  1: systemd is process 1
#   VM_IMAGE    1: the root is an image that may be written, with SELinux
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

kernel=$(uname -r)

writable() { # lower directory, name of what is written, mount point
	mkdir -p "/run/$2/upper" "/run/$2/work" "$3"
	mount -t overlay -o "lowerdir=$1,upperdir=/run/$2/upper,workdir=/run/$2/work" "$2" "$3"
}

change_root() {
	mount -t tmpfs -o size=90% writes /run
	insmod "/mnt/hack/.cache/vm/kernel/lib/modules/$kernel/kernel/fs/overlayfs/overlay.ko"
	lower=/
	[ "${VM_SYSTEMD:-}" != 1 ] || lower=/mnt/hack/.cache/vm/systemd
	writable "$lower" root /run/new
	# Before the clone, which may lie below it. Overlays cannot be written to
	# overlays, so that tests need another file system.
	mount -t tmpfs -o mode=1777 tmp /run/new/tmp
	writable /mnt source "/run/new$VM_SOURCE"
	mkdir -p /run/new/host /run/new/lib/modules /run/new/share
	ln -s "$VM_SOURCE/hack/.cache/vm/kernel/lib/modules/$kernel" "/run/new/lib/modules/$kernel"
	mount -t virtiofs share /run/new/share
	cd /run/new || exit
	pivot_root . host
}

# The policy comes first: what is mounted after it has the label that it says.
# The clone and /share, which have none, have that of programs.
enforce() {
	cp "$0" /root/guest.sh
	mount -t proc proc /proc
	mount -t sysfs sys /sys
	mount -t selinuxfs selinux /sys/fs/selinux
	load_policy -i
	exec /bin/sh /root/guest.sh labelled
}

mount_labelled() {
	umount /mnt
	mkdir -p /share "$VM_SOURCE"
	mount -t virtiofs -o context=system_u:object_r:bin_t:s0 source "$VM_SOURCE"
	mount -t virtiofs -o context=system_u:object_r:bin_t:s0 share /share
}

# What systemd would mount.
mount_kernel() {
	[ -e /proc/self ] || mount -t proc proc /proc
	[ -e /sys/kernel ] || mount -t sysfs sys /sys
	mount -t devtmpfs dev /dev
	mkdir -p /dev/pts /dev/shm
	mount -t devpts -o ptmxmode=0666 devpts /dev/pts
	mount -t tmpfs shm /dev/shm
	mount -t tmpfs -o mode=755 run /run
	mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
	mount -t securityfs securityfs /sys/kernel/security
	mount -t bpf bpf /sys/fs/bpf
	ip link set lo up
	echo guest >/proc/sys/kernel/hostname
	# As a system manager does: processes below the root, controllers passed down.
	mkdir /sys/fs/cgroup/init
	echo 1 >/sys/fs/cgroup/init/cgroup.procs
	for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
		echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
	done
}

run_command() {
	stty -F /dev/hvc0 raw -echo
	export HOME=/root TERM=dumb PATH="$PATH:/usr/local/go/bin"
	cd "$VM_SOURCE" || exit
	: >/share/started
	setsid bash /share/command </dev/null >/dev/hvc0 2>&1
	echo $? >/share/status
	sync
	# Neither services nor file systems are worth waiting for.
	echo 1 >/proc/sys/kernel/sysrq
	echo o >/proc/sysrq-trigger
	sleep 60
}

start_systemd() {
	cat >/etc/systemd/system/command.service <<-UNIT
		[Unit]
		After=basic.target dbus.service apparmor.service
		Wants=dbus.service
		[Service]
		Type=oneshot
		TimeoutStartSec=infinity
		Delegate=yes
		Environment=VM_SOURCE=$VM_SOURCE
		ExecStart=/bin/sh $VM_SOURCE/hack/vm/guest.sh command
	UNIT
	mkdir -p /etc/systemd/system/multi-user.target.wants
	ln -s ../command.service /etc/systemd/system/multi-user.target.wants/
	# Nobody logs in, and nothing comes round by the clock.
	for unit in getty.target getty@tty1.service serial-getty@ttyS0.service serial-getty@hvc0.service \
		apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
		systemd-update-utmp.service systemd-timesyncd.service docker-registry.service; do
		ln -sf /dev/null "/etc/systemd/system/$unit"
	done
	: >/etc/fstab
	echo uninitialized >/etc/machine-id
	echo guest >/etc/hostname
	echo 127.0.1.1 guest >>/etc/hosts
	exec /sbin/init </dev/console >/dev/console 2>&1
}

case ${1:-} in
command)
	run_command
	;;
booted)
	[ "${VM_SYSTEMD:-}" != 1 ] || start_systemd
	mount_kernel
	run_command
	;;
labelled)
	mount_labelled
	mount_kernel
	restorecon -R /dev
	run_command
	;;
*)
	[ "${VM_IMAGE:-}" != 1 ] || enforce
	change_root
	exec chroot . /bin/sh "$VM_SOURCE/hack/vm/guest.sh" booted
	;;
esac
