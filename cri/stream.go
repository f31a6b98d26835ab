package cri

import (
	"context"
	"math"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Exec offers a stream to a command in a running container.
func (s *Server) Exec(_ context.Context, r *criv1.ExecRequest) (*criv1.ExecResponse, error) {
	if len(r.Cmd) == 0 {
		return nil, errkind.New(errkind.InvalidArgument, "cannot execute in container %s: no command", r.ContainerId)
	}
	want := pod.Stdio{TTY: r.Tty, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr}
	id, err := s.streamable(r.ContainerId, want)
	if err != nil {
		return nil, err
	}
	url, err := s.cfg.Streams.Exec(id, r.Cmd, want)
	if err != nil {
		return nil, err
	}
	return &criv1.ExecResponse{Url: url}, nil
}

// Attach offers a stream to the first process of a running container.
func (s *Server) Attach(_ context.Context, r *criv1.AttachRequest) (*criv1.AttachResponse, error) {
	want := pod.Stdio{TTY: r.Tty, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr}
	id, err := s.streamable(r.ContainerId, want)
	if err != nil {
		return nil, err
	}
	url, err := s.cfg.Streams.Attach(id, want)
	if err != nil {
		return nil, err
	}
	return &criv1.AttachResponse{Url: url}, nil
}

// PortForward offers streams to ports of a ready pod.
func (s *Server) PortForward(_ context.Context, r *criv1.PortForwardRequest) (*criv1.PortForwardResponse, error) {
	p, err := s.cfg.Pods.Pod(s.cfg.View, r.PodSandboxId)
	if err != nil {
		return nil, err
	}
	if !p.Ready {
		return nil, errkind.New(errkind.FailedPrecondition, "cannot forward ports of pod %s: it is not ready", p.ID)
	}
	for _, port := range r.Port {
		if port < 1 || port > math.MaxUint16 {
			return nil, errkind.New(errkind.InvalidArgument, "cannot forward port %d of pod %s: there is no such port", port, p.ID)
		}
	}
	url, err := s.cfg.Streams.PortForward(p.ID, r.Port)
	if err != nil {
		return nil, err
	}
	return &criv1.PortForwardResponse{Url: url}, nil
}

// streamable checks what exec and attach ask for, and gives the whole id of
// the container.
func (s *Server) streamable(id string, want pod.Stdio) (string, error) {
	if want.TTY && want.Stderr {
		return "", errkind.New(errkind.InvalidArgument, "cannot stream from container %s: a terminal has no stderr of its own", id)
	}
	if !want.Stdin && !want.Stdout && !want.Stderr {
		return "", errkind.New(errkind.InvalidArgument, "cannot stream from container %s: none of stdin, stdout and stderr is asked for", id)
	}
	c, err := s.cfg.Pods.Container(s.cfg.View, id)
	if err != nil {
		return "", err
	}
	if c.State != pod.StateRunning {
		return "", errkind.New(errkind.FailedPrecondition, "cannot stream from container %s: it is %s, not running", c.ID, c.State)
	}
	return c.ID, nil
}
