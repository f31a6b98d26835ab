package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func importVerb(c *cli) *cobra.Command {
	var from, namespace string
	cmd := &cobra.Command{
		Use:   "import --from docker|containerd|podman [NAME...]",
		Short: "Take images over from docker, containerd or podman on this machine",
		Long: "Take images over from another engine on this machine, by its own program (docker or podman), which must\n" +
			"be able to reach its store, or by containerd's socket; what its environment says holds (DOCKER_HOST,\n" +
			"CONTAINERS_STORAGE_CONF, CONTAINERD_ADDRESS). Without names all are taken that have a tag. An image is\n" +
			"streamed, and keeps its id and its name; one that is here already is only named. There they stay as\n" +
			"they are.",
		Example: examples("berth import --from containerd", "berth import --from docker nginx:1.29 team/app:2"),
	}
	cmd.Flags().StringVar(&from, "from", "", "the engine: docker, containerd or podman")
	cmd.Flags().StringVar(&namespace, "namespace", "k8s.io", "containerd's namespace; that of a kubelet is k8s.io, of ctr default, of docker moby")
	_ = cmd.MarkFlagRequired("from") // the flag is there
	_ = cmd.RegisterFlagCompletionFunc("from", cobra.FixedCompletions([]string{"docker", "containerd", "podman"}, cobra.ShellCompDirectiveNoFileComp))
	return c.verb(cmd, cobra.ArbitraryArgs, func(ctx context.Context, cl *client, names []string) error {
		e, err := engineCalled(from, namespace)
		if err != nil {
			return err
		}
		images, err := e.images(ctx)
		if err != nil {
			return err
		}
		if len(names) > 0 {
			images = chosen(images, names)
		} else if images = slices.DeleteFunc(images, foreignImage.untagged); len(images) == 0 {
			fmt.Fprintf(c.err, "%s has no images with a tag\n", from)
		}
		byName := map[string]foreignImage{}
		var refs []string
		for _, i := range images {
			byName[i.ref] = i
			refs = append(refs, i.ref)
		}
		return c.each(refs, func(ref string) error { return c.importOne(ctx, cl, e, byName[ref]) })
	})
}

// engine is another one.
type engine struct {
	name   string
	images func(ctx context.Context) ([]foreignImage, error) // all that it has
	export func(ctx context.Context, ref string) (*exported, error)
}

// exported is an archive that an engine writes.
type exported struct {
	io.Reader
	// end waits until the engine has ended, and tells why that was no success.
	// What the end of ctx has ended is no failure of the engine.
	end func() error
}

func engineCalled(name, namespace string) (*engine, error) {
	switch name {
	case "docker":
		return program(name, func(_ context.Context, ref string) ([]string, error) { return []string{name, "save", ref}, nil }), nil
	case "podman":
		return program(name, podmanExport), nil
	case "containerd":
		return engineContainerd(namespace), nil
	}
	return nil, &problem{what: fmt.Sprintf("cannot import from %q", name), why: "it is no engine that is known", do: "choose --from docker, containerd or podman"}
}

// program is an engine by its own program, which export has the arguments of.
func program(name string, export func(ctx context.Context, ref string) ([]string, error)) *engine {
	return &engine{name: name,
		images: func(ctx context.Context) ([]foreignImage, error) {
			return listed(ctx, name, "images", "--no-trunc", "--format", "{{.ID}}\t{{.Repository}}:{{.Tag}}")
		},
		export: func(ctx context.Context, ref string) (*exported, error) {
			argv, err := export(ctx, ref)
			if err != nil {
				return nil, err
			}
			return execute(ctx, fmt.Sprintf("cannot import %s from %s", ref, name), argv)
		}}
}

// podmanExport keeps the form that the image has there: the other one has
// another configuration, and so another id.
func podmanExport(ctx context.Context, ref string) ([]string, error) {
	kind, err := said(ctx, "podman", "image", "inspect", "--format", "{{.ManifestType}}", ref)
	if err != nil {
		return nil, err
	}
	format := "docker-archive"
	if strings.Contains(kind, "vnd.oci.") {
		format = "oci-archive"
	}
	return []string{"podman", "save", "--quiet", "--format", format, ref}, nil
}

// foreignImage is one of another engine.
type foreignImage struct {
	ref string
	id  string // of its configuration; empty where the engine does not tell
}

// untagged images have no name that would be the same here.
func (i foreignImage) untagged() bool {
	return i.ref == "" || strings.Contains(i.ref, "<none>") || strings.Contains(i.ref, "@") || strings.HasPrefix(i.ref, "sha256:")
}

