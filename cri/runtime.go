package cri

import (
	"context"
	"maps"
	"slices"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// kubeletAPIVersion is what the kubelet demands in VersionResponse.version;
// it says nothing and has never changed.
const kubeletAPIVersion = "0.1.0"

// checkHandler refuses a handler that does not exist.
func (s *Server) checkHandler(name string) error {
	if name != "" && !slices.Contains(s.cfg.Handlers, name) {
		return errkind.New(errkind.InvalidArgument, "runtime handler %q is not configured: there is %q", name, s.cfg.Handlers)
	}
	return nil
}

// handlers lists the runtime handlers with what each can do: the default one,
// without a name, first. All run containers in the shim, so all can the same.
func (s *Server) handlers() []*criv1.RuntimeHandler {
	features := &criv1.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: s.cfg.RecursiveReadOnly, UserNamespaces: s.cfg.UserNamespaces()}
	out := []*criv1.RuntimeHandler{{Features: features}}
	for _, name := range s.cfg.Handlers {
		out = append(out, &criv1.RuntimeHandler{Name: name, Features: features})
	}
	return out
}

// Version tells who we are.
func (s *Server) Version(context.Context, *criv1.VersionRequest) (*criv1.VersionResponse, error) {
	return &criv1.VersionResponse{
		Version:           kubeletAPIVersion,
		RuntimeName:       s.cfg.RuntimeName,
		RuntimeVersion:    s.cfg.Version,
		RuntimeApiVersion: "v1",
	}, nil
}

// Status tells whether pods can be run and what they can have.
func (s *Server) Status(ctx context.Context, r *criv1.StatusRequest) (*criv1.StatusResponse, error) {
	network := &criv1.RuntimeCondition{Type: criv1.NetworkReady, Status: true}
	if err := s.cfg.NetworkStatus(ctx); err != nil {
		network.Status, network.Reason, network.Message = false, "NetworkPluginNotReady", err.Error()
	}
	out := &criv1.StatusResponse{
		// A daemon that has sockets has recovered, so it is ready.
		Status: &criv1.RuntimeStatus{Conditions: []*criv1.RuntimeCondition{
			{Type: criv1.RuntimeReady, Status: true},
			network,
		}},
		RuntimeHandlers: s.handlers(),
		Features: &criv1.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true,
			UserNamespacesHostNetwork: s.cfg.UserNamespaces()},
	}
	if r.GetVerbose() {
		out.Info = map[string]string{"config": s.cfg.ConfigJSON()}
		maps.Copy(out.Info, s.cfg.NetworkInfo())
	}
	return out, nil
}

// RuntimeConfig tells the cgroup driver, which overrides the kubelet's own.
func (s *Server) RuntimeConfig(context.Context, *criv1.RuntimeConfigRequest) (*criv1.RuntimeConfigResponse, error) {
	driver := criv1.CgroupDriver_CGROUPFS
	if s.cfg.CgroupDriver == "systemd" {
		driver = criv1.CgroupDriver_SYSTEMD
	}
	return &criv1.RuntimeConfigResponse{Linux: &criv1.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// UpdateRuntimeConfig hears of the node's pod CIDR, of which a network
// configuration is made if there is a template for it. An error would make the
// kubelet refuse the CIDR.
func (s *Server) UpdateRuntimeConfig(ctx context.Context, r *criv1.UpdateRuntimeConfigRequest) (*criv1.UpdateRuntimeConfigResponse, error) {
	return &criv1.UpdateRuntimeConfigResponse{}, s.cfg.SetPodCIDR(ctx, r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr())
}
