package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// execFlags is a command in a container as docker's words describe it.
type execFlags struct {
	stdin, tty, detach bool
	env, envFiles      []string
	workdir, user      string
	timeout            int64
	detachKeys         string
}

func execVerb(c *cli) *cobra.Command {
	var x execFlags
	cmd := &cobra.Command{
		Use:   "exec [flags] CONTAINER COMMAND [ARG...]",
		Short: "Run a command in a container",
		Long: "Run a command in a container that runs. Its output is shown as it comes, and its exit\n" +
			"code becomes the exit code of this command: 127 if there is no such program, 126 if it\n" +
			"cannot be executed. A command that is detached from, or that was started with -d, goes\n" +
			"on until it ends, its container ends or the daemon is restarted.",
		Example: examples("berth exec -it web sh", "berth exec -u postgres -w /tmp -e PAGER=cat db psql -c 'select 1'"),
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows CONTAINER belongs to the command
	f.BoolVarP(&x.stdin, "interactive", "i", false, "pass stdin on to it")
	f.BoolVarP(&x.tty, "tty", "t", false, "give it a terminal")
	f.BoolVarP(&x.detach, "detach", "d", false, "start it and return; its output is lost")
	f.StringArrayVarP(&x.env, "env", "e", nil, "set a variable: NAME=VALUE, or NAME to pass on your own")
	f.StringArrayVar(&x.envFiles, "env-file", nil, "read variables from a file")
	f.StringVarP(&x.workdir, "workdir", "w", "", "working directory inside (the container's if none is given)")
	f.StringVarP(&x.user, "user", "u", "", "user: UID[:GID] or NAME[:GROUP] (the container's if none is given)")
	f.Int64Var(&x.timeout, "timeout", 0, "seconds before the command and what it started is killed; 0 for never")
	f.StringVar(&x.detachKeys, "detach-keys", defaultDetachKeys, "keys that leave it to itself, with -it")
	return refusing(c.verb(cmd, cobra.MinimumNArgs(2), func(ctx context.Context, cl *client, args []string) error {
		if err := x.check(c, args[0]); err != nil {
			return err
		}
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		o, err := inv.findContainer(args[0])
		if err != nil {
			return err
		}
		if x.timeout > 0 {
			return c.execSync(ctx, cl, o, args[1:], x.timeout)
		}
		return c.exec(ctx, cl, o, args[1:], &x)
	}),
		refusedFlag{name: "privileged", bool: true, why: "a command has the rights of its container", do: "run the container with --privileged or --cap-add"})
}

// check refuses what can be refused without asking the daemon.
func (x *execFlags) check(c *cli, name string) error {
	p := &problem{what: "cannot exec in " + name}
	switch {
	case x.timeout != 0 && (x.stdin || x.tty || x.detach || x.workdir != "" || x.user != "" || len(x.env)+len(x.envFiles) > 0):
		p.why, p.do = "a command with --timeout has no other flags", "leave out --timeout, or use timeout(1) inside"
	case x.detach && x.stdin:
		p.why, p.do = "nobody would type (-d with -i)", "leave out one of the two"
	default:
		return c.needTerminal("exec in "+name, x.stdin, x.tty)
	}
	return p
}

// exec runs the command with our stdio.
func (c *cli) exec(ctx context.Context, cl *client, o object, argv []string, x *execFlags) error {
	keys, err := parseDetachKeys(x.detachKeys)
	if err != nil {
		return err
	}
	r := &api.ExecRequest{Container: o.id(), Args: argv, Dir: x.workdir, User: x.user, TTY: x.tty, Stdin: x.stdin}
	env, err := parseEnv(x.envFiles, x.env, os.LookupEnv)
	if err != nil {
		return err
	}
	if name := os.Getenv("TERM"); x.tty && name != "" {
		r.Env = append(r.Env, "TERM="+name)
	}
	for _, e := range env {
		r.Env = append(r.Env, e.Key+"="+string(e.Value))
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	s, err := cl.admin.Exec(ctx, r)
	if err != nil {
		return cannotExecute(err, "exec in %s", o)
	}
	if x.detach {
		return cannot(s.Leave(), "leave the command in %s to itself", o)
	}
	code, detached, err := c.converse(s, end, interaction{detachKeys: keys})
	switch {
	case err != nil:
		return cannot(endedBy(ctx, err), "exec in %s", o)
	case detached:
		c.goesOn("the command", "nothing: look for it with berth top "+o.name())
	case code != 0:
		return exitCode(code)
	}
	return nil
}

// execSync runs the command within CRI's own limits of time and output.
func (c *cli) execSync(ctx context.Context, cl *client, o object, argv []string, timeout int64) error {
	res, err := cl.runtime.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: o.id(), Cmd: argv, Timeout: timeout})
	if err != nil {
		return cannotExecute(err, "exec in %s", o)
	}
	if _, err := c.out.Write(res.Stdout); err != nil {
		return err
	}
	if _, err := c.err.Write(res.Stderr); err != nil {
		return err
	}
	if res.ExitCode != 0 {
		return exitCode(res.ExitCode)
	}
	return nil
}
