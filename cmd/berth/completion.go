package main

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func completionVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "completion",
		Short: "Print a script with which a shell completes verbs, flags and names",
		Long: "Print a script with which a shell completes verbs, flags and the names of containers, pods and\n" +
			"images. It asks the daemon for names, with half a second of patience.",
		Example: examples("berth completion bash | sudo tee /usr/share/bash-completion/completions/berth", "berth completion zsh >\"${fpath[1]}/_berth\""),
	}
	for _, s := range []struct {
		shell    string
		example  []string
		generate func(*cobra.Command, io.Writer) error
	}{
		{"bash", []string{". <(berth completion bash)", "berth completion bash >/usr/share/bash-completion/completions/berth"},
			func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) }},
		{"zsh", []string{". <(berth completion zsh)", "berth completion zsh >\"${fpath[1]}/_berth\""},
			func(root *cobra.Command, w io.Writer) error { return root.GenZshCompletion(w) }},
		{"fish", []string{"berth completion fish | source", "berth completion fish >~/.config/fish/completions/berth.fish"},
			func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) }},
	} {
		sub := &cobra.Command{Use: s.shell, Short: "Print the script for " + s.shell, Example: examples(s.example...)}
		cmd.AddCommand(c.local(sub, cobra.NoArgs, func(context.Context, []string) error { return s.generate(sub.Root(), c.out) }))
	}
	return c.group(cmd)
}

// completionPatience is how long a person at a prompt waits for names.
const completionPatience = 500 * time.Millisecond

// complete gives every verb below cmd the completion of its arguments. What
// they are is in its Use line, which people read too: CONTAINER, POD, IMAGE,
// VOLUME, NETWORK or several of them, and "..." for more of the last.
func (c *cli) complete(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		c.complete(sub)
	}
	if cmd.HasSubCommands() || cmd.ValidArgsFunction != nil || len(cmd.ValidArgs) > 0 {
		return
	}
	at := argumentKinds(cmd.Use)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, given []string, typed string) ([]string, cobra.ShellCompDirective) {
		kinds, files := at(len(given))
		if files {
			return nil, cobra.ShellCompDirectiveDefault
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), c.atPrompt)
		defer cancel()
		// A prompt is no place for a complaint: without a daemon there are no names.
		names, _ := c.names(ctx, kinds)
		names = slices.DeleteFunc(names, func(name string) bool {
			bare, _, _ := strings.Cut(name, "\t")
			return !strings.HasPrefix(bare, typed) || slices.Contains(given, bare)
		})
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// argumentKinds reads a Use line: for the nth argument the kinds of what it
// names, and whether it may be a file.
func argumentKinds(use string) func(n int) (kinds []string, files bool) {
	var places [][]string
	more := false
	for _, word := range strings.Fields(use)[1:] {
		if word == "[flags]" {
			continue
		}
		more = strings.Contains(word, "...")
		word = strings.Trim(word, "[].")
		places = append(places, strings.Split(word, "|"))
	}
	return func(n int) ([]string, bool) {
		if n >= len(places) {
			if !more {
				return nil, false
			}
			n = len(places) - 1
		}
		known := filter(places[n], func(kind string) bool {
			return slices.Contains([]string{"CONTAINER", "POD", "IMAGE", "NAME[:TAG", "VOLUME", "NETWORK"}, kind)
		})
		return known, len(known) == 0 && slices.ContainsFunc(places[n], func(k string) bool { return k != "NAME" })
	}
}

// names of all that is of one of the kinds, each with what it is.
func (c *cli) names(ctx context.Context, kinds []string) ([]string, error) {
	if len(kinds) == 0 {
		return nil, nil
	}
	cl, err := connect(ctx, c.socket)
	if err != nil {
		return nil, err
	}
	defer cl.close()
	var out []string
	if slices.Contains(kinds, "CONTAINER") || slices.Contains(kinds, "POD") {
		inv, err := cl.look(ctx)
		if err != nil {
			return nil, err
		}
		if slices.Contains(kinds, "CONTAINER") {
			for _, o := range inv.allContainers() {
				out = append(out, cobra.CompletionWithDesc(o.name(), "container of "+familiar(o.container.GetImage().GetUserSpecifiedImage())))
			}
		}
		if slices.Contains(kinds, "POD") {
			for _, o := range inv.allPods() {
				if !o.ours() { // the pod of one is called as its container
					out = append(out, cobra.CompletionWithDesc(o.name(), "pod"))
				}
			}
		}
	}
	if slices.Contains(kinds, "IMAGE") || slices.Contains(kinds, "NAME[:TAG") {
		list, err := cl.admin.Images(ctx)
		if err != nil {
			return nil, err
		}
		for _, img := range list {
			for _, tag := range img.Tags {
				out = append(out, cobra.CompletionWithDesc(familiar(tag), "image"))
			}
		}
	}
	if slices.Contains(kinds, "VOLUME") {
		list, err := cl.admin.Volumes(ctx, false)
		if err != nil {
			return nil, err
		}
		for _, v := range list {
			out = append(out, cobra.CompletionWithDesc(v.Name, "volume"))
		}
	}
	if slices.Contains(kinds, "NETWORK") {
		list, err := cl.admin.Networks(ctx)
		if err != nil {
			return nil, err
		}
		for _, n := range list.Networks {
			out = append(out, cobra.CompletionWithDesc(n.Name, "network"))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
