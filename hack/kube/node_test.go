//go:build kube

package kube

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

const (
	nodeName = "node"
	token    = "of-the-test"
)

// theNode is the node on which all tests run.
var theNode *node

// node is a lab with a kubelet, and with the rest of a cluster once a test asks.
type node struct {
	*lab.Lab
	programs string // directory of kubelet and so on
	box      string // an image with a shell and the usual programs
	agnhost  string // an image with Kubernetes' own server of many tricks
	client   *http.Client

	kubelet     *lab.Process
	kubeletArgs []string

	cluster      sync.Once
	clusterErr   error
	controlPlane []*lab.Process // the first is stopped last
	kubeconfig   string
	witness      *pod // of a Deployment that was there from the beginning
}

func newNode(ctx context.Context) (*node, error) {
	l, err := lab.New(lab.Options{Config: handlersConfig})
	if err != nil {
		return nil, err
	}
	n := &node{Lab: l, programs: filepath.Join(l.Clone, "hack/.cache/kube")}
	n.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the servers sign for themselves
	}, Timeout: 30 * time.Second}
	n.kubeconfig = filepath.Join(l.Dir, "kubeconfig")
	// From here on the outer process can take it down.
	data, err := json.Marshal(l)
	if err != nil {
		return n, err
	}
	if err := os.WriteFile(os.Getenv(inside), data, 0o644); err != nil {
		return n, err
	}
	if err := furnish(l.Dir); err != nil {
		return n, err
	}
	if err := n.directories(); err != nil {
		return n, err
	}
	if err := mountStore(l); err != nil {
		return n, err
	}
	if err := l.StartRegistryAt(ctx, 5000); err != nil {
		return n, err
	}
	if err := n.pushImages(ctx); err != nil {
		return n, err
	}
	return n, l.Start(ctx)
}

// dir is one of the node's directories; the names are short, since sockets
// are below some.
func (n *node) dir(name string) string { return filepath.Join(n.Dir, name) }

func (n *node) directories() error {
	for _, name := range []string{"k", "manifests", "plugins", "certs", "etcd", "kube-cache"} {
		if err := os.MkdirAll(n.dir(name), 0o755); err != nil {
			return err
		}
	}
	// The kubelet links logs in /var/log/containers, wherever the logs are.
	if err := unix.Mount("tmpfs", "/var/log", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("cannot put a tmpfs over /var/log: %w", err)
	}
	// etcd syncs every write.
	if err := unix.Mount("tmpfs", n.dir("etcd"), "tmpfs", 0, "mode=700"); err != nil {
		return fmt.Errorf("cannot put a tmpfs under etcd: %w", err)
	}
	return n.cgroups()
}

// cgroups makes the lab's parent in every hierarchy: the kubelet wants its root
// to exist.
func (n *node) cgroups() error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || !strings.HasPrefix(fields[2], "cgroup") {
			continue
		}
		dir := filepath.Join(fields[1], n.CgroupParent)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		// A new directory of cpuset has neither CPUs nor memory.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(fields[1], file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err := errors.Join(err, os.WriteFile(filepath.Join(dir, file), value, 0o644)); err != nil {
				return err
			}
		}
	}
	return nil
}

