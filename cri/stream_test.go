package cri

import (
	"testing"

	"google.golang.org/grpc/codes"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
)

// What cannot be streamed is refused before there is a URL.
func TestStreamsThatAreRefused(t *testing.T) {
	n := startNode(t)
	ctx := t.Context()
	podID, err := n.pods.Run(ctx, pod.ViewAll, spec.Pod{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := n.pods.Create(ctx, pod.ViewAll, podID, spec.Container{})
	if err != nil {
		t.Fatal(err)
	}
	sh := []string{"sh"}
	for name, tc := range map[string]struct {
		r    *criv1.ExecRequest
		code codes.Code
	}{
		"no command":               {&criv1.ExecRequest{ContainerId: id, Stdout: true}, codes.InvalidArgument},
		"no stream":                {&criv1.ExecRequest{ContainerId: id, Cmd: sh}, codes.InvalidArgument},
		"a terminal with a stderr": {&criv1.ExecRequest{ContainerId: id, Cmd: sh, Tty: true, Stdout: true, Stderr: true}, codes.InvalidArgument},
		"not running":              {&criv1.ExecRequest{ContainerId: id, Cmd: sh, Stdout: true}, codes.FailedPrecondition},
		"no container":             {&criv1.ExecRequest{ContainerId: "0", Cmd: sh, Stdout: true}, codes.NotFound},
	} {
		_, err := n.local.Exec(ctx, tc.r)
		wantCode(t, name, err, tc.code)
	}
	_, err = n.local.Attach(ctx, &criv1.AttachRequest{ContainerId: id, Stdout: true})
	wantCode(t, "attach, not running", err, codes.FailedPrecondition)
	_, err = n.remote.Attach(ctx, &criv1.AttachRequest{ContainerId: id, Stdout: true})
	wantCode(t, "attach, not the kubelet's", err, codes.NotFound)
	_, err = n.local.PortForward(ctx, &criv1.PortForwardRequest{PodSandboxId: podID, Port: []int32{70000}})
	wantCode(t, "a port that cannot be", err, codes.InvalidArgument)
	if err := n.pods.Stop(ctx, pod.ViewAll, podID); err != nil {
		t.Fatal(err)
	}
	_, err = n.local.PortForward(ctx, &criv1.PortForwardRequest{PodSandboxId: podID, Port: []int32{80}})
	wantCode(t, "a stopped pod", err, codes.FailedPrecondition)
}
