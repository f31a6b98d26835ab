//go:build kube

package kube

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hostDir makes a directory of the host for a test's pods.
func (s *space) hostDir() string {
	s.t.Helper()
	dir := filepath.Join(s.Dir, "host", s.ns)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// TestConfigVolumes mounts what the API holds: ConfigMaps, Secrets, a projected
// volume with a service account's token; and sees a change arrive.
func TestConfigVolumes(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: red, nested.conf: "a = b"}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {password: hunter2}
`)
	s.run("p", `
  securityContext: {fsGroup: 4000}
  volumes:
  - {name: settings, configMap: {name: settings, items: [{key: color, path: deep/color}, {key: nested.conf, path: nested.conf, mode: 0400}]}}
  - {name: key, secret: {secretName: key, defaultMode: 0440}}
  - name: all
    projected:
      sources:
      - {configMap: {name: settings}}
      - {secret: {name: key}}
      - {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: limit, resourceFieldRef: {containerName: c, resource: limits.memory, divisor: 1Mi}}]}}
      - {serviceAccountToken: {path: token, audience: somebody}}
  containers:
  - name: c
    image: $BOX
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.2; done"]
    resources: {limits: {memory: 64Mi}}
    envFrom: [{configMapRef: {name: settings}, prefix: SET_}]
    env:
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: key, key: password}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    - {name: BOTH, value: "$(PASSWORD)-$(NODE)"}
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: settings, mountPath: /one, subPath: deep/color}
    - {name: key, mountPath: /key, readOnly: true}
    - {name: all, mountPath: /all}
