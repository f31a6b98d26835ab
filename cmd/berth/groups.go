package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// dockerGroups are docker's longer names of the same verbs, as berth image ls:
// people and scripts type them. They are not in the help, which has each verb
// once.
func dockerGroups(c *cli) []*cobra.Command {
	ls := as(psVerb(c), "ls", "list", "ps")
	groups := []*cobra.Command{
		c.group(&cobra.Command{Use: "container", Short: "Verbs of containers", Example: examples("berth container ls -a", "berth container prune")},
			ls, attachVerb(c), commitVerb(c), cpVerb(c), createVerb(c), diffVerb(c), execVerb(c), inspectVerb(c), killVerb(c), logsVerb(c), pauseVerb(c),
			portVerb(c), containerPruneVerb(c), renameVerb(c), restartVerb(c), rmVerb(c), runVerb(c), startVerb(c), statsVerb(c), stopVerb(c), topVerb(c),
			unpauseVerb(c), waitVerb(c)),
		c.group(&cobra.Command{Use: "image", Short: "Verbs of images", Example: examples("berth image ls", "berth image prune --all")},
			as(imagesVerb(c), "ls", "list"), buildVerb(c), historyVerb(c), inspectVerb(c), loadVerb(c), pruneVerb(c), pullVerb(c), pushVerb(c),
			as(rmiVerb(c), "rm", "remove"), saveVerb(c), tagVerb(c)),
	}
	for _, g := range groups {
		g.Hidden = true
	}
	return groups
}

// as gives a verb another name, with more beside it.
func as(cmd *cobra.Command, name string, more ...string) *cobra.Command {
	_, rest, ok := strings.Cut(cmd.Use, " ")
	cmd.Use, cmd.Aliases = name, more
	if ok {
		cmd.Use += " " + rest
	}
	return cmd
}

func systemGroup(c *cli) *cobra.Command {
	return c.group(&cobra.Command{Use: "system", Short: "Look at what the node holds, and make room", Example: examples("berth system df", "berth system prune --volumes")},
		dfVerb(c), systemPruneVerb(c), as(eventsVerb(c), "events"), as(infoVerb(c), "info"))
}
