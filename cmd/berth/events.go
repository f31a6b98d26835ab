package main

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func eventsVerb(c *cli) *cobra.Command {
	var follow, full bool
	var since string
	var filters []string
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what happened to pods, containers and images",
		Long: "Show what happened to pods, containers and images since the daemon was started, as far\n" +
			"as it is kept (the last 1024 events), and with -f what happens from now on. With\n" +
			"--output json each event is one line.\n\n" +
			"Filters of one key add up, those of different keys must all fit: type=pod, container or\n" +
			"image; event=created, started, oom, stopped, deleted, pulling, layer, pulled, failed or\n" +
			"removed; container=, pod=, namespace= and image= take names, with * and ?, or an id.",
		Example: examples("berth events -f --filter type=container --filter event=oom", "berth events --since 10m --output json"),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens from now on")
	cmd.Flags().StringVar(&since, "since", "", "only from then on: "+momentForms)
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "only events that fit KEY=VALUE")
	cmd.Flags().BoolVar(&full, "no-trunc", false, "do not shorten ids")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		r := &api.EventsRequest{Follow: follow}
		var err error
		if r.Since, err = parseMoment("since", since, c.now()); err != nil {
			return err
		}
		fits, err := parseFilters(filters)
		if err != nil {
			return err
		}
		err = cl.admin.Events(ctx, r, func(e *api.Event) error {
			if e.Type != api.EventJournal && !fits(e) {
				return nil
			}
			if c.structured() {
				return c.showLine(e)
			}
			_, err := fmt.Fprintln(c.out, eventText(e, full))
			return err
		})
		return cannot(err, "show events")
	})
}

// filterKeys are what an event may be chosen by.
func filterKeys() map[string]func(*api.Event) []string {
	return map[string]func(*api.Event) []string{
		"type":      func(e *api.Event) []string { return []string{e.Type} },
		"event":     func(e *api.Event) []string { return []string{e.Action} },
		"container": func(e *api.Event) []string { return ofType(e, api.EventContainer, e.Container) },
		"pod":       func(e *api.Event) []string { return []string{e.Pod, e.PodID, e.Namespace + "/" + e.Pod} },
		"namespace": func(e *api.Event) []string { return []string{e.Namespace} },
		"image":     func(e *api.Event) []string { return append(ofType(e, api.EventImage), e.Image, familiar(e.Image)) },
	}
}

// ofType is the id of an event of that type, with more names.
func ofType(e *api.Event, kind string, more ...string) []string {
	if e.Type != kind {
		return more
	}
	return append(more, e.ID)
}

func parseFilters(texts []string) (func(*api.Event) bool, error) {
	wanted := map[string][]string{}
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		_, known := filterKeys()[key]
		if _, err := path.Match(value, ""); !ok || !known || value == "" || err != nil {
			return nil, &problem{what: "cannot filter by " + text, why: "it is not KEY=VALUE with a key that events have", do: "choose type=, event=, container=, pod=, namespace= or image="}
		}
		wanted[key] = append(wanted[key], value)
	}
	return func(e *api.Event) bool {
		for key, values := range wanted {
			of := filterKeys()[key](e)
			if !slices.ContainsFunc(values, func(v string) bool { return matches(v, of) }) {
				return false
			}
		}
		return true
	}, nil
}

// matches tells whether a pattern fits one of the names, or begins an id.
func matches(pattern string, names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		ok, err := path.Match(pattern, name)
		return name != "" && (err == nil && ok || len(name) == 64 && strings.HasPrefix(name, pattern))
	})
}

// eventText is one line: when, what to, what, and what else is known.
func eventText(e *api.Event, full bool) string {
	line := e.At.Local().Format("2006-01-02T15:04:05.000Z07:00") + " " + e.Type + " " + e.Action
	more := func(key, value string) {
		if value != "" {
			line += " " + key + "=" + value
		}
	}
	switch e.Type {
	case api.EventJournal:
		if e.Missed > 0 {
			more("events", fmt.Sprint(e.Missed))
		}
		return line
	case api.EventImage:
		line += " " + printable(familiar(e.Image))
		more("id", short(e.ID, full))
		more("layer", short(e.Layer, full))
		if e.Error != "" {
			line += ": " + oneLine(e.Error)
		}
		return line
	}
	line += " " + e.Namespace + "/" + e.Pod
	if e.Container != "" {
		line += "/" + e.Container
	}
	more("id", short(e.ID, full))
	more("image", familiar(e.Image))
	if e.ExitCode != nil {
		more("code", fmt.Sprint(*e.ExitCode))
	}
	return line
}
