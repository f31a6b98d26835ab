package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// buildFlags are a build as docker's words describe it.
type buildFlags struct {
	tags, args, labels, secrets []string
	file, target                string
	noCache, pull, quiet        bool
	progress, platform, network string
	iidFile                     string
	context                     string
}

func buildVerb(c *cli) *cobra.Command {
	var b buildFlags
	cmd := &cobra.Command{
		Use:   "build [flags] CONTEXT|-",
		Short: "Make an image from a Dockerfile",
		Long: "Make an image from a Dockerfile. CONTEXT is a folder, without what its .dockerignore\n" +
			"names; - reads a tar, or a Dockerfile without a context, from stdin. Commands run in the\n" +
			"sandbox of every container. The same context gives the same image: what is written has\n" +
			"the time of the base image, or SOURCE_DATE_EPOCH. The kubelet can run the image at once.",
		Example: examples("berth build -t web:1 .", "berth build -t app --target release --build-arg VERSION=2 --secret id=token,src=token.txt src"),
	}
	b.register(cmd.Flags())
	return c.verb(cmd, cobra.ExactArgs(1), func(ctx context.Context, cl *client, args []string) error {
		b.context = args[0]
		return c.build(ctx, cl, &b)
	})
}

func (b *buildFlags) register(f *pflag.FlagSet) {
	f.StringArrayVarP(&b.tags, "tag", "t", nil, "name of the image: NAME[:TAG]")
	f.StringVarP(&b.file, "file", "f", "", "the Dockerfile (CONTEXT/Dockerfile if none is given; - for stdin)")
	f.StringVar(&b.target, "target", "", "stage to build (the last if none is given)")
	f.StringArrayVar(&b.args, "build-arg", nil, "set an ARG: NAME=VALUE, or NAME to pass on your own variable")
	f.BoolVar(&b.noCache, "no-cache", false, "run every step, whatever earlier builds have left")
	f.BoolVar(&b.pull, "pull", false, "ask the registries for newer bases")
	f.StringArrayVar(&b.labels, "label", nil, "set a label of the image: NAME=VALUE")
	f.StringArrayVar(&b.secrets, "secret", nil, "give RUN --mount=type=secret a secret: id=ID,src=FILE or id=ID,env=NAME")
	f.StringVar(&b.platform, "platform", "", "platform of the image: OS/ARCH; this machine's is the only one")
	f.StringVar(&b.network, "network", "default", "network of RUN: default, host or none")
	f.StringVar(&b.progress, "progress", "auto", "how to show progress: auto, plain, tty or quiet")
	f.StringVar(&b.iidFile, "iidfile", "", "write the id of the image to a file")
	f.BoolVarP(&b.quiet, "quiet", "q", false, "show no progress; print only the id")
}

// build makes the image. What goes wrong is said with the line of the file.
func (c *cli) build(ctx context.Context, cl *client, b *buildFlags) error {
	req, open, err := c.buildRequest(b)
	if err != nil {
		return err
	}
	show, err := c.showBuild(b)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	out, err := cl.admin.Build(ctx, req, api.Builder{
		Context: open,
		Login: func(ctx context.Context, ref string) (api.Credentials, error) {
			return c.credentials(ctx, cl, ref, "")
		},
		Event:  show.event,
		Output: show.output,
	})
	show.end(err == nil)
	if err != nil {
		return b.failed(err)
	}
	if b.iidFile != "" {
		if err := os.WriteFile(b.iidFile, []byte(out.ImageID), 0o644); err != nil {
			return &problem{what: "cannot write the id of the image", why: err.Error(), do: "check the path given to --iidfile; the image is " + short(out.ImageID, false)}
		}
	}
	if c.output == "json" {
		return c.json(out)
	}
	if !b.silent() {
		fmt.Fprintf(c.err, "%d commands run, %d layers written, %d steps from the cache\n", out.Commands, out.Layers, out.Cached)
	}
	fmt.Fprintln(c.out, out.ImageID)
	return nil
}

func (b *buildFlags) silent() bool { return b.quiet || b.progress == "quiet" }

