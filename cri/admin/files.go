package admin

import (
	"bufio"
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/imageservice/build"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/tartree"
)

// Files is what the server needs to reach into containers; *pod.Table has it.
type Files interface {
	StatPath(ctx context.Context, v pod.View, id, p string) (tartree.Info, error)
	CopyOut(ctx context.Context, v pod.View, id, p, as string, follow bool, w io.Writer) error
	CopyIn(ctx context.Context, v pod.View, id, dir string, keep bool, r io.Reader) error
	ImageOf(v pod.View, id string) (containerID string, image spec.ImageConfig, cfg spec.Container, err error)
	Still(ctx context.Context, v pod.View, id string, pause bool, f func(context.Context) error) error
	Pause(ctx context.Context, v pod.View, id string) error
	Unpause(ctx context.Context, v pod.View, id string) error
}

// StatPath describes what a container has at a path.
func (s *Server) StatPath(ctx context.Context, r *api.PathRequest) (*api.PathInfo, error) {
	i, err := s.cfg.Pods.StatPath(ctx, pod.ViewAll, r.Container, r.Path)
	if err != nil {
		return nil, err
	}
	return &api.PathInfo{Name: i.Name, Mode: uint32(i.Mode), Size: i.Size, Time: i.Time, Link: i.Link, LeadsTo: uint32(i.Target), LeadsAway: i.Broken}, nil
}

// CopyOut sends what a container has at a path.
func (s *Server) CopyOut(r *api.PathRequest, out grpc.ServerStreamingServer[api.Chunk]) error {
	w := bufio.NewWriterSize(&download{stream: out}, api.MaxChunk)
	if err := s.cfg.Pods.CopyOut(out.Context(), pod.ViewAll, r.Container, r.Path, r.As, r.Follow, w); err != nil {
		return err
	}
	return w.Flush()
}

// CopyIn makes in a container what the client sends.
func (s *Server) CopyIn(stream wire) error {
	var r api.CopyInRequest
	if err := firstFrame(stream, &r); err != nil {
		return err
	}
	opened, err := api.Message(api.FrameOpened, api.Opened{Stdin: true})
	if err == nil {
		err = stream.Send(opened)
	}
	if err != nil {
		return err
	}
	if err := s.cfg.Pods.CopyIn(stream.Context(), pod.ViewAll, r.Container, r.Dir, r.Keep, &incoming{stream: stream}); err != nil {
		return err
	}
	done, err := api.Message(api.FrameExit, api.Exit{})
	if err != nil {
		return err
	}
	return stream.Send(done)
}

// incoming reads what a client sends as stdin.
type incoming struct {
	stream wire
	rest   []byte
	ended  bool
}

func (i *incoming) Read(p []byte) (int, error) {
	for len(i.rest) == 0 {
		if i.ended {
			return 0, io.EOF
		}
		f, err := i.stream.Recv()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // a client that is done says so
		}
		if err != nil {
			return 0, err
		}
		i.ended, i.rest = f.Kind == api.FrameStdinEnd, f.Data
		if f.Kind != api.FrameStdin {
			i.rest = nil
		}
	}
	n := copy(p, i.rest)
	i.rest = i.rest[n:]
	return n, nil
}

// Changes tells what a container has changed.
func (s *Server) Changes(ctx context.Context, r *api.ContainerRequest) (*api.ChangesResult, error) {
	id, _, _, err := s.cfg.Pods.ImageOf(pod.ViewAll, r.Container)
	if err != nil {
		return nil, err
	}
	all, err := s.cfg.Images.Changes(ctx, id)
	if err != nil {
		return nil, err
	}
	out := &api.ChangesResult{Changes: []api.Change{}}
	for _, c := range all {
		out.Changes = append(out.Changes, api.Change{Kind: string(c.Kind), Path: c.Path})
	}
	return out, nil
}

// Pause lets all processes of a container stand still.
func (s *Server) Pause(ctx context.Context, r *api.ContainerRequest) (*api.Empty, error) {
	return &api.Empty{}, s.cfg.Pods.Pause(ctx, pod.ViewAll, r.Container)
}

