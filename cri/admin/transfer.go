package admin

import (
	"bufio"
	"io"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Pull fetches an image and reports how it goes.
func (s *Server) Pull(r *api.PullRequest, out grpc.ServerStreamingServer[api.Progress]) error {
	req := imageservice.PullRequest{Ref: r.Ref, Auth: authOf(r.Credentials)}
	feed := startFeed(out)
	req.Progress = feed.put
	img, err := s.cfg.Images.Pull(out.Context(), req)
	feed.stop()
	if err != nil {
		return err
	}
	return out.Send(&api.Progress{ImageID: img.ID})
}

// authOf is nil for no credentials.
func authOf(c api.Credentials) *imageservice.Auth {
	if c == (api.Credentials{Server: c.Server}) {
		return nil
	}
	return &imageservice.Auth{
		Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken, ServerAddress: c.Server,
	}
}

// Push sends an image to a registry and reports how it goes.
func (s *Server) Push(r *api.PushRequest, out grpc.ServerStreamingServer[api.Progress]) error {
	feed := startFeed(out)
	sum, err := s.cfg.Images.Push(out.Context(), imageservice.PushRequest{
		Image: r.Image, Ref: r.Ref, Auth: authOf(r.Credentials), Progress: feed.put,
	})
	feed.stop()
	if err != nil {
		return err
	}
	return out.Send(&api.Progress{Digest: sum.String()})
}

// Save sends an archive of images.
func (s *Server) Save(r *api.SaveRequest, out grpc.ServerStreamingServer[api.Chunk]) error {
	formats := map[string]imageservice.ArchiveFormat{
		"": imageservice.ArchiveDocker, "docker": imageservice.ArchiveDocker, "oci": imageservice.ArchiveOCI,
	}
	format, ok := formats[r.Format]
	if !ok || len(r.Images) == 0 {
		return errkind.New(errkind.InvalidArgument, "cannot save images %q in format %q: at least one image is needed, and a format that is docker or oci", r.Images, r.Format)
	}
	w := bufio.NewWriterSize(&download{stream: out}, api.MaxChunk)
	if err := s.cfg.Images.Save(out.Context(), r.Images, format, w); err != nil {
		return err
	}
	return w.Flush()
}

// download sends what is written to it as chunks.
type download struct {
	stream interface{ Send(*api.Chunk) error }
}

func (d *download) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		k := min(len(p), api.MaxChunk)
		if err := d.stream.Send(&api.Chunk{Data: p[:k]}); err != nil {
			return n, err
		}
		n, p = n+k, p[k:]
	}
	return n, nil
}

// feed sends progress from one goroutine, as a stream needs it, and never
// holds up those who report: of what a slow reader has not taken, each layer
// keeps its latest report of each status.
type feed struct {
	wake chan struct{} // has one if something may be pending
	end  chan struct{} // closed by stop
	sent chan struct{} // closed when nothing more is sent

	mu      sync.Mutex
	pending []imageservice.Progress // guarded by mu
	ended   bool                    // guarded by mu
}

func startFeed(out grpc.ServerStreamingServer[api.Progress]) *feed {
	f := &feed{wake: make(chan struct{}, 1), end: make(chan struct{}), sent: make(chan struct{})}
	go func() {
		defer close(f.sent)
		for last := false; !last; {
			select {
			case <-f.wake:
			case <-f.end:
				last = true
			}
			for _, p := range f.take(last) {
				// A stream that is broken ends the pull by its context.
				_ = out.Send(&api.Progress{Layer: p.Layer, Done: p.Done, Total: p.Total, Status: p.Status})
			}
		}
	}()
	return f
}

// take gives what is pending, for the last time if last is set.
func (f *feed) take(last bool) []imageservice.Progress {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pending
	f.pending, f.ended = nil, last
	return p
}

func (f *feed) put(p imageservice.Progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return
	}
	same := func(q imageservice.Progress) bool { return q.Layer == p.Layer && q.Status == p.Status }
	if i := slices.IndexFunc(f.pending, same); i >= 0 {
		f.pending[i] = p
	} else {
		f.pending = append(f.pending, p)
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// stop returns when all is sent and the stream is the caller's again. Reports
// may still come, from a transfer that the pull shared with another, and go
// nowhere.
func (f *feed) stop() {
	close(f.end)
	<-f.sent
}

// Load takes the images out of the archive that comes up.
func (s *Server) Load(in grpc.ClientStreamingServer[api.Chunk, api.LoadResult]) error {
	images, err := s.cfg.Images.Load(in.Context(), &upload{stream: in}, nil)
	if err != nil {
		return err
	}
	out := &api.LoadResult{IDs: []string{}}
	for _, img := range images {
		out.IDs = append(out.IDs, img.ID)
		out.Tags = append(out.Tags, img.Tags...)
	}
	return in.SendAndClose(out)
}

// upload reads the chunks of a stream as one.
type upload struct {
	stream interface{ Recv() (*api.Chunk, error) }
	rest   []byte
}

func (u *upload) Read(p []byte) (int, error) {
	for len(u.rest) == 0 {
		c, err := u.stream.Recv()
		if err != nil {
			return 0, err // io.EOF at the end
		}
		u.rest = c.Data
	}
	n := copy(p, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}

var _ io.Reader = (*upload)(nil)
