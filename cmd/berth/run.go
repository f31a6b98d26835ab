package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func runVerb(c *cli) *cobra.Command {
	var r runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE [COMMAND [ARG...]]",
		Short: "Run a container in a pod of its own",
		Long: "Run a container in a pod of its own. Without -d its output is followed, signals are\n" +
			"passed on to it, and its exit code becomes the exit code of this command.",
		Example: examples("berth run --rm busybox echo hello", "berth run -d --name web -p 8080:80 -v /srv/www:/usr/share/nginx/html:ro nginx"),
	}
	r.register(cmd.Flags())
	return c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		r.image, r.args = args[0], args[1:]
		r.entrypointSet = cmd.Flags().Changed("entrypoint")
		if err := r.check(); err != nil {
			return err
		}
		if !r.detach {
			if err := c.needTerminal("run "+r.image, r.stdin, r.tty); err != nil {
				return err
			}
		}
		return c.runContainer(ctx, cl, &r)
	})
}

// runContainer makes and starts it, and with it in the foreground stays until
// its end. Until the container runs a signal ends the attempt and leaves
// nothing behind; from then on signals are the container's.
func (c *cli) runContainer(ctx context.Context, cl *client, r *runFlags) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded()...)
	defer signal.Stop(signals)

	making, stop := context.WithCancel(ctx)
	defer stop()
	made, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case s := <-signals:
			stop()
			<-made
			select {
			case signals <- s: // the container's after all, if it came to run
			default: // it has more to come
			}
		case <-made:
		}
	}()
	one, err := c.makeOne(making, cl, r)
	close(made)
	<-watched
	if err != nil {
		return err
	}
	if r.detach {
		fmt.Fprintln(c.out, one.container)
		return nil
	}
	var result error
	detached := false
	if r.interactive() {
		result, detached, err = c.startAttached(ctx, cl, r, one)
	} else {
		result, err = c.attend(ctx, cl, one.container, signals)
	}
	if err != nil {
		return err
	}
	if detached {
		c.goesOn("container "+one.name, "berth attach "+one.name)
		return nil
	}
	if err := one.finish(ctx, cl, r.remove); err != nil {
		report(c.err, err) // the container's own code matters more
	}
	return result
}

// startAttached starts the container once somebody listens to it.
func (c *cli) startAttached(ctx context.Context, cl *client, r *runFlags, one *podOfOne) (result error, detached bool, err error) {
	keys, err := parseDetachKeys(r.detachKeys)
	if err != nil {
		one.undo(ctx, cl)
		return nil, false, err
	}
	started := false
	result, detached, err = c.attach(ctx, cl, one.container, r.stdin, interaction{detachKeys: keys, begin: func() error {
		err := one.start(ctx, cl)
		started = err == nil
		return err
	}})
	if err != nil && !started {
		one.undo(ctx, cl)
	}
	return result, detached, cannotExecute(err, "run %s", r.image)
}

// podOfOne is what berth run has made, as far as it got.
type podOfOne struct {
	name           string
	pod, container string // ids
	shared         bool   // the pod was there before
	logs           logFolder
}

// makeOne goes from the image to the running container, and back on failure.
// One that somebody will take part in is made and not started.
func (c *cli) makeOne(ctx context.Context, cl *client, r *runFlags) (*podOfOne, error) {
	if err := r.prepare(ctx, cl); err != nil {
		return nil, err
	}
	// Mistakes in the flags show before anything is pulled or made.
	podConfig, err := r.podConfig()
	if err != nil {
		return nil, err
	}
	if _, err := r.containerConfig(r.image, nil, nil); err != nil {
		return nil, err
	}
	image, err := c.ensureImage(ctx, cl, r.image, r.pull, r.more.quiet)
	if err != nil {
		return nil, err
	}
	if err := c.ensureMounts(ctx, cl, r); err != nil {
		return nil, err
	}
	var said struct{ Healthcheck json.RawMessage }
	argv := r.argv(nil)
	if info, err := cl.admin.InspectImage(ctx, image); err == nil {
		argv = r.argv(info.Config)
		if r.net.publishAll {
			if r.net.publish, err = exposed(r.net.publish, info.Config, r.net.expose); err != nil {
				return nil, err
			}
			r.publishTo(podConfig)
		}
		_ = json.Unmarshal(info.Config, &said) // an image without it has no check
	}
	config, err := r.containerConfig(image, argv, said.Healthcheck)
	if err != nil {
		return nil, err
	}

	one := &podOfOne{name: r.name, logs: logFolder{root: r.logRoot, name: r.logFolder}}
	if r.within != nil {
		one.pod, one.shared = r.within.pod.Id, true
	}
	err = one.make(ctx, cl, r.more.runtime, podConfig, config)
	for err != nil && one.pod == "" && another(r.net.publish, err) {
		r.publishTo(podConfig) // ports that were left to us
		err = one.make(ctx, cl, r.more.runtime, podConfig, config)
	}
	if err == nil {
		err = r.writeCidfile(one.container)
	}
	if err == nil && !r.interactive() && !r.createOnly {
		err = one.start(ctx, cl)
	}
	if err != nil {
		one.undo(ctx, cl)
		err = r.networkAdvice(err)
		return nil, cannotExecute(err, "run %s", r.image)
	}
	return one, nil
}

