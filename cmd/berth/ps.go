package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// psFlags say which containers are listed, and how much of them.
type psFlags struct {
	all, quiet, full, latest, size bool
	last                           int
	filters                        []string
}

func psVerb(c *cli) *cobra.Command {
	var p psFlags
	cmd := &cobra.Command{
		Use:     "ps",
		Aliases: []string{"ls"},
		Short:   "List containers",
		Long: "List containers, the kubelet's included.\n\n" +
			"Filters of one key add up, those of different keys must all fit: id=, name=, label=NAME[=VALUE],\n" +
			"status=created, running, paused, restarting or exited, exited=CODE, ancestor=IMAGE, health=starting,\n" +
			"healthy, unhealthy or none, volume=NAME or PATH, before= and since=CONTAINER, pod=, namespace=.",
		Example: examples("berth ps -a --filter status=exited", "berth rm $(berth ps -aq)"),
	}
	f := cmd.Flags()
	f.BoolVarP(&p.all, "all", "a", false, "also those that do not run")
	f.BoolVarP(&p.quiet, "quiet", "q", false, "ids only")
	f.BoolVar(&p.full, "no-trunc", false, "do not shorten anything")
	f.BoolVarP(&p.latest, "latest", "l", false, "the one that was made last, whatever it does")
	f.IntVarP(&p.last, "last", "n", 0, "so many that were made last, whatever they do")
	f.BoolVarP(&p.size, "size", "s", false, "show what their writable layers take up")
	f.StringArrayVarP(&p.filters, "filter", "f", nil, "only those that fit KEY=VALUE")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		rows, err := c.listContainers(ctx, cl, &p)
		if err != nil {
			return err
		}
		return c.printPs(rows, &p)
	})
}

// listContainers gives the rows of what p asks for, the newest first.
func (c *cli) listContainers(ctx context.Context, cl *client, p *psFlags) ([]psRow, error) {
	if p.latest {
		p.last = 1
	}
	if p.last < 0 {
		return nil, &problem{what: "cannot list containers", why: fmt.Sprintf("%d is no number of them", p.last), do: "write for example -n 5"}
	}
	inv, err := cl.look(ctx)
	if err != nil {
		return nil, err
	}
	fits, err := inv.parsePsFilters(p.filters)
	if err != nil {
		return nil, err
	}
	local, err := cl.admin.Local(ctx)
	if err != nil {
		return nil, cannot(err, "list the containers")
	}
	sizes := map[string]uint64{}
	if p.size {
		df, err := cl.admin.Df(ctx)
		if err != nil {
			return nil, cannot(err, "measure the containers")
		}
		for _, u := range df.Containers {
			sizes[u.ID] = u.Bytes
		}
	}
	shown := inv.allContainers()
	slices.SortStableFunc(shown, func(a, b object) int { return int(min(1, max(-1, b.createdAt()-a.createdAt()))) })
	var rows []psRow
	for _, o := range shown {
		ran := o.container.State == criv1.ContainerState_CONTAINER_RUNNING || local[o.id()].Restarting
		if p.last == 0 && !p.all && !ran && !asksForState(p.filters) {
			continue
		}
		row, err := cl.psRow(ctx, o, c.now(), p.full || c.structured(), local[o.id()])
		if status.Code(err) == codes.NotFound {
			continue // removed since we listed it
		} else if err != nil {
			return nil, cannot(err, "read the status of %s", o)
		}
		row.Size = sizes[o.id()]
		if fits(&row) {
			rows = append(rows, row)
		}
		if p.last > 0 && len(rows) == p.last {
			break
		}
	}
	return rows, nil
}

// psRow is one line of ps.
type psRow struct {
	ID      string            `json:"id"`
	Image   string            `json:"image"`
	Command string            `json:"command,omitempty"`
	Created time.Time         `json:"created"`
	State   string            `json:"state"` // created, running, restarting, exited
	Status  string            `json:"status"`
	Health  string            `json:"health,omitempty"`
	Ports   string            `json:"ports,omitempty"`
	Pod     string            `json:"pod"`
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels,omitempty"`
	Mounts  []string          `json:"mounts,omitempty"`
	Size    uint64            `json:"size,omitempty"` // of the writable layer, with --size

	createdAgo string
	exitCode   int32
	o          object
}