// kubeletConfig is what every kubelet here is told, with changes on top.
func (n *node) kubeletConfig(changes map[string]any) map[string]any {
	config := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"address": nodeIP, "readOnlyPort": 0, "healthzBindAddress": "127.0.0.1",
		"authentication":           map[string]any{"anonymous": map[string]any{"enabled": true}, "webhook": map[string]any{"enabled": false}},
		"authorization":            map[string]any{"mode": "AlwaysAllow"},
		"containerRuntimeEndpoint": "unix://" + n.Kubelet,
		// cgroup v1, without CAP_SYS_RESOURCE, and nothing of the machine's.
		"failCgroupV1": false, "cgroupDriver": "cgroupfs", "cgroupRoot": n.CgroupParent, "cgroupsPerQOS": true,
		"enforceNodeAllocatable": []string{"pods"}, "failSwapOn": false, "makeIPTablesUtilChains": false,
		"featureGates": map[string]bool{"MemoryQoS": false},
		"evictionHard": map[string]string{"memory.available": "50Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%", "imagefs.inodesFree": "1%"},
		// Nothing is collected where a test does not ask for it.
		"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		"registryPullQPS": 0, "serializeImagePulls": false, "eventRecordQPS": 0, "maxPods": 250,
		"staticPodPath": n.dir("manifests"), "fileCheckFrequency": "1s", "volumePluginDir": n.dir("plugins"),
		"resolvConf": "/etc/resolv.conf", "clusterDomain": "cluster.local", "clusterDNS": []string{"10.96.0.10"},
		// Back-off that a test can wait for, logs that a test can fill.
		"crashLoopBackOff":    map[string]string{"maxContainerRestartPeriod": "3s"},
		"containerLogMaxSize": "100Ki", "containerLogMaxFiles": 3, "containerLogMonitorInterval": "3s",
		"allowedUnsafeSysctls": []string{"net.core.somaxconn", "kernel.msg*"},
		"volumeStatsAggPeriod": "5s", "registerNode": false,
	}
	maps.Copy(config, changes)
	return config
}

// startKubelet starts the kubelet with changes to the common configuration.
func (n *node) startKubelet(ctx context.Context, changes map[string]any, flags ...string) error {
	data, err := json.MarshalIndent(n.kubeletConfig(changes), "", " ")
	if err != nil {
		return err
	}
	config := n.dir("kubelet.yaml")
	if err := os.WriteFile(config, data, 0o644); err != nil {
		return err
	}
	n.kubeletArgs = append([]string{"--config", config, "--root-dir", n.dir("k"), "--cert-dir", n.dir("certs"),
		"--hostname-override", nodeName, "--v", "2"}, flags...)
	return n.kubeletAgain(ctx)
}

// kubeletAgain starts the kubelet as it was started last.
func (n *node) kubeletAgain(ctx context.Context) error {
	args, err := apart(n.Dir, append([]string{filepath.Join(n.programs, "kubelet")}, n.kubeletArgs...)...)
	if err != nil {
		return err
	}
	p, err := n.Run("kubelet", "unshare", args...)
	if err != nil {
		return err
	}
	n.kubelet = p
	return p.Await(ctx, func() error {
		_, err := n.get(ctx, "http://127.0.0.1:10248/healthz")
		return err
	})
}

// get is a GET that must be answered with 200.
func (n *node) get(ctx context.Context, url string) ([]byte, error) {
	return n.do(ctx, http.MethodGet, url, "", "")
}

func (n *node) do(ctx context.Context, method, url, contentType, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := n.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, data)
	}
	return data, nil
}

// kubeletURL is an endpoint of the kubelet's own.
func kubeletURL(path string) string { return "https://" + nodeIP + ":10250" + path }

// apiURL is one of the API.
func apiURL(path string) string { return "https://" + nodeIP + ":6443" + path }

// inCluster gives the node as a member of a cluster, which it makes the first time.
func inCluster(t *testing.T) *node {
	t.Helper()
	n := theNode
	n.cluster.Do(func() { n.clusterErr = n.makeCluster(context.Background()) })
	if n.clusterErr != nil {
		t.Fatalf("cannot make the cluster: %v", n.clusterErr)
	}
	return n
}

