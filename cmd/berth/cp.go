package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/runtime/sys/tartree"
)

// copyFlags say how files are copied.
type copyFlags struct{ archive, follow, quiet bool }

func cpVerb(c *cli) *cobra.Command {
	var f copyFlags
	cmd := &cobra.Command{
		Use:   "cp CONTAINER:PATH|PATH|- CONTAINER:PATH|PATH|-",
		Short: "Copy files out of a container or into one",
		Long: "Copy files and directories out of a container or into one, running or not. A directory\n" +
			"that is there gets the source inside it; with SOURCE/. only what the source has. For -\n" +
			"it is a tar on stdin or stdout. Links in the container lead nowhere but into it.",
		Example: examples("berth cp web:/etc/nginx/nginx.conf .", "tar c site | berth cp - web:/usr/share/nginx/html"),
	}
	cmd.Flags().BoolVarP(&f.archive, "archive", "a", false, "keep the owners; otherwise files are root's inside, and yours outside")
	cmd.Flags().BoolVarP(&f.follow, "follow-link", "L", false, "copy what a symbolic link leads to instead of the link")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "say nothing about what was copied")
	return c.verb(cmd, cobra.ExactArgs(2), func(ctx context.Context, cl *client, args []string) error {
		from, src := splitCopyArg(args[0])
		to, dst := splitCopyArg(args[1])
		p := &problem{what: fmt.Sprintf("cannot copy %s to %s", args[0], args[1]), do: "name one path as CONTAINER:PATH; a local one with a colon begins with ./"}
		switch {
		case from == "" && to == "":
			p.why = "neither is in a container"
			return p
		case from != "" && to != "":
			p.why = "both are in containers"
			p.do = fmt.Sprintf("copy in two steps: berth cp %s - | berth cp - %s", args[0], args[1])
			return p
		}
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		o, err := inv.findContainer(from + to)
		if err != nil {
			return err
		}
		if from != "" {
			err = c.copyOut(ctx, cl, o.id(), src, dst, &f)
		} else {
			err = c.copyIn(ctx, cl, o.id(), src, dst, &f)
		}
		if err != nil {
			err = advised(err, codes.NotFound, "see what there is: berth exec "+o.name()+" ls, or berth cp "+o.name()+":/DIRECTORY - | tar t")
			return cannot(err, "copy %s to %s", args[0], args[1])
		}
		if !f.quiet && args[1] != "-" {
			fmt.Fprintf(c.err, "Copied %s to %s\n", args[0], args[1])
		}
		return nil
	})
}

// splitCopyArg divides CONTAINER:PATH; a local path has no container. As docker
// has it, what begins with / or . is local whatever follows.
func splitCopyArg(arg string) (container, p string) {
	container, p, ok := strings.Cut(arg, ":")
	if !ok || strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, ".") || container == "" {
		return "", arg
	}
	return container, p
}

// onlyContent tells whether a path stands for what is in a directory.
func onlyContent(p string) bool { return strings.HasSuffix(p, "/.") || p == "." }

// destination says where a copy goes: into the directory dir under the name as,
// or with "." what the source has right there; mkdir tells that dir is new.
func destination(src string, srcIsDir bool, dst string, dstThere, dstIsDir bool) (dir, as string, mkdir bool, err error) {
	switch {
	case dstThere && dstIsDir && srcIsDir && onlyContent(src):
		return dst, ".", false, nil
	case dstThere && dstIsDir:
		return dst, path.Base(path.Clean(src)), false, nil
	case dstThere && srcIsDir:
		return "", "", false, fmt.Errorf("%s is a file, and %s a directory", dst, src)
	case dstThere:
		return path.Dir(path.Clean(dst)), path.Base(path.Clean(dst)), false, nil
	case srcIsDir:
		return dst, ".", true, nil
	case strings.HasSuffix(dst, "/"):
		return "", "", false, fmt.Errorf("the directory %s does not exist", dst)
	}
	return path.Dir(path.Clean(dst)), path.Base(path.Clean(dst)), false, nil
}