// make goes as far as it can and leaves in o what there is to undo. The calls
// are not interrupted with ctx: an interrupted one might still be carried out,
// and nobody would know the id of what it made.
func (o *podOfOne) make(ctx context.Context, cl *client, handler string, podConfig *criv1.PodSandboxConfig, config *criv1.ContainerConfig) error {
	whole := context.WithoutCancel(ctx)
	if !o.shared {
		pod, err := cl.runtime.RunPodSandbox(whole, &criv1.RunPodSandboxRequest{Config: podConfig, RuntimeHandler: handler})
		if err != nil {
			return err
		}
		o.pod = pod.PodSandboxId
	}
	created, err := cl.runtime.CreateContainer(whole, &criv1.CreateContainerRequest{
		PodSandboxId: o.pod, Config: config, SandboxConfig: podConfig,
	})
	if err != nil {
		return err
	}
	o.container = created.ContainerId
	return ctx.Err()
}

func (o *podOfOne) start(ctx context.Context, cl *client) error {
	_, err := cl.runtime.StartContainer(context.WithoutCancel(ctx), &criv1.StartContainerRequest{ContainerId: o.container})
	return err
}

// prepare asks the daemon what the requests need: where logs go, and which
// names are taken.
func (r *runFlags) prepare(ctx context.Context, cl *client) error {
	info, err := cl.admin.Info(ctx)
	if err != nil {
		return cannot(err, "run %s", r.image)
	}
	inv, err := cl.look(ctx)
	if err != nil {
		return err
	}
	if err := r.join(inv); err != nil {
		return err
	}
	taken := inv.takenNames()
	if id, ok := taken[r.name]; ok {
		return &problem{
			what: fmt.Sprintf("cannot run a container named %s", r.name),
			why:  fmt.Sprintf("the name belongs to %s", id),
			do:   fmt.Sprintf("remove that one (berth rm -f %s), or choose another name", r.name),
		}
	}
	for r.name == "" || taken[r.name] != "" {
		r.name = inventName()
	}
	if err := r.prepareNetwork(ctx, cl); err != nil {
		return err
	}
	r.uid = randomUID()
	r.logRoot = info.LogRoot
	if r.within != nil {
		r.uid = r.within.pod.GetMetadata().GetUid()
		return nil
	}
	r.logFolder = logFolderName(r.metadata())
	return nil
}

// finish releases what an ended container holds: its pod's address and ports
// always, and with remove everything.
func (o *podOfOne) finish(ctx context.Context, cl *client, remove bool) error {
	if o.shared {
		if !remove || o.container == "" {
			return nil
		}
		_, err := cl.runtime.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: o.container})
		return cannot(err, "remove %s", o.name)
	}
	if _, err := cl.runtime.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: o.pod}); err != nil {
		return cannot(err, "stop the pod of %s", o.name)
	}
	if !remove {
		return nil
	}
	if _, err := cl.runtime.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: o.pod}); err != nil {
		return cannot(err, "remove the pod of %s", o.name)
	}
	return o.logs.remove()
}

// undo removes a half-made pod of one. It has its own time, as ctx may have
// ended already, and says nothing: the failure that led here is what counts.
func (o *podOfOne) undo(ctx context.Context, cl *client) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if o.pod != "" {
		_ = o.finish(ctx, cl, true)
	}
}

// forwarded are the signals that a foreground container gets in our place.
func forwarded() []os.Signal {
	return []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2}
}

func signalName(n int) string { return unix.SignalName(unix.Signal(n)) }

func randomUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// inventName makes a name that can be said aloud and is a good host name.
func inventName() string {
	adjectives := []string{
		"able", "brisk", "calm", "deft", "early", "fair", "glad", "hale", "keen", "light", "mild", "neat",
		"plain", "quick", "ready", "sound", "steady", "tidy", "true", "warm", "wide", "wise",
	}
	nouns := []string{
		"anchor", "beacon", "bollard", "buoy", "cleat", "cove", "dinghy", "ferry", "galley", "harbour", "jetty",
		"keel", "lantern", "mast", "mooring", "oar", "pier", "pilot", "quay", "rudder", "sail", "tide", "tug",
	}
	return fmt.Sprintf("%s-%s-%02d", adjectives[mathrand.IntN(len(adjectives))], nouns[mathrand.IntN(len(nouns))], mathrand.IntN(100))
}