func (n *node) makeCluster(ctx context.Context) error {
	if err := n.clusterFiles(); err != nil {
		return err
	}
	key := n.dir("certs/service-accounts.pem")
	etcd := []string{"--data-dir", n.dir("etcd"), "--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
		"--listen-peer-urls", "http://127.0.0.1:2380", "--logger", "zap", "--log-level", "warn"}
	api := []string{"--etcd-servers", "http://127.0.0.1:2379", "--cert-dir", n.dir("certs/api"), "--bind-address", nodeIP, "--advertise-address", nodeIP,
		"--service-cluster-ip-range", "10.96.0.0/16", "--token-auth-file", n.dir("certs/tokens.csv"), "--authorization-mode", "AlwaysAllow", "--allow-privileged",
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", key, "--service-account-signing-key-file", key,
		"--kubelet-preferred-address-types", "InternalIP", "--endpoint-reconciler-type", "none"}
	for _, program := range []struct {
		name, healthz string
		args          []string
	}{
		{"etcd", "http://127.0.0.1:2379/health", etcd},
		{"kube-apiserver", apiURL("/readyz"), api},
		{"kube-controller-manager", "", []string{"--kubeconfig", n.kubeconfig, "--service-account-private-key-file", key, "--root-ca-file", n.dir("certs/api/apiserver.crt"), "--leader-elect=false", "--cert-dir", n.dir("certs/cm")}},
		{"kube-scheduler", "", []string{"--kubeconfig", n.kubeconfig, "--leader-elect=false", "--cert-dir", n.dir("certs/sched")}},
	} {
		p, err := n.Run(program.name, filepath.Join(n.programs, program.name), program.args...)
		if err != nil {
			return err
		}
		n.controlPlane = append(n.controlPlane, p)
		if program.healthz == "" {
			continue
		}
		if err := p.Await(ctx, func() error { _, err := n.get(ctx, program.healthz); return err }); err != nil {
			return fmt.Errorf("cannot start %s: %w", program.name, err)
		}
	}
	if err := n.startKubelet(ctx, clusterKubelet, "--kubeconfig", n.kubeconfig, "--node-ip", nodeIP); err != nil {
		return err
	}
	if err := eventually(ctx, time.Minute, func() error { return n.ready(ctx) }); err != nil {
		return err
	}
	if _, err := n.kubectl(ctx, "", "create", "deployment", "witness", "--image", n.agnhost); err != nil {
		return err
	}
	return eventually(ctx, patience, func() error {
		p, err := n.readWitness(ctx)
		n.witness = p
		return err
	})
}

// readWitness gives the pod of the Deployment that is there from the beginning
// to the end, once it is ready.
func (n *node) readWitness(ctx context.Context) (*pod, error) {
	data, err := n.get(ctx, apiURL("/api/v1/namespaces/default/pods"))
	if err != nil {
		return nil, err
	}
	var list struct{ Items []pod }
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	if len(list.Items) != 1 {
		return nil, fmt.Errorf("the witness has %d pods", len(list.Items))
	}
	return &list.Items[0], isReady(list.Items[0])
}

// undisturbed wants the witness to be the same pod and container as in the
// beginning, whatever tests did to kubelet and daemon meanwhile, and deletes it.
func (n *node) undisturbed(ctx context.Context) error {
	if n.witness == nil {
		return nil
	}
	now, err := n.readWitness(ctx)
	if err != nil {
		return err
	}
	was, is := n.witness.Status, now.Status
	if now.Metadata.UID != n.witness.Metadata.UID || was.PodIP != is.PodIP || is.ContainerStatuses[0].RestartCount != 0 ||
		was.ContainerStatuses[0].ContainerID != is.ContainerStatuses[0].ContainerID {
		err = fmt.Errorf("the witness was %v and is %v", was, is)
	}
	_, deleteErr := n.kubectl(ctx, "", "delete", "deployment", "witness")
	return errors.Join(err, deleteErr)
}

// clusterKubelet is what the kubelet of the cluster is told beyond the common.
var clusterKubelet = map[string]any{"registerNode": true}

