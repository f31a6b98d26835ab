package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const (
	defaultSocket = "/run/berth/berth.sock"
	socketEnv     = "BERTH_SOCKET"
)

// cli is what every verb shares: where it reads and writes, and the flags that
// stand before the verb.
type cli struct {
	in       io.Reader
	out, err io.Writer
	socket   string // of the daemon
	output   string // as given
	format   string // docker's way to say it
	form     form   // what the two mean
	now      func() time.Time

	dockerConfig string        // file with credentials; may be absent
	atPrompt     time.Duration // how long a person at a prompt waits for names
}

// run is the command with its arguments; it returns the exit code.
func run(args []string, in io.Reader, out, err io.Writer) int {
	c := &cli{in: in, out: out, err: err, now: time.Now, dockerConfig: dockerConfigFile(), atPrompt: completionPatience}
	root := newRoot(c)
	root.SetArgs(args)
	return report(err, root.ExecuteContext(context.Background()))
}

func newRoot(c *cli) *cobra.Command {
	socket := os.Getenv(socketEnv)
	if socket == "" {
		socket = defaultSocket
	}
	root := &cobra.Command{
		Use:           "berth",
		Short:         "Run containers on this node",
		Long:          "berth runs containers on this node and looks after its images.\nIt talks to berthd; crictl and the kubelet see the same containers.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Example:       "  berth run -d --name web -p 8080:80 nginx\n  berth ps",
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if c.output == asPod && cmd.Name() == "inspect" {
				c.form = form{kind: asPod}
				return nil
			}
			c.form, err = readForm(c.output, c.format)
			return err
		},
	}
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SetIn(c.in)
	flags := root.PersistentFlags()
	flags.StringVar(&c.socket, "socket", socket, "socket of the daemon; also in $"+socketEnv)
	flags.StringVar(&c.output, "output", "table", "format of what is listed: table, json, yaml or go-template=TEMPLATE")
	flags.StringVar(&c.format, "format", "", "docker's form of it: json, a template ('{{.ID}} {{.Names}}') or 'table TEMPLATE'")
	root.SetFlagErrorFunc(usageProblem)
	root.AddCommand(
		runVerb(c), createVerb(c), startVerb(c), stopVerb(c), restartVerb(c), pauseVerb(c), unpauseVerb(c), killVerb(c), rmVerb(c), renameVerb(c), waitVerb(c),
		cpVerb(c), diffVerb(c), commitVerb(c),
		psVerb(c), podsVerb(c), logsVerb(c), execVerb(c), attachVerb(c), whyVerb(c), topVerb(c), eventsVerb(c), statsVerb(c), inspectVerb(c),
		imagesVerb(c), buildVerb(c), pullVerb(c), loadVerb(c), saveVerb(c), pushVerb(c), tagVerb(c), untagVerb(c), historyVerb(c), rmiVerb(c),
		applyVerb(c), deleteVerb(c), importVerb(c),
		pruneVerb(c), registryVerb(c),
		completionVerb(c), doctorVerb(c), debugVerb(c), configVerb(c), checkVerb(c), dfVerb(c), infoVerb(c), versionVerb(c), stepsVerb(c),
		volumeGroup(c), networkGroup(c), systemGroup(c), portVerb(c), loginVerb(c), logoutVerb(c),
	)
	root.AddCommand(dockerGroups(c)...)
	root.CompletionOptions.DisableDefaultCmd = true // ours says more
	c.complete(root)
	return root
}

// verb finishes cmd: its arguments are checked in our words, and do gets a
// connection to the daemon that ends with it.
func (c *cli) verb(cmd *cobra.Command, args cobra.PositionalArgs, do func(context.Context, *client, []string) error) *cobra.Command {
	return c.local(cmd, args, func(ctx context.Context, given []string) error {
		cl, err := connect(ctx, c.socket)
		if err != nil {
			return err
		}
		defer cl.close()
		return do(ctx, cl, given)
	})
}

// local is verb for what can do without a daemon.
func (c *cli) local(cmd *cobra.Command, args cobra.PositionalArgs, do func(context.Context, []string) error) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		if err := args(cmd, given); err != nil {
			return usageProblem(cmd, err)
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, given []string) error { return do(cmd.Context(), given) }
	return cmd
}

// group finishes cmd, which has verbs below it and does nothing by itself.
func (c *cli) group(cmd *cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(verbs...)
	return c.local(cmd, cobra.NoArgs, func(context.Context, []string) error { return cmd.Help() })
}

// examples formats the two examples of a verb's --help.
func examples(lines ...string) string { return "  " + strings.Join(lines, "\n  ") }

func usageProblem(cmd *cobra.Command, err error) error {
	return &problem{what: fmt.Sprintf("cannot read the arguments of %s", cmd.CommandPath()), why: err.Error(), do: "see: " + cmd.CommandPath() + " --help"}
}

// json prints v indented, as the answer of a verb.
func (c *cli) json(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// each runs do for every name and goes on after a failure, so that one wrong
// name does not hold up the others. The first failure is the command's; the
// others are told as they occur.
func (c *cli) each(names []string, do func(string) error) error {
	var first error
	for _, name := range names {
		err := do(name)
		switch {
		case err == nil:
		case first == nil:
			first = err
		default:
			report(c.err, err)
		}
	}
	return first
}
