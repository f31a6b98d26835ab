#!/bin/bash
# Tries a node of Kubernetes, with the real kubelet as a unit of systemd, its
# cgroup driver and cgroup v2, in guests (run.sh):
#
#   kubeadm   the Debian package and the samples of deploy/: a kubelet alone with a
#             static pod, then a node by `kubeadm init`, restarts of kubelet and
#             daemon, `kubeadm reset`
#   replace   a node that kubeadm has set up on Debian's containerd, to berth and
#             back, by the very commands of deploy/replacing-containerd.md
#
# etcd and the control plane run on the machine itself, with the certificates that
# kubeadm makes: in a guest they are too slow for their own deadlines. They are
# in a network namespace with the emulator, through which the guest reaches them.
#
# usage: hack/vm/node.sh [kubeadm|replace]...     (make test-node; default: both)
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PATH:/usr/local/go/bin
programs=$PWD/hack/.cache/kube
page=$PWD/deploy/replacing-containerd.md
version=v1.37.2
api=10.0.2.2 ip=10.0.2.15 # as the emulator's network has them

# configuration is a sample's with what concerns this cluster: its version, no
# add-ons, which would be pods of images that are not here, and more patience.
configuration() { # socket
	sed -e "s|criSocket: .*|criSocket: $1\n  name: node\n  taints: []\n  imagePullPolicy: Never|" \
		-e "/^kind: InitConfiguration/a localAPIEndpoint: {advertiseAddress: $api}\ntimeouts: {kubeletHealthCheck: 10m, kubernetesAPICall: 10m}" \
		-e "/^kind: ClusterConfiguration/a kubernetesVersion: $version\nproxy: {disabled: true}\ndns: {disabled: true}" \
		deploy/kubeadm.yaml
}

# ---- in the guest: the node -------------------------------------------------

. hack/vm/holds.sh
explain() {
	journalctl -u berthd -n 60 --no-pager || true
	journalctl -u kubelet -n 60 --no-pager | cut -c1-600 || true
	crictl ps -a || true
	for log in /var/log/pods/*/*/*.log; do echo "$log"; tail -n 8 "$log"; done | cut -c1-300
	free -m
}

