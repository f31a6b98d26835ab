package main

import (
	"errors"
	"fmt"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/selinux"
)

type selinuxConfig struct {
	Enable bool `toml:"enable,commented" comment:"Give containers and their files labels of SELinux, each pod a level of its own.\nThe policy must know containers (container-selinux). Without it, on a host with\nSELinux, containers that ask for labels are refused, and others run unlabelled."`
}

// buildLabels gives nil where the configuration wants no labels. To go without
// where it wants them would be to confine nobody in silence.
func buildLabels(cfg selinuxConfig) (*pod.Labels, error) {
	if !cfg.Enable {
		return nil, nil
	}
	if !selinux.Enabled() {
		return nil, errors.New("cannot give labels of SELinux: it is off on this host; remove selinux.enable from the configuration")
	}
	policy, err := selinux.Read()
	if err != nil {
		return nil, err
	}
	for _, label := range []selinux.Label{policy.Process, policy.File, policy.ReadOnly} {
		if err := selinux.Known(label); err != nil {
			return nil, fmt.Errorf("cannot give labels of SELinux: %w; its module for containers lacks (container-selinux has it)", err)
		}
	}
	return pod.NewLabels(policy), nil
}