// ready tells why the node is not Ready.
func (n *node) ready(ctx context.Context) error {
	data, err := n.get(ctx, apiURL("/api/v1/nodes/"+nodeName))
	if err != nil {
		return err
	}
	var nd struct {
		Spec   struct{ Taints []struct{ Key string } }
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := json.Unmarshal(data, &nd); err != nil {
		return err
	}
	if len(nd.Spec.Taints) > 0 {
		return fmt.Errorf("the node has the taints %v", nd.Spec.Taints)
	}
	for _, c := range nd.Status.Conditions {
		if c.Type == "Ready" && c.Status == "True" {
			return nil
		}
	}
	return fmt.Errorf("the node is not ready: %v", nd.Status.Conditions)
}

func (n *node) clusterFiles() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	config := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",
"clusters":[{"name":"c","cluster":{"server":%q,"insecure-skip-tls-verify":true}}],
"users":[{"name":"u","user":{"token":%q}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}]}`, apiURL(""), token)
	return errors.Join(
		os.WriteFile(n.dir("certs/service-accounts.pem"), block, 0o600),
		os.WriteFile(n.dir("certs/tokens.csv"), []byte(token+",admin,admin,system:masters\n"), 0o600),
		os.WriteFile(n.kubeconfig, []byte(config), 0o600))
}

// stopAll ends what was started beside the daemon.
func (n *node) stopAll() {
	if n.kubelet != nil {
		n.kubelet.Stop(unix.SIGTERM)
	}
	for _, p := range slices.Backward(n.controlPlane) {
		p.Stop(unix.SIGTERM)
	}
}

// takeDown ends everything and tells what is left, or was not as it should be.
func (n *node) takeDown() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var errs []error
	if n.kubelet != nil && !n.kubelet.Ended() && n.Running() {
		errs = append(errs, n.emptied(ctx))
	}
	n.stopAll()
	if n.Running() {
		errs = append(errs, n.RemoveAll(ctx))
		problems, err := n.Admin().Check(ctx)
		errs = append(errs, err)
		for _, p := range problems {
			errs = append(errs, fmt.Errorf("berth check: %+v", p))
		}
	}
	for _, left := range n.OfPods() {
		// These are the kubelet's, as long as there is a kubelet.
		if base := filepath.Base(left); base != "kubepods" && base != "burstable" && base != "besteffort" && left != "mount "+n.dir("etcd") {
			errs = append(errs, fmt.Errorf("left by removed pods: %s", left))
		}
	}
	n.keepLogs()
	return errors.Join(append(errs, n.Close(ctx))...)
}

// emptied deletes everything in the cluster and waits until the kubelet has
// cleaned up behind it: once a minute it removes pods that ended.
func (n *node) emptied(ctx context.Context) error {
	var errs []error
	if len(n.controlPlane) > 0 && n.clusterErr == nil {
		errs = append(errs, n.undisturbed(ctx), n.deleteSpaces(ctx))
	}
	errs = append(errs, eventually(ctx, 150*time.Second, func() error {
		entries, err := os.ReadDir(n.dir("k/pods"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if len(entries) > 0 {
			return fmt.Errorf("the kubelet keeps the volumes of %d deleted pods", len(entries))
		}
		pods, err := n.kubeletsPods(ctx)
		if err != nil {
			return err
		}
		for _, p := range pods {
			// A short run leaves it to us to remove what has ended.
			if !testing.Short() || p.State == criv1.PodSandboxState_SANDBOX_READY {
				return fmt.Errorf("the kubelet has not removed %d pods, such as %v", len(pods), p)
			}
		}
		return nil
	}))
	return errors.Join(errs...)
}

// keepLogs copies what the programs said out of the lab, which goes away.
func (n *node) keepLogs() {
	to := filepath.Join(n.Clone, "hack/.cache/kube-logs")
	if err := os.MkdirAll(to, 0o755); err != nil {
		return
	}
	logs, _ := filepath.Glob(n.dir("*.log"))
	for _, log := range logs {
		data, err := os.ReadFile(log)
		if err == nil {
			_ = os.WriteFile(filepath.Join(to, filepath.Base(log)), data, 0o644)
		}
	}
	fmt.Println("kube: the programs' logs are in", to)
}

// kubectl runs kubectl and gives what it printed.
func (n *node) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := n.kubectlCommand(ctx, args...)
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, cmp.Or(strings.TrimSpace(stderr.String()), stdout.String()))
	}
	return stdout.String(), nil
}

func (n *node) kubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(n.programs, "kubectl"), append([]string{"--kubeconfig", n.kubeconfig, "--cache-dir", n.dir("kube-cache")}, args...)...)
	cmd.Dir = n.Dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}