// listed are the images of which a program tells, by "ID\tREFERENCE" lines.
func listed(ctx context.Context, argv ...string) ([]foreignImage, error) {
	out, err := said(ctx, argv...)
	if err != nil {
		return nil, err
	}
	var all []foreignImage
	for line := range strings.Lines(out) {
		id, ref, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if !strings.HasPrefix(id, "sha256:") {
			id = "sha256:" + id
		}
		if ref != "" && !slices.ContainsFunc(all, func(i foreignImage) bool { return i.ref == ref }) {
			all = append(all, foreignImage{ref, id})
		}
	}
	return all, nil
}

// chosen are the images by those names. One that is not listed is left to the
// engine to find, or to say why not.
func chosen(all []foreignImage, names []string) []foreignImage {
	var out []foreignImage
	for _, name := range names {
		one := foreignImage{ref: name}
		for _, i := range all {
			if i.ref == name || familiar(i.ref) == name || familiar(i.ref) == name+":latest" {
				one = i
				break
			}
		}
		out = append(out, one)
	}
	return out
}

// importOne streams an image from the engine into the store.
func (c *cli) importOne(ctx context.Context, cl *client, e *engine, i foreignImage) error {
	what := fmt.Sprintf("import %s from %s", i.ref, e.name)
	if i.id != "" {
		if have, err := cl.admin.InspectImage(ctx, i.id); err == nil && have.ID == i.id {
			if err := cl.admin.Tag(ctx, i.id, i.ref); err != nil {
				return cannot(err, "%s", what)
			}
			fmt.Fprintf(c.out, "%s: %s, here already\n", familiar(i.ref), short(i.id, false))
			return nil
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the engine if the store has had enough
	archive, err := e.export(ctx, i.ref)
	if err != nil {
		return err
	}
	counted := &counter{r: archive}
	stop := c.showCount(i.ref, counted)
	res, lerr := cl.admin.Load(ctx, counted)
	if lerr != nil {
		cancel()
	}
	eerr := archive.end()
	stop()
	switch {
	case eerr != nil:
		return eerr
	case lerr != nil:
		return cannot(lerr, "%s", what)
	case len(res.IDs) != 1:
		return &problem{what: "cannot " + what, why: fmt.Sprintf("the archive has %d images", len(res.IDs)), do: "name an image, not several"}
	}
	// The name as it is there, whatever the archive made of it.
	if !(foreignImage{ref: i.ref}).untagged() {
		if err := cl.admin.Tag(ctx, res.IDs[0], i.ref); err != nil {
			return cannot(err, "%s", what)
		}
	}
	fmt.Fprintf(c.out, "%s: %s (%s)\n", familiar(i.ref), short(res.IDs[0], false), size(uint64(counted.n.Load())))
	return nil
}

// execute has a program of an engine write an archive.
func execute(ctx context.Context, what string, argv []string) (*exported, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	complaint := &tail{}
	cmd.Stderr = complaint
	stream, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, noEngine(argv, err)
	}
	return &exported{stream, func() error {
		_, _ = io.Copy(io.Discard, stream) // what an archive has after its end
		err := cmd.Wait()
		if err == nil || complaint.String() == "" && ctx.Err() != nil {
			return nil
		}
		return &problem{what: what, why: cmp.Or(complaint.String(), err.Error()), do: "try by hand: " + strings.Join(argv, " ") + " >image.tar"}
	}}, nil
}

// said runs a program of an engine and returns what it prints.
func said(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	complaint := &tail{}
	cmd.Stderr = complaint
	out, err := cmd.Output()
	if err != nil && complaint.String() != "" {
		err = errors.New(complaint.String())
	}
	if err != nil {
		return "", noEngine(argv, err)
	}
	return string(out), nil
}

func noEngine(argv []string, err error) error {
	p := &problem{what: "cannot execute " + strings.Join(argv, " "), why: err.Error(), do: "see that it works by hand, as the user that you are"}
	if errors.Is(err, exec.ErrNotFound) {
		p.why, p.do = argv[0]+" is not installed here", "import where the images are, or bring an archive over: berth load -i image.tar"
	}
	return p
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// showCount tells on a terminal how far an import is, until the returned
// function is called, and else that it has begun.
func (c *cli) showCount(ref string, counted *counter) (stop func()) {
	f, ok := c.err.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(c.err, "%s: importing\n", familiar(ref))
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(barsRefresh)
		defer tick.Stop()
		for {
			select {
			case <-done:
				fmt.Fprint(f, "\r\x1b[K")
				return
			case <-tick.C:
				fmt.Fprintf(f, "\r\x1b[K%s: importing, %s", familiar(ref), size(uint64(counted.n.Load())))
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// tail keeps the end of what a program complains of.
type tail struct{ b []byte }

const maxComplaint = 2 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-maxComplaint):]
	return len(p), nil
}

// String is it in one line, without what a terminal would take for commands.
func (t *tail) String() string {
	clean := bytes.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, bytes.ToValidUTF8(t.b, nil))
	return strings.Join(strings.Fields(string(clean)), " ")
}
