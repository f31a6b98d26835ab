package translate

import (
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/berth-runtime/berth/runtime/spec"
)

// Container translates the configuration of CreateContainer.
func Container(c *criv1.ContainerConfig) (spec.Container, error) {
	switch {
	case c == nil:
		return spec.Container{}, invalid("a container needs a config")
	case c.Metadata.GetName() == "":
		return spec.Container{}, invalid("a container needs a name in its metadata")
	case c.Image.GetImage() == "":
		return spec.Container{}, invalid("a container needs an image")
	}
	out := spec.Container{
		Metadata:    spec.ContainerMetadata{Name: c.Metadata.Name, Attempt: c.Metadata.Attempt},
		Image:       c.Image.Image,
		UserImage:   c.Image.UserSpecifiedImage,
		Command:     c.Command,
		Args:        c.Args,
		WorkingDir:  c.WorkingDir,
		Labels:      c.Labels,
		Annotations: c.Annotations,
		LogPath:     c.LogPath,
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		TTY:         c.Tty,
		Resources:   Resources(c.Linux.GetResources()),
	}
	if p := c.LogPath; p != "" && !filepath.IsLocal(p) {
		return out, invalid("log_path %q is not a path below the pod's log_directory", p)
	}
	var err error
	if out.Env, err = environment(c.Envs); err != nil {
		return out, err
	}
	if out.Mounts, err = mounts(c.Mounts); err != nil {
		return out, err
	}
	if out.Devices, err = devices(c.Devices); err != nil {
		return out, err
	}
	for _, d := range c.CDIDevices {
		out.CDIDevices = append(out.CDIDevices, d.GetName())
	}
	if out.StopSignal, err = signalName(c.StopSignal); err != nil {
		return out, err
	}
	out.Security, err = security(c.Linux.GetSecurityContext())
	return out, err
}

func environment(in []*criv1.KeyValue) ([]spec.Env, error) {
	var out []spec.Env
	for _, kv := range in {
		key, value := kv.GetKey(), string(kv.GetValue())
		if key == "" || strings.ContainsAny(key, "=\x00") {
			return nil, invalid("%q is no name of an environment variable", key)
		}
		if strings.ContainsRune(value, 0) {
			return nil, invalid("environment variable %s has a NUL byte", key)
		}
		// CRI allows any bytes. libcontainer hands the environment to a
		// container's first process as JSON, which would replace these.
		if !utf8.ValidString(value) {
			return nil, invalid("environment variable %s is not UTF-8, and would reach the container changed", key)
		}
		out = append(out, spec.Env{Key: key, Value: value})
	}
	return out, nil
}