node() {
	# Overlays cannot be written to the guest's root, which is one.
	for dir in /var/lib/berth /var/lib/containerd /var/lib/kubelet; do
		mkdir -p $dir
		mount -t tmpfs "${dir##*/}" $dir
	done
	hostname node
	echo "$ip node" >>/etc/hosts
	printf 'nameserver 192.0.2.1\noptions timeout:1 attempts:1\n' >/etc/resolv.conf # nobody answers
	modprobe -a virtio_net br_netfilter
	local card
	card=$(basename "$(ls -d /sys/class/net/e*)")
	ip address add $ip/24 dev "$card"
	ip link set "$card" up
	ip route add default via $api
	echo 1 >/proc/sys/net/ipv4/ip_forward
	for name in kubelet kubeadm kubectl; do ln -s "$programs/$name" /usr/bin/; done
	ln -s "$PWD/hack/.cache/crictl" /usr/bin/
	mkdir -p /opt/cni /etc/kubernetes/manifests
	ln -s "$PWD/hack/.cache/cni" /opt/cni/bin
	cp -r /share/pki /share/*.conf /etc/kubernetes/
	export KUBECONFIG=/etc/kubernetes/super-admin.conf
	# The unit that comes with a kubelet from packages, and what kubeadm adds to it.
	cat >/etc/systemd/system/kubelet.service <<-'UNIT'
		[Service]
		Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
		Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
		EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
		EnvironmentFile=-/etc/default/kubelet
		ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
		Restart=always
		RestartSec=10
		[Install]
		WantedBy=multi-user.target
	UNIT
	systemctl daemon-reload
}

network() { install -D -m 0644 deploy/10-bridge.conflist /etc/cni/net.d/10-bridge.conflist; }
healthy() { [ "$(busybox wget -q -O - http://127.0.0.1:10248/healthz)" = ok ]; }
says() { journalctl -q -u kubelet -g "$1"; } # regular expression

# ---- a cluster ----------------------------------------------------------------

# init has kubeadm make this a node of the cluster: all that `kubeadm init` does
# but what was done for the control plane, and to start that.
init() { # socket
	configuration "$1" >/tmp/kubeadm.yaml
	holds 'kubeadm takes its configuration' kubeadm config validate --config /tmp/kubeadm.yaml
	# One processor is enough, the configuration of the kernel is not in the guest,
	# and etcd's ports are on another machine.
	holds 'kubeadm init' kubeadm init --config /tmp/kubeadm.yaml --ignore-preflight-errors NumCPU,SystemVerification,Port-2379,Port-2380 \
		--skip-phases certs,etcd,control-plane,wait-control-plane,mark-control-plane,addon
	sed -n '/WARNING/p' /tmp/said
	holds 'the node is ready' soon ready
}
ready() { kubectl wait --for=condition=Ready node/node --timeout=1m; }

# A Deployment with every kind of probe, and a server in it.
deploy() {
	kubectl apply -f - <<-'YAML'
		apiVersion: apps/v1
		kind: Deployment
		metadata: {name: web}
		spec:
		  selector: {matchLabels: {app: web}}
		  template:
		    metadata: {labels: {app: web}}
		    spec:
		      terminationGracePeriodSeconds: 5
		      containers:
		      - name: web
		        image: test.example/web:1
		        args: [netexec]
		        startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 2, failureThreshold: 300}
		        readinessProbe: {httpGet: {port: 8080, path: /hostname}, periodSeconds: 5, timeoutSeconds: 60}
		        livenessProbe: {exec: {command: [/bin/sh, -c, 'true']}, periodSeconds: 10, timeoutSeconds: 60}
		        resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {memory: 256Mi}}
	YAML
}
rolled_out() { kubectl rollout status deployment/web --timeout=15m; }
pod_field() { kubectl get pods -l app=web -o "jsonpath={.items[0].$1}"; }
serves() { [ "$(busybox wget -q -O - "http://$(pod_field status.podIP):8080/hostname")" = "$(pod_field metadata.name)" ]; }
logs() { kubectl logs deployment/web | grep -q 'Started HTTP server'; }
executes() { [ "$(kubectl exec deployment/web -- /bin/sh -c 'echo yes')" = yes ]; }
serving() {
	holds 'a Deployment is rolled out, with its probes' rolled_out
	holds 'its pod serves' soon serves
	holds 'kubectl logs' soon logs
	holds 'kubectl exec' soon executes
}

# ---- kubeadm: the samples, and a control plane on berth ------------------------

# Everything that the kubelet must not see change: identity, address, containers.
identities() {
	kubectl get pods -A --sort-by=.metadata.name -o \
		'jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.podIP}{range .status.containerStatuses[*]} {.containerID} {.restartCount}{end}{"\n"}{end}'
}
undisturbed() { identities >/tmp/now && diff /tmp/before /tmp/now; }
scaled() { kubectl scale deployment/web --replicas "$1" && rolled_out; }
# still does what a running pod must not notice, and has the kubelet work again.
still() { # words, command...
	holds "$@"
	holds 'the kubelet is well' soon healthy
	holds 'it makes one more pod' scaled 2
	holds 'the others are what they were, to the container' soon all_before
	holds 'and ends it' scaled 1
	holds 'one is left' soon undisturbed
	holds 'it serves' soon serves
}
all_before() { identities >/tmp/now && [ -z "$(grep -vxFf /tmp/now /tmp/before)" ]; }

# Where systemd's driver puts a pod of a class, by the kubelet's rules and berth's.
cgroup_of() { # container's id
	local pid
	pid=$(crictl inspect --output go-template --template '{{.info.pid}}' "$1")
	sed -n 's/^0:://p' "/proc/$pid/cgroup"
}
in_slice() { # class, pod's UID, container's id
	local want=/kubepods.slice/kubepods-$1.slice/kubepods-$1-pod${2//-/_}.slice/berth-$3.scope
	[ "$(cgroup_of "$3")" = "$want" ] || { echo "$(cgroup_of "$3"), not $want"; return 1; }
}
has_unit() { systemctl is-active "berth-$1.scope"; }
same_driver() { says 'Using cgroup driver setting received from the CRI runtime.*systemd'; }

# The kubelet alone, with the samples where their comments say that they go.
alone() {
	local share=/usr/share/berth id
	install -D -m 0644 $share/kubelet-berth.conf /etc/systemd/system/kubelet.service.d/10-berth.conf
	install -D -m 0644 $share/kubelet-config.yaml /etc/kubernetes/kubelet.conf.d/10-berth.conf
	install -D -m 0644 $share/10-bridge.conflist /etc/cni/net.d/10-bridge.conflist
	cp $share/crictl.yaml /etc/crictl.yaml
	cat >/var/lib/kubelet/config.yaml <<-'YAML'
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		staticPodPath: /etc/kubernetes/manifests
		authentication: {webhook: {enabled: false}}
		authorization: {mode: AlwaysAllow}
	YAML
	cat >/etc/systemd/system/kubelet.service.d/20-alone.conf <<-'UNIT'
		[Service]
		Environment="KUBELET_KUBECONFIG_ARGS="
		Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml --config-dir=/etc/kubernetes/kubelet.conf.d"
	UNIT
	cat >/etc/kubernetes/manifests/alone.yaml <<-'YAML'
		apiVersion: v1
		kind: Pod
		metadata: {name: alone}
		spec:
		  terminationGracePeriodSeconds: 1
		  containers: [{name: c, image: test.example/web:1, args: [netexec]}]
	YAML
	systemctl daemon-reload
	holds 'the kubelet starts alone' systemctl start kubelet
	holds 'it is well' soon healthy
	holds 'it has asked berth for the cgroup driver' soon same_driver
	holds 'a static pod runs' soon static_pod
	id=$(crictl ps -q --name '^c$')
	holds 'its scope is a unit of systemd' has_unit "$id"
	holds 'in the slice of its pod' in_slice besteffort "$(pod_uid "$id")" "$id"
	holds 'seccomp by default, as the sample says' filtered "$id"
	holds 'berth doctor knows its configuration' doctor
	rm /etc/kubernetes/manifests/alone.yaml
	holds 'the pod goes with its manifest' soon no_pods
	systemctl stop kubelet
	rm -r /etc/systemd/system/kubelet.service.d /etc/kubernetes/kubelet.conf.d /var/lib/kubelet/*
	systemctl daemon-reload
}
static_pod() { [ -n "$(crictl ps -q --name '^c$')" ]; }
no_pods() { [ -z "$(crictl pods -q)" ]; }
pod_uid() { crictl inspect --output go-template --template '{{index .status.labels "io.kubernetes.pod.uid"}}' "$1"; }
filtered() { grep -q '^Seccomp:[[:space:]]*2' "/proc/$(crictl inspect --output go-template --template '{{.info.pid}}' "$1")/status"; }
doctor() { { berth doctor || true; } | grep "the kubelet's configuration fits$"; } # it warns of others

# What the unit promises, looked at in the kernel.
unit() {
	local pid shim
	pid=$(value MainPID)
	shim=$(shims | head -n 1)
	holds 'systemd finds nothing to say of the unit' quiet systemd-analyze --man=no verify /usr/lib/systemd/system/berthd.service
	holds 'cgroups below it are the daemon'\''s own' test "$(value Delegate)" = yes
	holds 'only the daemon ends with its unit' test "$(value KillMode)" = process
	holds 'the kernel spares the daemon' test "$(cat "/proc/$pid/oom_score_adj")" = -999
	holds 'and the shim' test "$(cat "/proc/$shim/oom_score_adj")" = -999
	# Nothing that would reach into containers: mounts, filters, capabilities.
	holds 'it has the mounts of the machine' test "$(readlink "/proc/$pid/ns/mnt")" = "$(readlink /proc/1/ns/mnt)"
	holds 'the shim has no limits of its unit' unconfined "$shim"
	systemd-analyze security --no-pager berthd.service | tail -n 1
}
quiet() { "$@" >/tmp/verified 2>&1 && [ ! -s /tmp/verified ] || { cat /tmp/verified; return 1; }; }
unconfined() { # pid
	diff <(grep -E '^(CapBnd|NoNewPrivs|Seccomp):' "/proc/$1/status") <(grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/1/status)
}

kubeadm_on_berth() {
	node
	holds 'install berth' dpkg -i /share/berth.deb
	for image in /share/images/*.tar; do holds "load ${image##*/}" berth load -i "$image"; done
	alone

	network
	init unix:///run/berth/kubelet.sock
	holds 'kubeadm has told the kubelet of berth' grep -qx 'containerRuntimeEndpoint: "\?unix:///run/berth/kubelet.sock"\?' /var/lib/kubelet/instance-config.yaml
	holds 'kubectl apply' deploy
	serving
	holds 'in the slice of a burstable pod' in_slice burstable "$(pod_field metadata.uid)" "$(web_container)"
	unit

	# Whoever scales down takes the other.
	holds 'it is dear' kubectl annotate pods -l app=web controller.kubernetes.io/pod-deletion-cost=100
	identities >/tmp/before
	still 'restart the kubelet' systemctl restart kubelet
	still 'restart berth' systemctl restart berthd
	still 'kill berth' systemctl kill --signal KILL --kill-whom main berthd
	holds 'berth finds nothing amiss' berth check

	holds 'kubeadm reset' kubeadm reset --force --cri-socket unix:///run/berth/kubelet.sock
	holds 'it has removed every pod' no_pods
	holds 'berth finds nothing amiss' berth check
}
web_container() { pod_field 'status.containerStatuses[0].containerID' | sed 's|.*//||'; }