`)
	p := s.ready("p")
	s.says("p", "red a = b hunter2 red", "echo $(cat /settings/deep/color) $(cat /settings/nested.conf) $(cat /key/password) $(cat /one)")
	s.says("p", "red hunter2 64 3", "echo $(cat /all/color) $(cat /all/password) $(cat /all/limit) $(cut -d. -f1-3 /all/token | tr . '\\n' | wc -l)")
	s.says("p", "red hunter2 "+nodeName+" "+p.Status.PodIP+" 67108864 hunter2-"+nodeName, "echo $SET_color $PASSWORD $NODE $IP $LIMIT $BOTH")
	s.says("p", "0:4000 440", "stat -L -c '%u:%g %a' /key/password")
	s.says("p", "default", "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace | sed s/"+s.ns+"/default/")
	s.says("p", "refused", "echo x 2>/dev/null >/key/new || echo refused")

	s.kubectl("patch", "configmap", "settings", "--patch", `{"data":{"color":"green"}}`)
	s.eventually(func() error {
		if got := s.exec("p", "cat /settings/deep/color"); got != "green" {
			return fmt.Errorf("the change has not arrived: %q", got)
		}
		return nil
	})
	// A mount by subPath keeps what it had.
	s.says("p", "red", "cat /one")
}

// TestEmptyDirs shares directories between containers, on disk and in memory.
func TestEmptyDirs(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("p", `
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 8Mi}}
  containers:
  - name: c
    image: $BOX
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.2; done"]
    env: [{name: WHO, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: memory, mountPath: /memory}
    - {name: disk, mountPath: /sub, subPath: a/b}
    - {name: disk, mountPath: /expr, subPathExpr: "by/$(WHO)"}
  - name: other
    image: $BOX
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.2; done"]
    volumeMounts: [{name: disk, mountPath: /disk, readOnly: true}]
`)
	s.ready("p")
	s.says("p", "tmpfs 8192", "df -P /memory | awk 'END { print $1, $2 }'")
	s.says("p", "full", "head -c 20000000 /dev/zero 2>/dev/null >/memory/x || echo full; rm /memory/x")
	s.says("p", "777", "stat -c %a /disk")
	s.exec("p", "echo one >/disk/file; echo two >/sub/file; echo three >/expr/file")
	if got := s.kubectl("exec", "p", "-c", "other", "--", "cat", "/disk/file", "/disk/a/b/file", "/disk/by/p/file"); got != "one\ntwo\nthree" {
		t.Errorf("the other container sees %q", got)
	}
	if got, err := s.tryKubectl("", "exec", "p", "-c", "other", "--", "touch", "/disk/no"); err == nil || !strings.Contains(err.Error(), "Read-only file system") {
		t.Errorf("it wrote to a read-only mount: %q, %v", got, err)
	}
	// What they share outlives a container.
	s.kubectl("exec", "p", "-c", "other", "--", "kill", "1")
	s.until("p", func(p pod) error {
		if c := p.Status.ContainerStatuses[1]; c.RestartCount != 1 || c.State.Running == nil {
			return fmt.Errorf("not restarted: %v", c)
		}
		return nil
	})
	if got := s.kubectl("exec", "p", "-c", "other", "--", "cat", "/disk/file"); got != "one" {
		t.Errorf("after a restart it sees %q", got)
	}
}

// TestHostPaths mounts paths of the host of each type, and is refused what is of
// another.
func TestHostPaths(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	dir := s.hostDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("on the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	// A relative address: the whole path may be longer than a socket's may be.
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(s.Dir, "hp.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	volumes := []struct{ name, kind, path string }{
		{"any", `""`, "dir"}, {"dir", "Directory", "dir"}, {"newdir", "DirectoryOrCreate", "made/dir"}, {"file", "File", "file"},
		{"newfile", "FileOrCreate", "made.file"}, {"sock", "Socket", filepath.Join(s.Dir, "hp.sock")}, {"char", "CharDevice", "/dev/null"}, {"block", "BlockDevice", "/dev/loop0"},
	}
	var spec, mounts strings.Builder
	for _, v := range volumes {
		path := v.path
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		fmt.Fprintf(&spec, "  - {name: %s, hostPath: {path: %s, type: %s}}\n", v.name, path, v.kind)
		fmt.Fprintf(&mounts, "    - {name: %[1]s, mountPath: /m/%[1]s}\n", v.name)
	}
	s.run("p", fmt.Sprintf(`
  volumes:
%s
  containers:
  - name: c
    image: $BOX
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.2; done"]
    volumeMounts:
%s`, spec.String(), mounts.String()))
	s.ready("p")
	s.says("p", "directory,directory,directory,regular file,regular empty file,socket,character special file,block special file,",
		"for f in any dir newdir file newfile sock char block; do printf %s, \"$(stat -c %F /m/$f)\"; done")
	s.exec("p", "echo more >>/m/newfile; echo x >/m/newdir/x; echo y >/m/char")
	for file, want := range map[string]string{"made.file": "more\n", "made/dir/x": "x\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != want {
			t.Errorf("%s on the host is %q, %v", file, got, err)
		}
	}
	s.run("wrong", fmt.Sprintf(`
  volumes: [{name: v, hostPath: {path: %s, type: Directory}}]
  containers: [{name: c, image: $BOX, command: [sleep, "1"], volumeMounts: [{name: v, mountPath: /v}]}]
`, filepath.Join(dir, "file")))
	s.event("wrong", "hostPath type check failed")
}

// TestImageVolumes mounts an image's files, all and a part.
func TestImageVolumes(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("p", `
  volumes: [{name: data, image: {reference: $REGISTRY/data:1, pullPolicy: IfNotPresent}}]
  containers:
  - name: c
    image: $BOX
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.2; done"]
    volumeMounts: [{name: data, mountPath: /data}, {name: data, mountPath: /part, subPath: model/sub}]
`)
	s.ready("p")
	s.says("p", "w8 m0re m0re refused", "echo $(cat /data/model/weights) $(cat /data/model/sub/more) $(cat /part/more) $(touch /data/x 2>/dev/null || echo refused)")

	s.run("lacks", `
  volumes: [{name: data, image: {reference: $REGISTRY/nothing:1}}]
  containers: [{name: c, image: $BOX, command: [sleep, "1"], volumeMounts: [{name: data, mountPath: /data}]}]
`)
	s.event("lacks", "/nothing:1")
	s.until("lacks", func(p pod) error {
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Waiting == nil {
			return fmt.Errorf("no status yet")
		}
		if r := p.Status.ContainerStatuses[0].State.Waiting.Reason; r != "ImagePullBackOff" && r != "ErrImagePull" {
			return fmt.Errorf("it waits for %q", r)
		}
		return nil
	})
}

// TestMountPropagation is what a CSI driver on the node does: a mount that its
// container makes appears on the host and in the pods that use it, and goes.
func TestMountPropagation(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	dir := s.hostDir()
	container := func(propagation, privileged string) string {
		return fmt.Sprintf(`
  volumes: [{name: v, hostPath: {path: %s}}]
  containers:
  - name: c
    image: $BOX
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.2; done"]
    securityContext: {privileged: %s}
    volumeMounts: [{name: v, mountPath: /v, mountPropagation: %s}]
`, dir, privileged, propagation)
	}
	s.run("driver", container("Bidirectional", "true"))
	s.run("user", container("HostToContainer", "false"))
	s.run("apart", container("None", "false"))
	for _, name := range []string{"driver", "user", "apart"} {
		s.ready(name)
	}
	s.exec("driver", "mkdir /v/volume && mount -t tmpfs csi /v/volume && echo data >/v/volume/file")
	if got, err := os.ReadFile(filepath.Join(dir, "volume/file")); string(got) != "data\n" {
		t.Errorf("the host sees %q, %v", got, err)
	}
	s.says("user", "data", "cat /v/volume/file")
	s.says("apart", "nothing", "cat /v/volume/file 2>/dev/null || echo nothing")
	// A pod that comes later has the mount in it from its start.
	s.run("later", strings.Replace(container("None", "false"), "path: "+dir, "path: "+filepath.Join(dir, "volume"), 1))
	s.ready("later")
	s.says("later", "data", "cat /v/file")
	s.kubectl("delete", "pod", "later", "user")
	s.gone("later")
	s.exec("driver", "umount /v/volume")
	if _, err := os.Stat(filepath.Join(dir, "volume/file")); err == nil {
		t.Error("the mount is on the host still")
	}
	s.run("recursive", fmt.Sprintf(`
  volumes: [{name: v, hostPath: {path: %s}}]
  containers:
  - name: c
    image: $BOX
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.2; done"]
    volumeMounts: [{name: v, mountPath: /v, readOnly: true, recursiveReadOnly: Enabled}]
`, dir))
	p := s.ready("recursive")
	s.says("recursive", "refused", "touch /v/x 2>/dev/null || echo refused")
	for _, m := range p.Status.ContainerStatuses[0].VolumeMounts {
		if m.Name == "v" && m.RecursiveReadOnly != "Enabled" {
			t.Errorf("the mount is said to be %+v", m)
		}
	}
}
