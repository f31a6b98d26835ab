package main

import (
	"context"
	"fmt"
	"os/user"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
)

func topVerb(c *cli) *cobra.Command {
	var full bool
	cmd := &cobra.Command{
		Use:     "top CONTAINER",
		Short:   "List the processes of a container, by their numbers and users on the host",
		Example: examples("berth top web", "berth top --no-trunc kube-system/dns/coredns"),
	}
	cmd.Flags().BoolVar(&full, "no-trunc", false, "do not shorten commands")
	return c.verb(cmd, cobra.ExactArgs(1), func(ctx context.Context, cl *client, args []string) error {
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		o, err := inv.findContainer(args[0])
		if err != nil {
			return err
		}
		list, err := cl.admin.Top(ctx, o.id())
		if err != nil {
			return cannot(err, "list the processes of %s", o)
		}
		if c.structured() {
			return c.show(list)
		}
		var lines [][]string
		for _, p := range list {
			command := printable(p.Command)
			if !full {
				command = ellipsis(command, maxCommand)
			}
			lines = append(lines, []string{userName(p.UID), strconv.Itoa(p.Pid), strconv.Itoa(p.Parent), cpuTime(p.CPU), command})
		}
		return table(c.out, []string{"USER", "PID", "PPID", "TIME", "COMMAND"}, lines)
	})
}

// userName is the host's name of a user, if it has one.
func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// cpuTime as ps(1) has it.
func cpuTime(d time.Duration) string {
	s := int(d.Seconds())
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}

// printable keeps what a container says of itself from steering a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}
