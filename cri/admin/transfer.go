package admin

import (
	"io"

	"google.golang.org/grpc"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/imageservice"
)

// Pull fetches an image and reports how it goes.
func (s *Server) Pull(r *api.PullRequest, out grpc.ServerStreamingServer[api.Progress]) error {
	req := imageservice.PullRequest{Ref: r.Ref}
	if r.Username != "" || r.Password != "" {
		req.Auth = &imageservice.Auth{Username: r.Username, Password: r.Password}
	}
	feed := startFeed(out)
	req.Progress = feed.put
	img, err := s.cfg.Images.Pull(out.Context(), req)
	feed.stop()
	if err != nil {
		return err
	}
	return out.Send(&api.Progress{ImageID: img.ID})
}

// feed sends progress from one goroutine, as a stream needs it, and never
// holds up those who report: a reader that is too slow misses reports.
type feed struct {
	reports chan imageservice.Progress
	end     chan struct{} // closed by stop
	sent    chan struct{} // closed when nothing more is sent
}

// feedBuffer is how many reports may wait for a slow reader.
const feedBuffer = 64

func startFeed(out grpc.ServerStreamingServer[api.Progress]) *feed {
	f := &feed{
		reports: make(chan imageservice.Progress, feedBuffer),
		end:     make(chan struct{}),
		sent:    make(chan struct{}),
	}
	go func() {
		defer close(f.sent)
		for {
			select {
			case p := <-f.reports:
				// A stream that is broken ends the pull by its context.
				_ = out.Send(&api.Progress{Layer: p.Layer, Done: p.Done, Total: p.Total, Status: p.Status})
			case <-f.end:
				return
			}
		}
	}()
	return f
}

func (f *feed) put(p imageservice.Progress) {
	select {
	case f.reports <- p:
	default:
	}
}

// stop returns when the stream is the caller's again. Reports may still come,
// from a transfer that the pull shared with another, and go nowhere.
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
