package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// aNewAttempt is what starting again means.
const aNewAttempt = "A container runs once. One that has ended gets a new attempt: a new id, the same name and\n" +
	"configuration, the same volumes and a fresh writable layer; --keep carries the old\n" +
	"writable layer over. If its pod was stopped, that gets a new attempt too."

func startVerb(c *cli) *cobra.Command {
	var keep, attach, stdin bool
	var detachKeys string
	cmd := &cobra.Command{
		Use:     "start CONTAINER...",
		Short:   "Start containers that were created or have ended",
		Long:    "Start containers that were created or have ended. " + aNewAttempt,
		Example: examples("berth start web", "berth start --keep -a job"),
	}
	f := cmd.Flags()
	f.BoolVar(&keep, "keep", false, "carry the writable layer over to the new attempt")
	f.BoolVarP(&attach, "attach", "a", false, "show its output until it ends; its exit code becomes that of this command")
	f.BoolVarP(&stdin, "interactive", "i", false, "the same, and pass stdin on to it if it was made with -i")
	f.StringVar(&detachKeys, "detach-keys", defaultDetachKeys, "keys that leave it to itself, with -i, if it has a terminal")
	return c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		if attach = attach || stdin; attach && len(args) > 1 {
			return &problem{what: "cannot attach to several containers", why: "one terminal shows one", do: "start one with -a, the others without"}
		}
		keys, err := parseDetachKeys(detachKeys)
		if err != nil {
			return err
		}
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		return c.each(args, func(name string) error {
			targets, err := inv.startable(name)
			if err != nil {
				return err
			}
			for _, o := range targets {
				if attach {
					return c.startAndAttach(ctx, cl, o, stdin, keep, keys)
				}
				if err := c.again(ctx, cl, o, "start", &api.AgainRequest{Keep: keep}); err != nil {
					return err
				}
			}
			fmt.Fprintln(c.out, name)
			return nil
		})
	})
}

// startable is a container, or all of a pod's.
func (inv *inventory) startable(name string) ([]object, error) {
	o, err := inv.find(name)
	if err != nil {
		return nil, err
	}
	if o.container != nil {
		return []object{o}, nil
	}
	var all []object
	for _, ct := range inv.of(o.pod.Id) {
		all = append(all, object{container: ct, pod: o.pod})
	}
	if len(all) == 0 {
		return nil, &problem{what: fmt.Sprintf("cannot start %s", o), why: "it has no containers", do: fmt.Sprintf("make one in it: berth run --pod %s ...", o.name())}
	}
	return newest(all), nil
}

// again starts a container, by a new attempt if it has run before, and says so.
func (c *cli) again(ctx context.Context, cl *client, o object, verb string, r *api.AgainRequest) error {
	if o.container.State == criv1.ContainerState_CONTAINER_CREATED {
		_, err := cl.runtime.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: o.id()})
		return cannotExecute(err, "%s %s", verb, o)
	}
	if o.kubelets() {
		return &problem{
			what: fmt.Sprintf("cannot %s %s", verb, o), why: "it is the kubelet's, which starts its containers itself",
			do: fmt.Sprintf("change its pod with kubectl, or end it, which makes the kubelet start it anew: berth stop --force %s", o.id()[:shortID]),
		}
	}
	r.Container = o.id()
	id, err := cl.admin.Again(ctx, r)
	if err != nil {
		err = advised(err, codes.NotFound, "see what there is with: berth ps -a")
		return cannotExecute(err, "%s %s", verb, o)
	}
	c.sayAttempt(o, id, r.Keep)
	return nil
}

// sayAttempt tells of a new attempt, if it is one.
func (c *cli) sayAttempt(o object, id string, kept bool) {
	if id == o.id() {
		return
	}
	layer := "a fresh writable layer"
	if kept {
		layer = "the old writable layer"
	}
	fmt.Fprintf(c.err, "%s is a new attempt, %s, with the same volumes and %s.\n", o.name(), short(id, false), layer)
}

// startAndAttach starts a container once somebody listens to it.
func (c *cli) startAndAttach(ctx context.Context, cl *client, o object, stdin, keep bool, keys []byte) error {
	if o.container.State == criv1.ContainerState_CONTAINER_RUNNING {
		return &problem{what: fmt.Sprintf("cannot start %s", o), why: "it runs already", do: "take part in it: berth attach " + o.name()}
	}
	id, err := cl.admin.Again(ctx, &api.AgainRequest{Container: o.id(), Keep: keep, NoStart: true})
	if err != nil {
		return cannot(err, "start %s", o)
	}
	c.sayAttempt(o, id, keep)
	one := &podOfOne{name: o.name(), container: id}
	result, detached, err := c.attach(ctx, cl, id, stdin, interaction{detachKeys: keys, begin: func() error { return one.start(ctx, cl) }})
	if err != nil {
		return cannotExecute(err, "start %s", o)
	}
	if detached {
		c.goesOn(o.String(), "berth attach "+o.name())
	}
	return result
}

func restartVerb(c *cli) *cobra.Command {
	var keep bool
	var grace int64
	cmd := &cobra.Command{
		Use:     "restart CONTAINER|POD...",
		Short:   "Stop containers and start them again",
		Long:    "Stop containers, if they run, and start them again. " + aNewAttempt,
		Example: examples("berth restart web", "berth restart --keep -t 60 db"),
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "carry the writable layer over to the new attempt")
	cmd.Flags().Int64VarP(&grace, "time", "t", 10, "seconds before it is killed (what --stop-timeout said if not given)")
	cmd.Flags().SetNormalizeFunc(timeoutIsTime)
	return refusing(c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		return c.each(args, func(name string) error {
			targets, err := inv.startable(name)
			if err != nil {
				return err
			}
			for _, o := range targets {
				wait := time.Duration(graceOf(o.container, grace, cmd.Flags().Changed("time"))) * time.Second
				if err := c.again(ctx, cl, o, "restart", &api.AgainRequest{Keep: keep, Restart: true, Grace: wait}); err != nil {
					return err
				}
			}
			fmt.Fprintln(c.out, name)
			return nil
		})
	}),
		refusedFlag{name: "signal", short: "s", why: "what ends a container is its own signal", do: "say it when it is made (--stop-signal), or send one: berth kill -s SIGNAL"})
}
