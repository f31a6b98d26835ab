package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func logsVerb(c *cli) *cobra.Command {
	var follow, stamps bool
	var tail, since, until string
	cmd := &cobra.Command{
		Use:   "logs CONTAINER",
		Short: "Show what a container has printed",
		Long: "Show what a container has printed, from rotated files of its log too, compressed or not.\n" +
			"With -f go on, over rotations and restarts of the daemon, until the container ends or\n" +
			"--until has passed. --tail counts what there is before --since and --until choose.",
		Example: examples("berth logs -f --tail 20 web", "berth logs --since 1h --until 10m -t web"),
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on until the container ends")
	f.BoolVarP(&stamps, "timestamps", "t", false, "put the time before each line")
	f.StringVarP(&tail, "tail", "n", "all", "so many last lines only")
	f.StringVar(&since, "since", "", "lines from then on: "+momentForms)
	f.StringVar(&until, "until", "", "lines until then, in the same forms")
	return c.verb(cmd, cobra.ExactArgs(1), func(ctx context.Context, cl *client, args []string) error {
		r := &api.LogsRequest{Follow: follow}
		var err error
		if r.Tail, err = parseTail(tail); err != nil {
			return err
		}
		if r.Since, err = parseMoment("since", since, c.now()); err != nil {
			return err
		}
		if r.Until, err = parseMoment("until", until, c.now()); err != nil {
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
		r.Container = o.id()
		return cannot(c.follow(ctx, cl, r, logStyle{stamps: stamps}), "read the log of %s", o)
	})
}

func parseTail(s string) (*int, error) {
	if s == "all" || s == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return nil, &problem{what: fmt.Sprintf("cannot show the last %q lines", s), why: "it is not a number of lines", do: "write for example --tail 20, or --tail all"}
	}
	return &n, nil
}

// stampLayout is of one length for all times, as docker's.
const stampLayout = "2006-01-02T15:04:05.000000000Z07:00"

// logStyle is how lines are shown.
type logStyle struct{ stamps bool }

// follow prints a log. When the daemon goes away meanwhile, it goes on with
// the first line that has not been printed.
func (c *cli) follow(ctx context.Context, cl *client, r *api.LogsRequest, style logStyle) error {
	p := logPrinter{c: c, style: style, midLine: map[string]bool{}}
	return again(ctx, cl, func() error {
		p.skip = 0
		if !p.last.IsZero() {
			resumed := *r
			resumed.Since, resumed.Tail = p.last, nil
			r, p.skip = &resumed, p.atLast
		}
		return cl.admin.Logs(ctx, r, p.print)
	})
}

// logPrinter writes log lines to where they belong and knows where it is.
type logPrinter struct {
	c       *cli
	style   logStyle
	midLine map[string]bool // by stream: the last piece was not a whole line
	last    time.Time       // of the last line
	atLast  int             // lines with that time
	skip    int             // of them, to pass over after a resumption
}

func (p *logPrinter) print(l *api.LogLine) error {
	if p.skip > 0 && !l.Time.After(p.last) {
		if l.Time.Equal(p.last) {
			p.skip--
		}
		return nil
	}
	p.skip = 0
	w := p.c.out
	if l.Stream == "stderr" {
		w = p.c.err
	}
	text := l.Text
	if !l.Partial {
		text = append(text, '\n')
	}
	if p.style.stamps && !p.midLine[l.Stream] {
		text = append([]byte(l.Time.UTC().Format(stampLayout)+" "), text...)
	}
	p.midLine[l.Stream] = l.Partial
	if _, err := w.Write(text); err != nil {
		return err
	}
	if l.Time.Equal(p.last) {
		p.atLast++
	} else {
		p.last, p.atLast = l.Time, 1
	}
	return nil
}

// logFolder is where a pod of one keeps its log, a folder below the daemon's
// root of logs. As with the kubelet, whoever chose it removes it.
type logFolder struct{ root, name string }

// logFolderName can be told from what CRI tells of the pod.
func logFolderName(m *criv1.PodSandboxMetadata) string { return m.GetName() + "_" + m.GetUid() }

// remove deletes the folder; the zero logFolder is of a pod without one.
func (l logFolder) remove() error {
	if l.name == "" {
		return nil
	}
	root, err := os.OpenRoot(l.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		defer root.Close()
		err = root.RemoveAll(l.name)
	}
	if err == nil {
		return nil
	}
	return &problem{
		what: "cannot remove the log folder " + l.name, why: err.Error(),
		do: fmt.Sprintf("remove it by hand: sudo rm -r %s/%s", l.root, l.name),
	}
}
