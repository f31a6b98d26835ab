// Package churn makes and removes many pods while the daemon is killed and
// plugins fail, as a kubelet would go on with it, and tells what is left.
package churn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/cnitest"
	"github.com/berth-runtime/berth/hack/lab"
)

// Setup is how pods are networked.
type Setup struct {
	Name string
	Mode string                       // of lab.Options.Network
	List func(l *lab.Lab) string      // the network configuration; nil: none
	Dir  func(l *lab.Lab) cnitest.Dir // of the plugin that fails; nil: there is none
}

// Setups are the three ways: embedded, and CNI with and without a plugin for
// host ports, each of these with a plugin that can fail.
func Setups() []Setup {
	dir := func(l *lab.Lab) cnitest.Dir { return cnitest.Dir(l.Dir + "/fault") }
	fault := func(l *lab.Lab) lab.Plugin { return lab.Plugin{"type": cnitest.Type, "dir": string(dir(l))} }
	return []Setup{
		{Name: "embedded", Mode: "bridge"},
		{Name: "CNI with portmap", Mode: "cni", Dir: dir, List: func(l *lab.Lab) string { return l.BridgeList("1.1.0", fault(l), lab.Portmap()) }},
		{Name: "CNI without portmap", Mode: "cni", Dir: dir, List: func(l *lab.Lab) string { return l.BridgeList("1.1.0", fault(l)) }},
	}
}

// Plan is how much of it.
type Plan struct {
	Pods    int
	AtATime int
	Kills   int // of the daemon, spread over the run
}

// Count is what happened.
type Count struct {
	Failed atomic.Int64 // pods that could not be made at once, by a plugin's fault
	Cut    atomic.Int64 // calls that a kill cut off
	Killed int
}

// Run lives all pods' lives. Each publishes a port of UDP and of TCP, over which
// something is sent, so that connections are tracked.
func Run(ctx context.Context, l *lab.Lab, p Plan) (*Count, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	count := &Count{}
	var done atomic.Int64
	work := make(chan int)
	var wg sync.WaitGroup
	for range p.AtATime {
		wg.Go(func() {
			for n := range work {
				if err := life(ctx, l, n, count); err != nil {
					cancel(fmt.Errorf("pod %d: %w", n, err))
					return
				}
				done.Add(1)
			}
		})
	}
	killed := make(chan error, 1)
	go func() { killed <- kill(ctx, l, p, count, &done) }()
	for n := range p.Pods {
		select {
		case work <- n:
		case <-ctx.Done():
		}
	}
	close(work)
	wg.Wait()
	return count, errors.Join(context.Cause(ctx), <-killed)
}

// kill ends the daemon as often as planned, whenever another part of the pods is
// through, and starts it again.
func kill(ctx context.Context, l *lab.Lab, p Plan, count *Count, done *atomic.Int64) error {
	for n := 1; n <= p.Kills; n++ {
		for done.Load() < int64(p.Pods*n/(p.Kills+1)) {
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				return nil // whoever cancelled tells why
			}
		}
		l.Kill()
		count.Killed++
		if err := l.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// life makes a pod and removes it, and tries each call again until it succeeds.
func life(ctx context.Context, l *lab.Lab, n int, count *Count) error {
	rt := criv1.NewRuntimeServiceClient(l.Conn())
	config := l.PodConfig(fmt.Sprintf("churn%d", n))
	port := int32(20000 + n)
	for _, protocol := range []criv1.Protocol{criv1.Protocol_TCP, criv1.Protocol_UDP} {
		config.PortMappings = append(config.PortMappings, &criv1.PortMapping{Protocol: protocol, ContainerPort: 80, HostPort: port})
	}
	var id string
	err := again(ctx, count, func(err error) bool {
		// The kubelet counts the attempt up when a pod could not be made.
		config.Metadata.Attempt++
		count.Failed.Add(1)
		return strings.Contains(err.Error(), "the cable is cut") || strings.Contains(err.Error(), "held by pod") || status.Code(err) == codes.AlreadyExists
	}, func(ctx context.Context) error {
		r, err := rt.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: config})
		id = r.GetPodSandboxId()
		return err
	})
	if err != nil {
		return fmt.Errorf("RunPodSandbox: %w", err)
	}
	if conn, err := l.DialInside(ctx, "udp", net.JoinHostPort("127.0.0.1", fmt.Sprint(port))); err == nil {
		_, _ = conn.Write([]byte("hello"))
		conn.Close()
	}
	// Whatever a failed attempt left is removed as the kubelet does it.
	pods, err := list(ctx, rt, config.Metadata, count)
	if err != nil {
		return err
	}
	for _, pod := range append(pods, id) {
		for verb, f := range map[string]func(ctx context.Context) error{
			"StopPodSandbox": func(ctx context.Context) error {
				_, err := rt.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: pod})
				return err
			},
			"RemovePodSandbox": func(ctx context.Context) error {
				_, err := rt.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: pod})
				return err
			},
		} {
			failed := func(err error) bool { return strings.Contains(err.Error(), "the cable is cut") }
			if err := again(ctx, count, failed, f); err != nil {
				return fmt.Errorf("%s: %w", verb, err)
			}
		}
	}
	return nil
}

// list finds all attempts of a pod.
func list(ctx context.Context, rt criv1.RuntimeServiceClient, m *criv1.PodSandboxMetadata, count *Count) (ids []string, err error) {
	err = again(ctx, count, nil, func(ctx context.Context) error {
		ids = nil
		r, err := rt.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
		for _, p := range r.GetItems() {
			if p.Metadata.Name == m.Name {
				ids = append(ids, p.Id)
			}
		}
		return err
	})
	return ids, err
}

// again calls f until it succeeds: at once where the daemon went away, and where
// expected says of its error that it was to be expected.
func again(ctx context.Context, count *Count, expected func(error) bool, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		err := f(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return errors.Join(err, context.Cause(ctx))
		case status.Code(err) == codes.Unavailable || status.Code(err) == codes.Canceled:
			count.Cut.Add(1)
		case expected == nil || !expected(err):
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// Left is what there should not be after the last pod: on the node, and by the
// daemon's own check.
func Left(ctx context.Context, l *lab.Lab) []string {
	left := append(l.OfPods(), l.OfNetwork()...)
	problems, err := l.Admin().Check(ctx)
	if err != nil {
		return append(left, err.Error())
	}
	for _, p := range problems {
		left = append(left, fmt.Sprintf("berth check: %s %s: %s", p.Kind, p.Object, p.Detail))
	}
	return left
}