// failed is why there is no image, with the advice for it.
func (b *buildFlags) failed(err error) error {
	switch status.Code(err) {
	case codes.FailedPrecondition:
		err = advised(err, codes.FailedPrecondition, "read the output of the command above; --progress plain shows all of it")
	case codes.NotFound:
		err = advised(err, codes.NotFound, "check the name; files must be in the context and not in .dockerignore, images here or in their registry")
	case codes.InvalidArgument:
		err = advised(err, codes.InvalidArgument, "change that line of the Dockerfile, or the argument that it names")
	case codes.Unimplemented:
		err = advised(err, codes.Unimplemented, "write that line in another way; berth build --help tells what there is")
	}
	err = cannot(err, "build %s", b.context)
	var p *problem
	if errors.As(err, &p) {
		p.why = strings.TrimPrefix(p.why, "cannot build: ")
	}
	return err
}

// buildRequest reads the flags, and what they name, into a request; open gives
// the context.
func (c *cli) buildRequest(b *buildFlags) (*api.BuildRequest, func() (io.ReadCloser, error), error) {
	req := &api.BuildRequest{Tags: b.tags, Target: b.target, NoCache: b.noCache, Pull: b.pull, Platform: b.platform, Network: b.network, File: "Dockerfile"}
	var err error
	if req.Args, err = buildArgs(b.args, os.LookupEnv); err != nil {
		return nil, nil, err
	}
	if req.Labels, err = parseLabels(b.labels); err != nil {
		return nil, nil, err
	}
	if req.Secrets, err = buildSecrets(b.secrets, os.LookupEnv); err != nil {
		return nil, nil, err
	}
	if req.Epoch, err = sourceDateEpoch(req.Args, os.LookupEnv); err != nil {
		return nil, nil, err
	}
	open, err := c.sources(b, req)
	return req, open, err
}

// sources finds the Dockerfile and the context.
func (c *cli) sources(b *buildFlags, req *api.BuildRequest) (func() (io.ReadCloser, error), error) {
	if b.context == "-" {
		return c.sourcesOnStdin(b, req)
	}
	if strings.Contains(b.context, "://") || strings.HasPrefix(b.context, "git@") {
		return nil, &problem{what: "cannot build " + b.context, why: "a context is a folder or stdin, never an URL", do: "fetch it first: git clone, or curl ... | berth build -"}
	}
	if info, err := os.Stat(b.context); err != nil || !info.IsDir() {
		p := &problem{what: "cannot build " + b.context, why: "it is no folder", do: "name the folder with the Dockerfile, such as ."}
		if err != nil {
			p.why = err.Error()
		}
		return nil, p
	}
	name, text, err := c.dockerfile(b)
	if err != nil {
		return nil, err
	}
	req.File, req.Dockerfile = filepath.Base(name), text
	if name == "-" {
		req.File = "Dockerfile"
	}
	ignore, err := readIgnore(b.context, name)
	if err != nil {
		return nil, &problem{what: "cannot build " + b.context, why: err.Error(), do: "repair the file"}
	}
	return func() (io.ReadCloser, error) { return packContext(b.context, ignore) }, nil
}

// maxDockerfile is what the daemon takes too, in bytes.
const maxDockerfile = 1 << 20

// dockerfile reads the file that -f names: relative to here, else to the
// context, as people mean both.
func (c *cli) dockerfile(b *buildFlags) (name string, text []byte, err error) {
	name = b.file
	if name == "-" {
		text, err = readBounded(c.in)
		return name, text, problemOfFile("stdin", err)
	}
	inContext := filepath.Join(b.context, cmp.Or(name, "Dockerfile"))
	if name == "" || !filepath.IsAbs(name) && missing(name) && !missing(inContext) {
		name = inContext
	}
	f, err := os.Open(name)
	if err != nil {
		return name, nil, problemOfFile(name, err)
	}
	defer func() { _ = f.Close() }()
	text, err = readBounded(f)
	return name, text, problemOfFile(name, err)
}

func missing(name string) bool {
	_, err := os.Stat(name)
	return errors.Is(err, fs.ErrNotExist)
}

func problemOfFile(name string, err error) error {
	if err == nil {
		return nil
	}
	return &problem{what: "cannot read the Dockerfile " + name, why: err.Error(), do: "name it with -f, or the folder that has it"}
}