// docker are the names that templates for docker use.
func (r psRow) docker() map[string]any {
	var labels []string
	for k, v := range r.Labels {
		labels = append(labels, k+"="+v)
	}
	slices.Sort(labels)
	return map[string]any{
		"Names": r.Name, "RunningFor": r.createdAgo, "CreatedAt": r.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"),
		"Labels": strings.Join(labels, ","), "Mounts": strings.Join(r.Mounts, ","), "Size": size(r.Size), "Command": r.Command, "Ports": r.Ports,
		"Health": r.Health, "Networks": "", "LocalVolumes": strconv.Itoa(len(r.Mounts)),
	}
}

func (cl *client) psRow(ctx context.Context, o object, now time.Time, full bool, local api.Local) (psRow, error) {
	st, err := cl.runtime.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: o.container.Id})
	if err != nil {
		return psRow{}, err
	}
	row := psRow{
		ID:         short(o.container.Id, full),
		Image:      imageName(o.container, full),
		Command:    commandText(o.container.Annotations[commandNote], full),
		Created:    nanos(o.container.CreatedAt),
		State:      stateName(st.Status.State, local),
		Status:     statusText(st.Status, now, local),
		Pod:        short(o.container.PodSandboxId, full),
		Name:       o.name(),
		Labels:     map[string]string{},
		createdAgo: ago(now, nanos(o.container.CreatedAt)),
		exitCode:   st.Status.ExitCode,
		o:          o,
	}
	if local.Health != nil {
		row.Health = local.Health.Status
	}
	for k, v := range o.container.Labels {
		if !strings.HasPrefix(k, ownPrefix) {
			row.Labels[k] = v
		}
	}
	for _, m := range st.Status.Mounts {
		row.Mounts = append(row.Mounts, m.HostPath)
	}
	if o.pod != nil && o.pod.State == criv1.PodSandboxState_SANDBOX_READY {
		row.Ports = o.pod.Annotations[portsAnnotation]
	}
	return row, nil
}

func (c *cli) printPs(rows []psRow, p *psFlags) error {
	if p.quiet {
		for _, r := range rows {
			fmt.Fprintln(c.out, r.ID)
		}
		return nil
	}
	if c.structured() {
		return c.show(append([]psRow{}, rows...))
	}
	header := []string{"CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "POD", "NAMES"}
	if p.size {
		header = append(header, "SIZE")
	}
	var lines [][]string
	for _, r := range rows {
		line := []string{r.ID, r.Image, r.Command, r.createdAgo, r.Status, r.Ports, r.Pod, r.Name}
		if p.size {
			line = append(line, size(r.Size))
		}
		lines = append(lines, line)
	}
	return table(c.out, header, lines)
}

// psFilters tell whether a row fits the value of a filter.
func (inv *inventory) psFilters() map[string]func(r *psRow, value string) bool {
	match := func(value string, names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			ok, err := path.Match(value, name)
			return err == nil && ok || strings.Contains(name, value)
		})
	}
	beside := func(value string) int64 {
		if o, err := inv.findContainer(value); err == nil {
			return o.createdAt()
		}
		return 0
	}
	return map[string]func(*psRow, string) bool{
		"id":     func(r *psRow, v string) bool { return strings.HasPrefix(r.o.id(), v) },
		"name":   func(r *psRow, v string) bool { return match(strings.TrimPrefix(v, "/"), r.Name) },
		"status": func(r *psRow, v string) bool { return r.State == v },
		"exited": func(r *psRow, v string) bool { return r.State == "exited" && strconv.Itoa(int(r.exitCode)) == v },
		"health": func(r *psRow, v string) bool { return r.Health == v || r.Health == "" && v == "none" },
		"label": func(r *psRow, v string) bool {
			key, value, given := strings.Cut(v, "=")
			have, ok := r.Labels[key]
			return ok && (!given || have == value)
		},
		"ancestor": func(r *psRow, v string) bool {
			id := strings.TrimPrefix(r.o.container.ImageId, "sha256:")
			repo, _ := splitTag(imageName(r.o.container, false))
			return v == imageName(r.o.container, false) || v == imageName(r.o.container, true) || v == repo || len(v) > 2 && strings.HasPrefix(id, strings.TrimPrefix(v, "sha256:"))
		},
		"volume": func(r *psRow, v string) bool {
			return slices.ContainsFunc(r.Mounts, func(m string) bool { return m == v || path.Base(m) == v && goodVolume.MatchString(v) })
		},
		"before": func(r *psRow, v string) bool { at := beside(v); return at != 0 && r.o.createdAt() < at },
		"since":  func(r *psRow, v string) bool { at := beside(v); return at != 0 && r.o.createdAt() > at },
		"pod": func(r *psRow, v string) bool {
			return match(v, r.o.pod.GetMetadata().GetName()) || strings.HasPrefix(r.o.container.PodSandboxId, v)
		},
		"namespace": func(r *psRow, v string) bool { return r.o.pod.GetMetadata().GetNamespace() == v },
	}
}

