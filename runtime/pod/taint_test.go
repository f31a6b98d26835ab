package pod_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
)

// evil is what an image's author puts wherever there is room for it.
const evil = "EVIL"

// taintedImage has the sentinel in everything, and for keys those by which
// runtimes have been led to act: CVE-2026-53488 (labels that a restart plugin
// read), CVE-2026-53492 (CDI), CVE-2024-3154 (properties of systemd units),
// CVE-2023-6476 and CVE-2022-4318 (limits and /etc/passwd by annotation and
// environment), hooks and devices of others.
func taintedImage() spec.ImageConfig {
	c := spec.ImageConfig{
		ID: evil, Ref: evil, Name: evil,
		Entrypoint: []string{evil}, Cmd: []string{evil}, Env: []string{"HOME=/\n" + evil + ":x:0:0::/:/bin/sh", "_LIBCONTAINER_INITPIPE=" + evil, "LD_PRELOAD=/" + evil},
		User: evil, WorkingDir: "/" + evil, StopSignal: "SIGUSR1", Volumes: []string{"/" + evil, "/proc", "/sys/fs/cgroup", "/dev", "/etc/hosts"},
		Labels: map[string]string{},
	}
	for _, key := range []string{
		"cdi.k8s.io/gpu", "devices.nri.io/container.main", "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id",
		"io.kubernetes.cri-o.UnifiedCgroup.main", "io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel", "org.systemd.property.ExecStopPost",
		"org.criu.config", "containerd.io/restart.loguri", "containerd.io/restart.status", "run.oci.hooks.stderr", "run.oci.keep_original_groups",
		"unified", "bundle", evil,
	} {
		c.Labels[key] = "vendor.example/gpu=0"
		c.Env = append(c.Env, key+"=vendor.example/gpu=0")
	}
	return c
}

// emptyVolumes fills an image's volumes with nothing.
type emptyVolumes struct{ noVolumes }

func (emptyVolumes) CopyUp(_ context.Context, _, _, dst string) error { return os.Mkdir(dst, 0o755) }

// T-TAINT. The same container of a clean and of a tainted image: what the host
// is asked to do, and what the row says of it, differ in nothing but the
// image's own words and the volumes that it may have.
func TestImagesDecideNothingOnTheHost(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	dir := n.cdiDir(t)
	writeFile(t, filepath.Join(dir, "v.json"), `{"cdiVersion": "0.7.0", "kind": "vendor.example/gpu", "devices": [{"name": "0", "containerEdits": {"env": ["GPU=0"]}}]}`)
	n.with(t, func(c *pod.Config) {
		all := []string{"*", "*/*"}
		c.Volumes = emptyVolumes{}
		c.Handlers = map[string]spec.Handler{"": {PodAnnotations: all, ContainerAnnotations: all}}
	})
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("taint"))
	if err != nil {
		t.Fatal(err)
	}
	user := int64(1000)
	started := func(name string, image spec.ImageConfig) (id string, oci *specs.Spec, row map[string]any) {
		n.images.config = image
		c := containerConfig(name, "/bin/sleep", "600")
		c.WorkingDir, c.StopSignal, c.Security.RunAsUser = "/work", "SIGTERM", &user
		id, err := n.Create(t.Context(), pod.ViewAll, podID, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context(), pod.ViewAll, id); err != nil {
			t.Fatal(err)
		}
		return id, n.bundleSpec(t, id), n.row(t, id)
	}
	_, clean, cleanRow := started("same", spec.ImageConfig{})
	for _, c := range n.Containers(pod.ViewAll, pod.ContainerFilter{}) {
		if err := n.RemoveContainer(t.Context(), pod.ViewAll, c.ID); err != nil {
			t.Fatal(err)
		}
	}
	id, tainted, taintedRow := started("same", taintedImage())

	// What it may have: its variables, and a directory of ours at its volume.
	tainted.Process.Env, clean.Process.Env = nil, nil
	var kept []specs.Mount
	for _, m := range tainted.Mounts {
		if m.Destination == "/"+evil && strings.HasPrefix(m.Source, filepath.Join(n.cfg.Root, "volumes", id)+"/") {
			continue
		}
		kept = append(kept, m)
	}
	if len(kept) != len(tainted.Mounts)-1 {
		t.Errorf("of the image's volumes %d are mounted, want the one that covers nothing of ours", len(tainted.Mounts)-len(kept))
	}
	tainted.Mounts = kept
	if want, got := text(t, clean, cleanRow["id"].(string)), text(t, tainted, id); got != want {
		t.Errorf("the specification of a tainted image is\n%s\nthat of a clean one\n%s", got, want)
	}
	for _, row := range []map[string]any{cleanRow, taintedRow} {
		for _, own := range []string{"id", "image", "created_at", "started_at", "process"} {
			delete(row, own)
		}
	}
	if !reflect.DeepEqual(cleanRow, taintedRow) {
		t.Errorf("the row of a tainted image is\n%v\nthat of a clean one\n%v", taintedRow, cleanRow)
	}
}

// text is a specification without the container's own id.
func text(t *testing.T, oci *specs.Spec, id string) string {
	t.Helper()
	b, err := json.MarshalIndent(oci, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), id, "ID")
}

// row is a container's record as it is on disk.
func (n *node) row(t *testing.T, id string) map[string]any {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n.cfg.Root, "containers", id+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