func mounts(in []*criv1.Mount) ([]spec.Mount, error) {
	var out []spec.Mount
	for _, m := range in {
		t, err := mount(m)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

var fromPropagation = map[criv1.MountPropagation]spec.Propagation{
	criv1.MountPropagation_PROPAGATION_PRIVATE:           spec.PropagationPrivate,
	criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER: spec.PropagationSlave,
	criv1.MountPropagation_PROPAGATION_BIDIRECTIONAL:     spec.PropagationShared,
}

func mount(m *criv1.Mount) (spec.Mount, error) {
	out := spec.Mount{
		ContainerPath:     m.GetContainerPath(),
		HostPath:          m.GetHostPath(),
		ReadOnly:          m.GetReadonly(),
		RecursiveReadOnly: m.GetRecursiveReadOnly(),
		SELinuxRelabel:    m.GetSelinuxRelabel(),
		Propagation:       fromPropagation[m.GetPropagation()],
		Options:           m.GetMountOptions(),
	}
	if m.GetImage().GetImage() != "" {
		out.Image, out.UserImage, out.ImageSubPath = m.Image.Image, m.Image.UserSpecifiedImage, m.ImageSubPath
		out.ImageHandler, out.ImageAnnotations = m.Image.RuntimeHandler, m.Image.Annotations
	}
	at := out.ContainerPath
	switch {
	case !filepath.IsAbs(at):
		return out, invalid("mount: container_path %q is not an absolute path", at)
	case out.Image != "" && out.HostPath != "":
		return out, invalid("%v: mount at %s: host_path %q with an image", crierrors.ErrImageVolumeMountFailed, at, out.HostPath)
	case out.Image != "" && !out.ReadOnly:
		return out, invalid("%v: mount at %s: an image needs readonly", crierrors.ErrImageVolumeMountFailed, at)
	case out.Image == "" && m.GetImageSubPath() != "":
		return out, invalid("mount at %s: image_sub_path without an image", at)
	case out.Image == "" && !filepath.IsAbs(out.HostPath):
		return out, invalid("mount at %s: host_path %q is not an absolute path", at, out.HostPath)
	case out.Propagation == "":
		return out, invalid("mount at %s: unknown propagation %d", at, m.GetPropagation())
	case out.RecursiveReadOnly && !out.ReadOnly:
		return out, invalid("mount at %s: recursive_read_only needs readonly", at)
	case out.RecursiveReadOnly && out.Propagation != spec.PropagationPrivate:
		return out, invalid("mount at %s: recursive_read_only needs propagation PRIVATE", at)
	}
	for _, o := range out.Options {
		// What is passed on must not turn the other fields around.
		if !slices.Contains([]string{"noexec", "nodev", "nosuid"}, o) {
			return out, invalid("mount at %s: mount option %q is not noexec, nodev or nosuid", at, o)
		}
	}
	if len(m.GetUidMappings())+len(m.GetGidMappings()) == 0 {
		return out, nil
	}
	ids, err := idMap("the mount at "+at, m.GetUidMappings(), m.GetGidMappings())
	out.IDs = &ids
	return out, err
}

// criMounts is the reverse, for the echo in a container's status. images are
// the ids of the images that the mounts are of, if any is.
func criMounts(in []spec.Mount, images []string) []*criv1.Mount {
	out := make([]*criv1.Mount, 0, len(in))
	for i, m := range in {
		t := &criv1.Mount{
			ContainerPath:     m.ContainerPath,
			HostPath:          m.HostPath,
			Readonly:          m.ReadOnly,
			RecursiveReadOnly: m.RecursiveReadOnly,
			SelinuxRelabel:    m.SELinuxRelabel,
			MountOptions:      m.Options,
		}
		if m.IDs != nil {
			t.UidMappings, t.GidMappings = criRange(m.IDs.UID), criRange(m.IDs.GID)
		}
		if m.Image != "" {
			t.ImageSubPath = m.ImageSubPath
			t.Image = &criv1.ImageSpec{Image: m.Image, UserSpecifiedImage: m.UserImage, RuntimeHandler: m.ImageHandler, Annotations: m.ImageAnnotations}
			if i < len(images) {
				t.Image.ImageRef = images[i]
			}
		}
		for mode, name := range fromPropagation {
			if m.Propagation == name {
				t.Propagation = mode
			}
		}
		out = append(out, t)
	}
	return out
}

func devices(in []*criv1.Device) ([]spec.Device, error) {
	var out []spec.Device
	for _, d := range in {
		if !filepath.IsAbs(d.GetHostPath()) {
			return nil, invalid("device: host_path %q is not an absolute path", d.GetHostPath())
		}
		if !filepath.IsAbs(d.GetContainerPath()) {
			return nil, invalid("device: container_path %q is not an absolute path", d.GetContainerPath())
		}
		if strings.Trim(d.GetPermissions(), "rwm") != "" {
			return nil, invalid("device %s: permissions %q are not of r, w and m", d.GetHostPath(), d.GetPermissions())
		}
		out = append(out, spec.Device{ContainerPath: d.GetContainerPath(), HostPath: d.GetHostPath(), Permissions: d.GetPermissions()})
	}
	return out, nil
}