func readBounded(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDockerfile+1))
	if err == nil && len(text) > maxDockerfile {
		err = fmt.Errorf("it has more than %d bytes", maxDockerfile)
	}
	if err == nil && text == nil {
		text = []byte{}
	}
	return text, err
}

// sourcesOnStdin tells a tar from a Dockerfile.
func (c *cli) sourcesOnStdin(b *buildFlags, req *api.BuildRequest) (func() (io.ReadCloser, error), error) {
	if b.file == "-" {
		return nil, &problem{what: "cannot build from stdin", why: "both the Dockerfile and the context would be there", do: "write the Dockerfile to a file of the context"}
	}
	in := bufio.NewReaderSize(c.in, 64<<10)
	head, err := in.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, problemOfFile("stdin", err)
	}
	if !looksLikeTar(head) {
		if b.file != "" {
			return nil, &problem{what: "cannot build from stdin", why: "it is no tar, so there is no " + b.file + " in it", do: "send a tar, or leave out -f"}
		}
		req.Dockerfile, err = readBounded(in)
		return nil, problemOfFile("stdin", err)
	}
	if b.file != "" {
		req.File = b.file
	}
	return func() (io.ReadCloser, error) { return io.NopCloser(in), nil }, nil
}

func looksLikeTar(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return len(head) > 262 && string(head[257:262]) == "ustar"
}

// buildArgs reads NAME=VALUE, or NAME for the value of our own environment.
func buildArgs(list []string, lookup func(string) (string, bool)) (map[string]string, error) {
	out := map[string]string{}
	for _, arg := range list {
		name, value, ok := strings.Cut(arg, "=")
		if name == "" {
			return nil, &problem{what: fmt.Sprintf("cannot set the build argument %q", arg), why: "it has no name", do: "write NAME=VALUE, or NAME alone to pass on your own"}
		}
		if !ok {
			if value, ok = lookup(name); !ok {
				continue
			}
		}
		out[name] = value
	}
	return out, nil
}

// buildSecrets reads id=ID,src=FILE and id=ID,env=NAME. The values appear in no
// error.
func buildSecrets(list []string, lookup func(string) (string, bool)) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, text := range list {
		p := &problem{what: fmt.Sprintf("cannot use the secret %q", text), do: "write id=ID,src=FILE or id=ID,env=NAME"}
		fields := map[string]string{}
		for field := range strings.SplitSeq(text, ",") {
			key, value, ok := strings.Cut(field, "=")
			if !ok || !slices.Contains([]string{"id", "src", "source", "env", "type"}, key) {
				p.why = fmt.Sprintf("%q is none of id=, src= and env=", field)
				return nil, p
			}
			if key == "source" {
				key = "src"
			}
			fields[key] = value
		}
		id, src, env := fields["id"], fields["src"], fields["env"]
		switch {
		case id == "":
			p.why = "it has no id"
			return nil, p
		case src != "" && env != "":
			p.why = "it has a file and a variable"
			return nil, p
		case src != "":
			value, err := os.ReadFile(src)
			if err != nil {
				p.why = err.Error()
				return nil, p
			}
			out[id] = value
		default:
			value, ok := lookup(cmp.Or(env, id))
			if !ok {
				p.why = fmt.Sprintf("the variable %s is not set", cmp.Or(env, id))
				return nil, p
			}
			out[id] = []byte(value)
		}
	}
	return out, nil
}

// sourceDateEpoch is the time of the build that the caller wants
// (reproducible-builds.org), as an argument or in our own environment.
func sourceDateEpoch(args map[string]string, lookup func(string) (string, bool)) (*int64, error) {
	text, ok := args["SOURCE_DATE_EPOCH"]
	if !ok {
		if text, ok = lookup("SOURCE_DATE_EPOCH"); !ok || text == "" {
			return nil, nil
		}
	}
	at, err := strconv.ParseInt(text, 10, 64)
	if err != nil || at < 0 || at > 1<<38 {
		return nil, &problem{what: "cannot use SOURCE_DATE_EPOCH", why: fmt.Sprintf("%q is no number of seconds since 1970", text), do: "write for example $(git log -1 --format=%ct)"}
	}
	return &at, nil
}
