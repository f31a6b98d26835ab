package lab

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodConfig is a plain pod with a log directory of its own.
func (l *Lab) PodConfig(name string) *criv1.PodSandboxConfig {
	return &criv1.PodSandboxConfig{
		Metadata:     &criv1.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "lab"},
		Hostname:     name,
		LogDirectory: filepath.Join(l.Logs, name),
		Linux: &criv1.LinuxPodSandboxConfig{
			SecurityContext: &criv1.LinuxSandboxSecurityContext{NamespaceOptions: &criv1.NamespaceOption{Pid: criv1.NamespaceMode_CONTAINER}},
		},
	}
}

// ContainerConfig runs command in the image ref; its log is NAME.log.
func ContainerConfig(name, ref string, command ...string) *criv1.ContainerConfig {
	return &criv1.ContainerConfig{
		Metadata: &criv1.ContainerMetadata{Name: name},
		Image:    &criv1.ImageSpec{Image: ref},
		Command:  command,
		LogPath:  name + ".log",
		Linux:    &criv1.LinuxContainerConfig{SecurityContext: &criv1.LinuxContainerSecurityContext{NamespaceOptions: &criv1.NamespaceOption{Pid: criv1.NamespaceMode_CONTAINER}}},
	}
}

// RunPod does what the kubelet does: run the pod, create and start the container.
func (l *Lab) RunPod(ctx context.Context, pod *criv1.PodSandboxConfig, container *criv1.ContainerConfig) (podID, containerID string, err error) {
	rt := criv1.NewRuntimeServiceClient(l.Conn())
	sandbox, err := rt.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: pod})
	if err != nil {
		return "", "", fmt.Errorf("RunPodSandbox: %w", err)
	}
	created, err := rt.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: sandbox.PodSandboxId, Config: container, SandboxConfig: pod})
	if err != nil {
		return sandbox.PodSandboxId, "", fmt.Errorf("CreateContainer: %w", err)
	}
	if _, err := rt.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: created.ContainerId}); err != nil {
		return sandbox.PodSandboxId, created.ContainerId, fmt.Errorf("StartContainer: %w", err)
	}
	return sandbox.PodSandboxId, created.ContainerId, nil
}

// RemovePod stops and removes a pod with its containers.
func (l *Lab) RemovePod(ctx context.Context, id string) error {
	rt := criv1.NewRuntimeServiceClient(l.Conn())
	if _, err := rt.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("StopPodSandbox: %w", err)
	}
	if _, err := rt.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("RemovePodSandbox: %w", err)
	}
	return nil
}

// RemoveAll removes every pod and every image.
func (l *Lab) RemoveAll(ctx context.Context) error {
	rt, im := criv1.NewRuntimeServiceClient(l.Conn()), criv1.NewImageServiceClient(l.Conn())
	pods, err := rt.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range pods.Items {
		errs = append(errs, l.RemovePod(ctx, p.Id))
	}
	images, err := im.ListImages(ctx, &criv1.ListImagesRequest{})
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, i := range images.Images {
		_, err := im.RemoveImage(ctx, &criv1.RemoveImageRequest{Image: &criv1.ImageSpec{Image: i.Id}})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Pull fetches ref and returns the image's id.
func (l *Lab) Pull(ctx context.Context, ref string) (string, error) {
	r, err := criv1.NewImageServiceClient(l.Conn()).PullImage(ctx, &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: ref}})
	if err != nil {
		return "", fmt.Errorf("PullImage: %w", err)
	}
	return r.ImageRef, nil
}