// copyOut copies from a container.
func (c *cli) copyOut(ctx context.Context, cl *client, id, src, dst string, f *copyFlags) error {
	r := &api.PathRequest{Container: id, Path: src, Follow: f.follow}
	if dst == "-" {
		if out, ok := c.out.(*os.File); ok && term.IsTerminal(int(out.Fd())) {
			return &problem{what: "cannot write a tar to the terminal", why: "nobody could read it", do: "send it somewhere: berth cp CONTAINER:PATH - | tar x"}
		}
		if onlyContent(src) {
			r.As = "."
		}
		return cl.admin.CopyOut(ctx, r, c.out)
	}
	info, err := cl.admin.StatPath(ctx, id, src)
	if err != nil {
		return err
	}
	mode := fs.FileMode(info.Mode)
	if f.follow || strings.HasSuffix(src, "/") || onlyContent(src) {
		mode = fs.FileMode(info.LeadsTo)
	}
	there, err := os.Stat(dst)
	dir, as, mkdir, perr := destination(src, mode.IsDir(), dst, err == nil, err == nil && there.IsDir())
	if perr != nil {
		return perr
	}
	if mkdir {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	root, err := os.Open(filepath.FromSlash(dir))
	if err != nil {
		return err
	}
	defer root.Close()
	r.As = as
	owner := tartree.To(os.Getuid(), os.Getgid())
	if f.archive {
		owner = nil
	}
	tar, w := io.Pipe()
	go func() { w.CloseWithError(cl.admin.CopyOut(ctx, r, w)) }()
	defer tar.Close()
	return tartree.Unpack(ctx, root, "/", owner, tar)
}

// copyIn copies to a container.
func (c *cli) copyIn(ctx context.Context, cl *client, id, src, dst string, f *copyFlags) error {
	info, err := cl.admin.StatPath(ctx, id, dst)
	there := err == nil && !info.LeadsAway
	if err != nil && status.Code(err) != codes.NotFound {
		return err
	}
	isDir := there && fs.FileMode(info.LeadsTo).IsDir()
	r := &api.CopyInRequest{Container: id, Dir: dst, Keep: f.archive}
	if src == "-" {
		if !isDir {
			return fmt.Errorf("%s is no directory in the container, and a tar is unpacked into one", dst)
		}
		r.Keep = true // who made the tar has said whose its files are
		return cl.admin.CopyIn(ctx, r, c.in)
	}
	full, err := filepath.Abs(src)
	if err != nil {
		return err
	}
	stat := os.Lstat
	if f.follow || strings.HasSuffix(src, "/") || onlyContent(src) {
		stat = os.Stat
	}
	st, err := stat(full)
	if err != nil {
		return err
	}
	as, mkdir := "", false
	if r.Dir, as, mkdir, err = destination(nameOf(full, src), st.IsDir(), dst, there, isDir); err != nil {
		return err
	}
	if mkdir { // it comes with the tar, into the directory above
		r.Dir, as = path.Dir(path.Clean(dst)), path.Base(path.Clean(dst))
	}
	root, err := os.Open("/")
	if err != nil {
		return err
	}
	defer root.Close()
	tar, w := io.Pipe()
	defer tar.Close()
	follow := st.Mode()&fs.ModeSymlink == 0 // what was looked at
	go func() { w.CloseWithError(tartree.Pack(ctx, root, full, as, follow, nil, w)) }()
	return cl.admin.CopyIn(ctx, r, tar)
}

// nameOf is the path that a local source has its name of; "." has the name of
// the working directory, and still stands for what is in it.
func nameOf(full, given string) string {
	if onlyContent(given) {
		return full + "/."
	}
	return full
}

func diffVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "diff CONTAINER",
		Short:   "Show what a container has changed in its root file system",
		Long:    "Show what a container has changed in its root file system: A for added, C for changed and\nD for deleted. Volumes are not part of it.",
		Example: examples("berth diff web", "berth diff --output json web"),
	}
	return c.verb(cmd, cobra.ExactArgs(1), func(ctx context.Context, cl *client, args []string) error {
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		o, err := inv.findContainer(args[0])
		if err != nil {
			return err
		}
		changes, err := cl.admin.Changes(ctx, o.id())
		if err != nil {
			return cannot(err, "tell what %s has changed", o)
		}
		if c.structured() {
			return c.show(append([]api.Change{}, changes...))
		}
		for _, change := range changes {
			fmt.Fprintf(c.out, "%s %s\n", change.Kind, printable(change.Path))
		}
		return nil
	})
}