// asksForState tells whether a filter is about what does not run, which is
// listed then without -a, as docker does.
func asksForState(filters []string) bool {
	return slices.ContainsFunc(filters, func(f string) bool { return strings.HasPrefix(f, "status=") || strings.HasPrefix(f, "exited=") })
}

func (inv *inventory) parsePsFilters(texts []string) (func(*psRow) bool, error) {
	known := inv.psFilters()
	wanted := map[string][]string{}
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		if known[key] == nil || !ok || value == "" {
			return nil, &problem{what: "cannot filter by " + text, why: "it is not KEY=VALUE with a key that containers have", do: "choose id=, name=, label=, status=, exited=, ancestor=, health=, volume=, before=, since=, pod= or namespace="}
		}
		wanted[key] = append(wanted[key], value)
	}
	return func(r *psRow) bool {
		for key, values := range wanted {
			fit := func(v string) bool { return known[key](r, v) }
			// Labels must all be there, as docker has it; of the rest one must fit.
			if key == "label" && slices.ContainsFunc(values, func(v string) bool { return !fit(v) }) || key != "label" && !slices.ContainsFunc(values, fit) {
				return false
			}
		}
		return true
	}, nil
}

// imageName is what the user asked for, if the daemon still knows it.
func imageName(c *criv1.Container, full bool) string {
	name := c.GetImage().GetUserSpecifiedImage()
	if name == "" {
		name = c.GetImage().GetImage()
	}
	if strings.HasPrefix(name, "sha256:") {
		return short(name, full)
	}
	if full {
		return name
	}
	return familiar(name)
}

// commandText shows what the annotation says of the command. Containers that
// others made have none: CRI does not tell it.
func commandText(note string, full bool) string {
	var argv []string
	if json.Unmarshal([]byte(note), &argv) != nil || len(argv) == 0 {
		return ""
	}
	text := strings.Join(argv, " ")
	if !full {
		text = ellipsis(text, 20)
	}
	return strconv.Quote(text)
}

func stateName(s criv1.ContainerState, local api.Local) string {
	switch {
	case local.Restarting:
		return "restarting"
	case local.Paused:
		return "paused"
	case s == criv1.ContainerState_CONTAINER_CREATED:
		return "created"
	case s == criv1.ContainerState_CONTAINER_RUNNING:
		return "running"
	case s == criv1.ContainerState_CONTAINER_EXITED:
		return "exited"
	}
	return "unknown"
}

// statusText is docker's sentence about a container's state.
func statusText(s *criv1.ContainerStatus, now time.Time, local api.Local) string {
	switch s.State {
	case criv1.ContainerState_CONTAINER_CREATED:
		return "Created"
	case criv1.ContainerState_CONTAINER_RUNNING:
		text := "Up " + units.HumanDuration(now.Sub(nanos(s.StartedAt)))
		if h := local.Health; h != nil {
			words := map[string]string{"starting": "health: starting"}
			if words[h.Status] == "" {
				words[h.Status] = h.Status
			}
			text += " (" + words[h.Status] + ")"
		}
		if local.Paused {
			text += " (Paused)"
		}
		return text
	case criv1.ContainerState_CONTAINER_EXITED:
		word := "Exited"
		if local.Restarting {
			word = "Restarting"
		}
		text := fmt.Sprintf("%s (%d) %s", word, s.ExitCode, ago(now, nanos(s.FinishedAt)))
		if s.Reason == "OOMKilled" {
			text += ", out of memory"
		}
		return text
	}
	return "Unknown"
}
