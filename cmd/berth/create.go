package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func createVerb(c *cli) *cobra.Command {
	r := runFlags{createOnly: true}
	cmd := &cobra.Command{
		Use:   "create [flags] IMAGE [COMMAND [ARG...]]",
		Short: "Make a container and do not start it",
		Long: "Make a container in a pod of its own, as berth run does, and do not start it: berth start\n" +
			"does. Files can be copied into it before.",
		Example: examples("berth create --name web -p 8080:80 nginx", "berth cp site/. web:/usr/share/nginx/html"),
	}
	r.register(cmd.Flags())
	_ = cmd.Flags().MarkHidden("detach") // docker's create has none
	return c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		r.image, r.args = args[0], args[1:]
		r.entrypointSet = cmd.Flags().Changed("entrypoint")
		r.detach = r.remove // what removes it when it ends is the daemon
		if err := r.check(); err != nil {
			return err
		}
		one, err := c.makeOne(ctx, cl, &r)
		if err != nil {
			return err
		}
		fmt.Fprintln(c.out, one.container)
		return nil
	})
}

// join finds the pod that a container is to be made in.
func (r *runFlags) join(inv *inventory) error {
	if r.more.pod == "" {
		return nil
	}
	o, err := inv.podToJoin(r.more.pod, r.net.joins)
	if err != nil {
		return err
	}
	p := &problem{what: fmt.Sprintf("cannot make a container in %s", o)}
	switch {
	case o.kubelets():
		p.why, p.do = "it is the kubelet's, which kills what it does not know", "choose a pod of berth run, or add a container with kubectl debug"
	case o.pod.State != criv1.PodSandboxState_SANDBOX_READY:
		p.why, p.do = "it is stopped", "start its container first (berth start "+o.name()+"), or choose another pod: berth pods"
	default:
		r.within = &o
		return nil
	}
	return p
}

// podToJoin finds a pod by its name, or by one of its containers.
func (inv *inventory) podToJoin(name string, byContainer bool) (object, error) {
	if !byContainer {
		return inv.choose(name, inv.allPods(), "pod")
	}
	o, err := inv.choose(name, inv.allContainers(), "container")
	if err == nil && o.pod == nil {
		err = &problem{what: "cannot join the pod of container " + name, why: "it is being removed", do: "choose another container: berth ps"}
	}
	return object{pod: o.pod}, err
}

// takenNames are the names that containers of berth run and their pods have,
// with what has them.
func (inv *inventory) takenNames() map[string]string {
	taken := map[string]string{}
	for _, o := range inv.allPods() {
		if o.ours() {
			taken[o.name()] = "pod " + short(o.id(), false)
		}
	}
	for _, o := range inv.allContainers() {
		if o.ours() {
			taken[o.containerName()] = "container " + short(o.id(), false)
		}
	}
	return taken
}

// ensureMounts finds what is mounted: volumes, which are made if need be, and
// images, which are pulled.
func (c *cli) ensureMounts(ctx context.Context, cl *client, r *runFlags) error {
	all, err := parseMounts(r.volumes, r.more.mounts, r.more.tmpfs)
	if err != nil {
		return err
	}
	r.images, r.paths = map[string]string{}, map[string]string{}
	for _, ref := range all.images {
		if r.images[ref], err = c.ensureImage(ctx, cl, ref, r.pull, r.more.quiet); err != nil {
			return err
		}
	}
	for _, name := range all.volumes {
		v, err := cl.admin.CreateVolume(ctx, &api.CreateVolumeRequest{Name: name})
		if err != nil {
			return cannot(err, "make the volume %s", name)
		}
		r.paths[name] = v.Path
	}
	return nil
}
