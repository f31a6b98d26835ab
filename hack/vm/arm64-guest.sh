#!/bin/busybox sh
# Process 1 of the arm64 guest (arm64.sh), and the test in it: daemon, shim and
# pods on a kernel of arm64 with cgroup v2. What is not in busybox is not here.
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root TERM=dumb

holds() { # words, command...
	what=$1
	shift
	if ! "$@" >/tmp/said 2>&1; then
		printf 'FAILED  %s: %s\n' "$what" "$*"
		cat /tmp/said
		tail -n 40 /tmp/berthd.log
		end 1
	fi
	printf 'ok      %s\n' "$what"
}
fails() { ! "$@"; }
soon() { # command...; within some minutes, since all takes its time here
	for _ in $(seq 300); do
		if "$@"; then return 0; fi
		sleep 1
	done
	return 1
}
says() { # text, command...
	text=$1
	shift
	out=$("$@" 2>&1)
	echo "$out"
	[ "$out" = "$text" ]
}
tells() { # text, command...: the text is part of what it says
	text=$1
	shift
	"$@" >/tmp/told 2>&1
	cat /tmp/told
	grep -qF -- "$text" /tmp/told
}
end() {
	echo "$1" >/dev/hvc1
	sync
	poweroff -f
	sleep 60
}

# The first root is one that no container can leave by pivot_root(2).
new_root() {
	/bin/busybox --install -s
	mount -t tmpfs -o size=90% root /new
	for part in bin sbin usr lib etc root var tests box.tar; do [ ! -e /$part ] || mv /$part /new/; done
	cp /init /new/ # switch_root wants to see it here
	cd /new || exit
	/new/bin/busybox mkdir -p proc sys dev run tmp
	exec /new/bin/busybox switch_root /new /init booted
}

mount_kernel() {
	mount -t proc proc /proc
	mount -t sysfs sys /sys
	mount -t devtmpfs dev /dev
	mkdir -p /dev/pts /dev/shm
	mount -t devpts -o ptmxmode=0666 devpts /dev/pts
	mount -t tmpfs shm /dev/shm
	mount -t tmpfs -o mode=755 run /run
	mount -t tmpfs tmp /tmp
	mount -t securityfs securityfs /sys/kernel/security
	mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
	# As a system manager does: processes below the root, controllers passed down.
	mkdir /sys/fs/cgroup/init
	echo 1 >/sys/fs/cgroup/init/cgroup.procs
	for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
		echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
	done
	ip link set lo up
	hostname guest
	echo 1 >/proc/sys/net/ipv4/ip_forward
	modprobe overlay
	modprobe br_netfilter
	modprobe -a iptable_filter ip6table_filter # a test looks for their tables
	# hvc0 shows what happens, hvc1 tells arm64.sh how it ended.
	stty -F /dev/hvc0 raw -echo
	stty -F /dev/hvc1 raw -echo
}

