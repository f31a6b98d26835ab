package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
	"google.golang.org/grpc/codes"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func pullVerb(c *cli) *cobra.Command {
	var quiet bool
	var creds string
	cmd := &cobra.Command{
		Use:     "pull IMAGE...",
		Short:   "Fetch images from their registries",
		Example: examples("berth pull nginx:1.29", "berth pull -q registry.example.com/team/app@sha256:..."),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the image's id")
	cmd.Flags().StringVar(&creds, "creds", "", "USER:PASSWORD for the registry (what docker login has written if not given)")
	return refusing(c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		return c.each(args, func(ref string) error {
			id, err := c.pull(ctx, cl, ref, creds, c.out, quiet)
			if err != nil {
				return err
			}
			if quiet {
				fmt.Fprintln(c.out, id)
			} else {
				fmt.Fprintf(c.out, "%s: %s\n", ref, short(id, false))
			}
			return nil
		})
	}),
		refusedFlag{name: "all-tags", short: "a", bool: true, why: "a registry may have thousands of them", do: "name the tags"},
		refusedFlag{name: "platform", why: "images are pulled for this machine, which is " + ourPlatform, do: "leave it out; berth build --platform can be for others"},
		refusedFlag{name: "disable-content-trust", bool: true, why: "docker's content trust has ended; images are verified by digest", do: "name the image by digest, or configure image.verifiers_dir"})
}

// ensureImage returns the id of an image, pulled if the policy says so. Its
// progress goes to stderr: stdout is the container's.
func (c *cli) ensureImage(ctx context.Context, cl *client, ref, policy string, quiet bool) (string, error) {
	if policy != "always" {
		st, err := cl.image.ImageStatus(ctx, &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: ref}})
		if err != nil {
			return "", cannot(err, "find the image %s", ref)
		}
		if st.Image != nil {
			return st.Image.Id, nil
		}
		if policy == "never" {
			return "", &problem{what: "cannot run " + ref, why: "the image is not here, and --pull never forbids to fetch it", do: "berth pull " + ref}
		}
		if !quiet {
			fmt.Fprintf(c.err, "The image %s is not here yet; pulling it.\n", ref)
		}
	}
	return c.pull(ctx, cl, ref, "", c.err, quiet)
}

func (c *cli) pull(ctx context.Context, cl *client, ref, creds string, w io.Writer, quiet bool) (string, error) {
	auth, err := c.credentials(ctx, cl, ref, creds)
	if err != nil {
		return "", err
	}
	show := showProgress(ctx, w, quiet)
	id, err := cl.admin.Pull(ctx, &api.PullRequest{Ref: ref, Credentials: auth}, show.report)
	show.end(err == nil)
	if err != nil {
		err = advised(err, codes.NotFound, "check the spelling of the name and the tag, and that the registry has them")
		err = advised(err, codes.Unavailable, "check that this node reaches the registry; mirrors stand in /etc/berth/certs.d/HOST/hosts.toml")
		return "", cannot(err, "pull %s", ref)
	}
	return id, nil
}

// progress shows how far a pull or a push is.
type progress interface {
	report(*api.Progress)
	end(ok bool)
}

// showProgress picks what suits w.
func showProgress(ctx context.Context, w io.Writer, quiet bool) progress {
	switch f, isFile := w.(*os.File); {
	case quiet:
		return silent{}
	case isFile && term.IsTerminal(int(f.Fd())):
		return newBars(ctx, f)
	}
	return &lines{w: w, said: map[string]string{}}
}

type silent struct{}

func (silent) report(*api.Progress) {}
func (silent) end(bool)             {}

// lines says once a layer what happens to it, for logs and pipes.
type lines struct {
	w    io.Writer
	said map[string]string
}

func (l *lines) report(p *api.Progress) {
	if l.said[p.Layer] == p.Status || p.Status == "" {
		return
	}
	l.said[p.Layer] = p.Status
	switch {
	case p.Layer == "":
		fmt.Fprintln(l.w, p.Status)
	case p.Total > 0:
		fmt.Fprintf(l.w, "%s: %s (%s)\n", short(p.Layer, false), p.Status, units.HumanSize(float64(p.Total)))
	default:
		fmt.Fprintf(l.w, "%s: %s\n", short(p.Layer, false), p.Status)
	}
}

func (l *lines) end(bool) {}

// bars draws one bar a layer on a terminal.
type bars struct {
	all    *mpb.Progress
	layers map[string]*mpb.Bar // by digest
}

// barsRefresh is how often the bars are drawn.
const barsRefresh = 100 * time.Millisecond

func newBars(ctx context.Context, w io.Writer) *bars {
	return &bars{
		all:    mpb.NewWithContext(ctx, mpb.WithOutput(w), mpb.WithWidth(40), mpb.WithRefreshRate(barsRefresh)),
		layers: map[string]*mpb.Bar{},
	}
}

func (b *bars) report(p *api.Progress) {
	if p.Layer == "" {
		return // the bars tell as much
	}
	bar, ok := b.layers[p.Layer]
	if !ok {
		bar = b.all.AddBar(0,
			mpb.BarFillerTrim(), // the texts have their spaces, also on a terminal that has no room for a bar
			mpb.PrependDecorators(decor.Name(short(p.Layer, false)+" ")),
			mpb.AppendDecorators(decor.CountersKiloByte(" % .1f / % .1f"), decor.OnComplete(decor.Name(""), " done")))
		b.layers[p.Layer] = bar
	}
	if p.Total > 0 {
		bar.SetTotal(p.Total, false)
	}
	bar.SetCurrent(p.Done)
}

func (b *bars) end(ok bool) {
	for _, bar := range b.layers {
		if ok {
			bar.SetTotal(-1, true) // what is there counts as whole
		} else {
			bar.Abort(false)
		}
	}
	b.all.Wait()
}
