package main

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"
)

func debugVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "debug",
		Short:   "Find out what is wrong with the daemon",
		Example: examples("berth debug dump /tmp/berth.txt", "berth debug dump | less"),
	}
	return c.group(cmd, debugDumpVerb(c))
}

func debugDumpVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dump [FILE]",
		Short: "Write down what the daemon knows of itself, for a report",
		Long: "Write down what the daemon knows of itself, as text: its configuration, what is under way, the\n" +
			"last 256 operations with their steps and outcome, pods, containers, events, and what each\n" +
			"goroutine does. It goes to stdout, or into a new file that only you can read.\n\n" +
			"Values of variables and annotations and arguments of commands are left out, and what looks like a\n" +
			"password or a token is masked; names of pods, images and paths are not. Read it before you publish it.",
		Example: examples("berth debug dump /tmp/berth.txt", "berth debug dump | less"),
	}
	return c.verb(cmd, cobra.MaximumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		if len(args) == 0 || args[0] == "-" {
			return cannot(cl.admin.Dump(ctx, c.out), "dump the daemon's state")
		}
		return newFile(args[0], func(w io.Writer) error { return cl.admin.Dump(ctx, w) })
	})
}

// newFile makes a file of what fill writes. One that is there stays as it is.
func newFile(name string, fill func(io.Writer) error) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return &problem{what: "cannot write " + name, why: reason(err), do: "name a file that does not exist yet, in a folder that does"}
	}
	if err := errors.Join(fill(f), f.Close()); err != nil {
		_ = os.Remove(name)
		return cannot(err, "write %s", name)
	}
	return nil
}

// reason is why a file could not be used, without what its caller says already.
func reason(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return err.Error()
}