start_daemon() {
	berthd >>/tmp/berthd.log 2>&1 &
	daemon=$!
	soon berth ps >/dev/null 2>&1
}
kill_daemon() {
	kill -9 $daemon
	wait $daemon
	[ $? = 137 ]
}
programs() {
	for process in /proc/[0-9]*; do
		echo "${process#/proc/} $(tr '\0' ' ' 2>/dev/null <"$process/cmdline")"
	done
}
pid_of() { berth inspect --format '{{.State.Pid}}' "$1"; }
in_web() { berth exec web "$@"; }
served() { says 'served on arm64' wget -q -O - http://127.0.0.1:8080/; }
# A program of the container's own, which is of this architecture's instructions.
restricted() { tells 'Operation not permitted' in_web unshare -U true; }
# By argv, since it runs from a memfd; what looks for it begins otherwise.
shims() { programs | sed -n 's/^\([0-9]*\) berth-shim .*/\1/p'; }
kill_shim() { kill -9 $(shims); }

# What the kernel has that berth might leave.
left() {
	cut -d ' ' -f 2,3 /proc/mounts
	ls /sys/class/net
	find /sys/fs/cgroup -type d
	ls -d /run/netns/* 2>/dev/null
	programs >/tmp/programs # first, as grep is a program that names them
	grep -e ' berth' -e /berth /tmp/programs
}

pod() { # a pod that shares a PID namespace: its process 1 is berth-init
	cat <<-'YAML'
		apiVersion: v1
		kind: Pod
		metadata:
		  name: shared
		spec:
		  shareProcessNamespace: true
		  terminationGracePeriodSeconds: 1
		  containers:
		  - name: one
		    image: box
		    imagePullPolicy: Never
		    command: [sh, -c, "sleep 0.1 & exec sleep 100000"]
	YAML
}
first_process() { tells '/init' berth exec one cat /proc/1/cmdline; }

run_test() {
	left >/tmp/before
	holds 'the guest is one of arm64' says aarch64 uname -m
	holds 'links for pods can be made, and no other family of netlink is asked for' tells 'bridges and pairs of interfaces can be made' berth doctor
	holds 'the daemon starts' start_daemon
	holds 'both are of this build' tells 'Daemon:' berth version
	holds 'an image of two platforms is loaded' berth load -i /box.tar
	holds 'as the one of arm64' says 'served on arm64' berth run --rm box cat /www/index.html
	holds 'a container runs' berth run -d --name web -p 8080:80 --memory 64m box httpd -f -vv -h /www
	pid=$(pid_of web)
	holds 'it serves on a port of the host' soon served
	holds 'exec' says aarch64 in_web uname -m
	holds 'it has a filter of system calls' tells "Seccomp:	2" in_web cat /proc/self/status
	holds 'which refuses a new user namespace' restricted
	holds 'that the guest allows' unshare -U true
	holds 'its memory is limited' says 67108864 cat "/sys/fs/cgroup$(cut -d : -f 3 /proc/$pid/cgroup)/memory.max"
	holds 'what it has written' tells 'url:/' berth logs web
	holds 'exit codes' says 7 sh -c 'berth run --rm box sh -c "exit 7"; echo $?'
	holds 'check' berth check

	holds 'kill -9 of the daemon' kill_daemon
	holds 'the container serves' served
	holds 'the next daemon starts' start_daemon
	holds 'the container is the same' says "$pid" pid_of web
	holds 'exec by it' says aarch64 in_web uname -m
	holds 'kill -9 of the shim' kill_shim
	holds 'the container serves' served
	holds 'exec by the next shim' soon in_web true
	holds 'the container is the same' says "$pid" pid_of web

	pod >/tmp/pod.yaml
	holds 'a pod that shares its processes' berth apply -f /tmp/pod.yaml
	holds 'its first one is ours' soon first_process

	holds 'stop' berth stop web
	holds 'start again' berth start web
	holds 'it serves' soon served
	holds 'stop' berth stop -t 1 web
	holds 'remove' berth rm web
	holds 'remove the pod' berth delete -f /tmp/pod.yaml
	holds 'check finds nothing' berth check
	holds 'remove the image' berth rmi box
	kill $daemon
	wait $daemon
	holds 'teardown' berthd teardown
	left >/tmp/after
	holds 'nothing is left' diff /tmp/before /tmp/after
	end 0
}

# All of them even if one fails.
run_packages() {
	failed=0
	export BERTH_BIN=/usr/local/bin
	for test in $(find /tests -name test | sort); do
		package=$(dirname "${test#/tests/}")
		if (cd "$(dirname "$test")" && exec ./test -test.v -test.timeout 20m) >/tmp/said 2>&1; then
			printf 'ok      tests of %s\n' "$package"
			grep -B1 -e '--- SKIP' /tmp/said
		else
			failed=1
			printf 'FAILED  tests of %s\n' "$package"
			grep -v -e '^ *=== ' -e '--- PASS' /tmp/said | tail -n 60
		fi
	done
	end $failed
}

case ${1:-} in
booted)
	mount_kernel
	echo started >/dev/hvc1
	{
		if [ -e /box.tar ]; then run_test; else run_packages; fi
	} </dev/null >/dev/hvc0 2>&1
	;;
*) new_root ;;
esac