# ---- replace: containerd, berth, containerd -------------------------------------

# follow does what a block of commands of the page says.
follow() { # words, heading, number of the block below it
	awk -v heading="## $2" -v want="$3" '
		/^## / { here = $0 == heading }
		/^ *```/ { if (here && !open) n++; open = !open; next }
		here && open && n == want { sub(/^   /, ""); print }' "$page" | sed 's/\bNODE\b/node/' >/tmp/block
	[ -s /tmp/block ] || { echo "the page has no block $3 below $2"; exit 1; }
	cd /tmp # where the package is
	holds "$1" bash -euxo pipefail /tmp/block
}

# What the page takes for granted: sudo, and somebody who reads what the doctor
# says and tells apt to go on.
reader() {
	cat >/usr/local/bin/sudo <<-'SH'
		#!/bin/sh
		[ "$1 $2" = 'berth doctor' ] || exec "$@"
		"$@"
		[ $? -le 1 ] # 1: warnings
	SH
	chmod +x /usr/local/bin/sudo
	echo 'APT::Get::Assume-Yes "true";' >/etc/apt/apt.conf.d/90yes
	cp /share/berth.deb /tmp/berth_0.1.0_amd64.deb
}

containerd() {
	mkdir -p /etc/containerd/certs.d/test.example
	echo 'server = "https://test.example"' >/etc/containerd/certs.d/test.example/hosts.toml
	holds 'a node with containerd' dpkg -i /share/runc.deb /share/containerd.deb
	# As Kubernetes' documentation has it, and where the plugins are.
	cat >/etc/containerd/config.toml <<-TOML
		version = 2
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "registry.k8s.io/pause:3.10.2"
		[plugins."io.containerd.grpc.v1.cri".cni]
		  bin_dir = "/opt/cni/bin"
		[plugins."io.containerd.grpc.v1.cri".registry]
		  config_path = "/etc/containerd/certs.d"
		[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		  runtime_type = "io.containerd.runc.v2"
		[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
		  SystemdCgroup = true
	TOML
	systemctl restart containerd
	printf 'runtime-endpoint: unix:///run/containerd/containerd.sock\nimage-endpoint: unix:///run/containerd/containerd.sock\n' >/etc/crictl.yaml
	holds 'it answers' soon ctr version
	for image in /share/images/*.tar; do holds "import ${image##*/}" ctr --namespace k8s.io images import "$image"; done
}

runtime_is() { # name
	kubectl wait --for="jsonpath={.status.nodeInfo.containerRuntimeVersion}=$1" node/node --timeout=10m
}
runtime_of_the_node() { kubectl get node node -o 'jsonpath={.status.nodeInfo.containerRuntimeVersion}'; }
on() { # berth or containerd
	[[ $(runtime_of_the_node) = "$1"://* ]]
}
left_of_berth() {
	local left
	left=$(
		# This script's own are the clone and the directory that is a tmpfs.
		cut -d ' ' -f 2 /proc/mounts | grep berth | grep -vx -e "$VM_SOURCE" -e /var/lib/berth
		nft list tables | grep -i berth
		traces
		ls -d /etc/berth /etc/systemd/system/kubelet.service.d/10-berth.conf 2>/dev/null
		ls -A /var/lib/berth
		grep -rl berth /etc/crictl.yaml /var/lib/kubelet/*.yaml /var/lib/kubelet/*.env /etc/default/kubelet 2>/dev/null
		# One pod of containerd's has a network: what is more is another's.
		[ "$(ls /run/netns | wc -l)" = 1 ] || ls -d /run/netns/*
		[ "$(ip -o link show type veth | wc -l)" = 1 ] || ip -o link show type veth
		[ "$(ls /var/lib/cni/networks/pods | grep -vc -e lock -e last_reserved)" = 2 ] || ls -d /var/lib/cni/networks/pods/*
	) || true
	[ -z "$left" ] || { echo "$left"; return 1; }
}

replace() {
	node
	network
	containerd
	init unix:///run/containerd/containerd.sock
	holds 'kubectl apply' deploy
	serving
	holds 'on containerd' on containerd

	reader
	follow 'install berth beside it' 'To berth' 1
	follow 'carry the configuration over' 'To berth' 2
	follow 'bring the images over' 'To berth' 3
	follow 'empty the node, and end containerd' 'To berth' 4
	follow 'lead the kubelet to berth' 'To berth' 5
	holds 'the node is on berth' soon on berth
	holds 'and ready' kubectl wait --for=condition=Ready node/node --timeout=10m
	serving
	holds 'the registries came along' berth registry explain test.example/web:1
	holds 'an image that only berth has' berth tag test.example/web:1 test.example/more:1
	holds 'is taken back' bash -euo pipefail -c 'systemctl start containerd; berth save test.example/more:1 | ctr -n k8s.io images import -; systemctl stop containerd'

	follow 'back to containerd' 'And back' 1
	holds 'the node is on containerd' soon on containerd
	holds 'and ready' kubectl wait --for=condition=Ready node/node --timeout=10m
	serving
	holds 'nothing of berth is left' soon left_of_berth
	holds 'containerd has the image' ctr -n k8s.io images check name==test.example/more:1
}

if [ "${1:-}" = inside ]; then
	"$2"
	exit
fi

# ---- on the machine -----------------------------------------------------------------

# image makes an image of what root has put together.
image() { # file's name, reference, entrypoint as JSON
	archive "$share/root" "$share/images/$1.tar" "$2" "$3"
	rm -r "$share/root"
}
root() { # program...; what the image holds below /usr/local/bin
	mkdir -p "$share/root/usr/local/bin"
	cp "$@" "$share/root/usr/local/bin/"
}
images() {
	mkdir "$share/images"
	root bin/berth-init
	image pause registry.k8s.io/pause:3.10.2 '["/usr/local/bin/berth-init"]'
	root "$programs/agnhost"
	mkdir "$share/root/bin"
	cp "$(command -v busybox)" "$share/root/bin/sh"
	image web test.example/web:1 '["/usr/local/bin/agnhost"]'
}

# cluster starts etcd and the control plane, as kubeadm's static pods would.
cluster() {
	local kubeadm=$programs/kubeadm pki=$share/pki
	rm -rf "$pki" "$share"/*.conf "$share/etcd" "$share/log"
	mkdir "$share/log"
	$kubeadm init phase certs all --cert-dir "$pki" --apiserver-advertise-address $api --kubernetes-version $version >"$share/log/kubeadm"
	$kubeadm init phase kubeconfig all --cert-dir "$pki" --kubeconfig-dir "$share" --apiserver-advertise-address $api --node-name node \
		--kubernetes-version $version >>"$share/log/kubeadm"
	start etcd --data-dir "$share/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --log-level warn --unsafe-no-fsync
	start kube-apiserver --etcd-servers http://127.0.0.1:2379 --advertise-address $api --service-cluster-ip-range 10.96.0.0/12 \
		--authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --enable-bootstrap-token-auth --allow-privileged \
		--client-ca-file "$pki/ca.crt" --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" \
		--kubelet-client-certificate "$pki/apiserver-kubelet-client.crt" --kubelet-client-key "$pki/apiserver-kubelet-client.key" \
		--kubelet-preferred-address-types InternalIP --service-account-issuer https://kubernetes.default.svc.cluster.local \
		--service-account-key-file "$pki/sa.pub" --service-account-signing-key-file "$pki/sa.key"
	start kube-controller-manager --kubeconfig "$share/controller-manager.conf" --leader-elect=false --use-service-account-credentials \
		--service-account-private-key-file "$pki/sa.key" --root-ca-file "$pki/ca.crt" --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key"
	start kube-scheduler --kubeconfig "$share/scheduler.conf" --leader-elect=false
	for _ in $(seq 120); do
		! "$programs/kubectl" --kubeconfig "$share/super-admin.conf" get --raw /readyz >"$share/log/ready" 2>&1 || return 0
		sleep 1
	done
	tail -n 5 "$share"/log/* >&2
	return 1
}
running=()
start() { # program, argument...
	"$programs/$1" "${@:2}" >"$share/log/$1" 2>&1 &
	running+=($!)
}
end() { # killed: in order they would wait for each other
	[ ${#running[@]} = 0 ] || kill -KILL "${running[@]}" 2>/dev/null || true
	wait "${running[@]}" 2>/dev/null || true
	running=()
}

[ "$(id -u)" = 0 ] || { echo "the guest needs root. Run: sudo make test-node" >&2; exit 1; }
[ $# -gt 0 ] || set -- kubeadm replace
hack/setup.sh --quiet
hack/vm/prepare.sh systemd
if [ -z "${NODE_SHARE:-}" ]; then
	share=$(mktemp -d /tmp/berth-node.XXXXXX)
	trap 'rm -rf "$share"' EXIT
	images
	(
		flock 9 # another run may be making it too
		make --no-print-directory package >/dev/null
		cp hack/.cache/berth_0.1.0_amd64.deb "$share/berth.deb"
	) 9>hack/.cache/node.lock
	(
		cd "$share"
		apt-get -q -o APT::Sandbox::User=root download containerd runc >/dev/null
		for name in containerd runc; do mv ${name}_*.deb $name.deb; done
	)
	NODE_SHARE=$share unshare --net hack/vm/node.sh "$@"
	echo 'make test-node: passed'
	exit
fi
# Here the network is one of our own: the machine as the guest knows it, and the
# guest as the API server does.
share=$NODE_SHARE
ip link set lo up
ip address add $api/32 dev lo
ip address add $ip/32 dev lo
# The guest takes nothing from its own address.
ip route replace table local local $ip dev lo proto kernel scope host src $api
trap end EXIT
for guest in "$@"; do
	case $guest in
	kubeadm) main=kubeadm_on_berth ;;
	replace) main=replace ;;
	*) echo "cannot try a node called $guest: there are kubeadm and replace" >&2; exit 2 ;;
	esac
	printf '\n=== %s\n' "$guest"
	cluster
	hack/vm/run.sh --systemd --append 'apparmor=1 security=apparmor' --share "$share" --net "tcp:$ip:10250-$ip:10250" --timeout 3600 "hack/vm/node.sh inside $main"
	end
done