// Unpause lets a paused container go on.
func (s *Server) Unpause(ctx context.Context, r *api.ContainerRequest) (*api.Empty, error) {
	return &api.Empty{}, s.cfg.Pods.Unpause(ctx, pod.ViewAll, r.Container)
}

// Commit makes an image of a container.
func (s *Server) Commit(ctx context.Context, r *api.CommitRequest) (*api.CommitResult, error) {
	if err := checkChanges(r.Changes); err != nil {
		return nil, err
	}
	id, image, cfg, err := s.cfg.Pods.ImageOf(pod.ViewAll, r.Container)
	if err != nil {
		return nil, err
	}
	req := imageservice.CommitRequest{Container: id, Tags: r.Tags, Author: r.Author, Comment: r.Comment,
		CreatedBy: strings.Join(commandOf(image, cfg), " "), Change: func(c *v1.ImageConfig) { become(c, image, cfg) }}
	if len(r.Changes) > 0 {
		req.Tags = nil
	}
	var made imageservice.Image
	err = s.cfg.Pods.Still(ctx, pod.ViewAll, id, r.Pause, func(ctx context.Context) (err error) {
		made, err = s.cfg.Images.CommitContainer(ctx, req)
		return err
	})
	if err != nil || len(r.Changes) == 0 {
		return &api.CommitResult{ImageID: made.ID}, err
	}
	// What a Dockerfile can say of an image, it can say of this one.
	text := "FROM " + made.ID + "\n" + strings.Join(r.Changes, "\n") + "\n"
	res, err := s.cfg.Images.Build(ctx, imageservice.BuildRequest{Request: build.Request{
		Dockerfile: []byte(text), File: "--change", Tags: r.Tags, Progress: func(build.Event) {},
	}}, s.cfg.Runner)
	// The one between is nobody's.
	if err == nil && res.ID != made.ID {
		err = s.cfg.Images.Remove(ctx, made.ID)
	}
	if err != nil {
		return nil, err
	}
	return &api.CommitResult{ImageID: res.ID}, nil
}

// checkChanges admits the instructions that alter the configuration only.
func checkChanges(lines []string) error {
	for _, line := range lines {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		known := []string{"CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}
		if !slices.Contains(known, strings.ToUpper(word)) || strings.ContainsAny(line, "\n\r") {
			return errkind.New(errkind.InvalidArgument, "cannot change the image by %q: it is not one of %s", line, strings.Join(known, ", "))
		}
	}
	return nil
}

// commandOf is what a container runs.
func commandOf(image spec.ImageConfig, cfg spec.Container) []string {
	line := cfg.Command
	if len(line) == 0 {
		line = image.Entrypoint
		if len(cfg.Args) == 0 {
			return slices.Concat(line, image.Cmd)
		}
	}
	return slices.Concat(line, cfg.Args)
}

// become gives the configuration of an image what a container was given when it
// was made, as docker does.
func become(c *v1.ImageConfig, image spec.ImageConfig, cfg spec.Container) {
	switch {
	case len(cfg.Command) > 0:
		c.Entrypoint, c.Cmd = cfg.Command, cfg.Args
	case len(cfg.Args) > 0:
		c.Cmd = cfg.Args
	}
	if len(c.Entrypoint)+len(c.Cmd) == 0 { // of a base that is gone
		c.Entrypoint, c.Cmd, c.Env, c.User, c.WorkingDir, c.Labels = image.Entrypoint, image.Cmd, image.Env, image.User, image.WorkingDir, image.Labels
	}
	for _, e := range cfg.Env {
		at := slices.IndexFunc(c.Env, func(kv string) bool { return strings.HasPrefix(kv, e.Key+"=") })
		if at < 0 {
			c.Env = append(c.Env, e.Key+"="+e.Value)
		} else {
			c.Env[at] = e.Key + "=" + e.Value
		}
	}
	if cfg.WorkingDir != "" {
		c.WorkingDir = cfg.WorkingDir
	}
	if cfg.StopSignal != "" {
		c.StopSignal = cfg.StopSignal
	}
	for key, value := range cfg.Labels {
		if strings.HasPrefix(key, "io.berth.") || strings.HasPrefix(key, "io.kubernetes.") {
			continue
		}
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		c.Labels[key] = value
	}
}
