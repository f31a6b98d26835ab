package admin

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"time"

	"google.golang.org/grpc"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/runtime/crilog"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Logs sends the lines of a container's log.
func (s *Server) Logs(r *api.LogsRequest, out grpc.ServerStreamingServer[api.LogLines]) error {
	c, err := s.cfg.Pods.Container(pod.ViewAll, r.Container)
	if err != nil {
		return err
	}
	if c.LogPath == "" {
		return errkind.New(errkind.FailedPrecondition, "container %s has no log: it was created without a log path", c.ID)
	}
	lines := batch{send: out.Send}
	o := crilog.Options{Follow: r.Follow, Tail: -1, Since: r.Since, Until: r.Until, Idle: lines.flush}
	if r.Tail != nil {
		o.Tail = *r.Tail
	}
	err = crilog.Follow(out.Context(), c.LogPath, o, lines.add, func() bool { return s.ended(c.ID) })
	if errors.Is(err, fs.ErrNotExist) {
		return errkind.New(errkind.NotFound, "the log of container %s does not exist: %s", c.ID, c.LogPath)
	}
	return err
}

// batch sends lines together, as many as there are at once.
type batch struct {
	send  func(*api.LogLines) error
	lines []api.LogLine
	bytes int
}

// batchBytes is how much text a message has before it is sent.
const batchBytes = 64 << 10

func (b *batch) add(l crilog.Line) error {
	b.lines = append(b.lines, api.LogLine{Stream: string(l.Stream), Time: l.Time, Text: bytes.Clone(l.Content), Partial: l.Partial})
	const besides = 100 // what JSON adds to a line
	if b.bytes += len(l.Content) + besides; b.bytes < batchBytes {
		return nil
	}
	return b.flush()
}

func (b *batch) flush() error {
	if len(b.lines) == 0 {
		return nil
	}
	err := b.send(&api.LogLines{Lines: b.lines})
	b.lines, b.bytes = nil, 0
	return err
}

// ended tells whether nothing more will be written to the container's log. An
// exit is published after the last byte of the log, so it is. The list is
// asked, not the status, because it never makes the domain look at the kernel
// and this is called ten times a second.
func (s *Server) ended(id string) bool {
	list := s.cfg.Pods.Containers(pod.ViewAll, pod.ContainerFilter{ID: id})
	return len(list) == 0 || list[0].State == pod.StateExited
}

// Wait returns when the container has ended.
func (s *Server) Wait(ctx context.Context, r *api.ContainerRequest) (*api.WaitResult, error) {
	c, err := Ended(ctx, s.cfg.Pods, r.Container)
	if err != nil {
		return nil, err
	}
	return &api.WaitResult{ExitCode: c.ExitCode, OOM: c.Reason == reasonOOM, Error: c.Message}, nil
}

// Ended waits until a container has ended and gives how. FailedPrecondition if
// it is removed meanwhile.
func Ended(ctx context.Context, pods interface {
	Container(v pod.View, id string) (*pod.ContainerStatus, error)
	Subscribe(ctx context.Context) <-chan pod.Event
}, container string) (*pod.ContainerStatus, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the subscription
	// Subscribed before looking, so that no exit falls between.
	events := pods.Subscribe(ctx)
	c, err := pods.Container(pod.ViewAll, container)
	if err != nil {
		return nil, err
	}
	id := c.ID
	for c.State != pod.StateExited {
		e, ok := <-events
		if !ok && ctx.Err() == nil {
			events = pods.Subscribe(ctx) // too many to keep; look once more
		} else if !ok {
			return nil, ctx.Err()
		}
		if ok && e.Pod != nil && e.Pod.ID != c.PodID {
			continue
		}
		// A container that was removed at once is known by the event alone.
		if seen := statusIn(e, id); seen != nil && seen.State == pod.StateExited {
			c = seen
			continue
		}
		c, err = pods.Container(pod.ViewAll, id)
		if errkind.Is(err, errkind.NotFound) {
			return nil, errkind.New(errkind.FailedPrecondition, "container %s was removed before it was seen to end", id)
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Top lists the processes of a container.
func (s *Server) Top(_ context.Context, r *api.ContainerRequest) (*api.TopResult, error) {
	list, err := s.cfg.Pods.Processes(pod.ViewAll, r.Container)
	if err != nil {
		return nil, err
	}
	out := &api.TopResult{Processes: []api.Process{}}
	for _, p := range list {
		out.Processes = append(out.Processes, api.Process(p))
	}
	return out, nil
}

// Stats samples containers.
func (s *Server) Stats(ctx context.Context, r *api.StatsRequest) (*api.StatsResult, error) {
	list, err := s.cfg.Pods.Usages(ctx, pod.ViewAll, r.Containers)
	if err != nil {
		return nil, err
	}
	out := &api.StatsResult{Samples: []api.StatsSample{}}
	for _, u := range list {
		out.Samples = append(out.Samples, sample(u))
	}
	return out, nil
}

func sample(u pod.Usage) api.StatsSample {
	s := api.StatsSample{
		Container: u.Container.ID, At: u.At, CPU: time.Duration(u.CPU.UsageNanos), CPURate: u.CPU.NanoCores,
		Memory: u.Memory.WorkingSet, MemoryLimit: u.MemoryLimit, Pids: u.Processes, Writable: u.Layer.Bytes,
	}
	for _, i := range u.Interfaces {
		s.Received, s.Sent = plus(s.Received, i.RxBytes), plus(s.Sent, i.TxBytes)
	}
	for _, d := range u.Devices {
		s.BlockRead += d.ReadBytes
		s.BlockWrite += d.WriteBytes
	}
	return s
}

func plus(sum *uint64, n uint64) *uint64 {
	if sum != nil {
		n += *sum
	}
	return &n
}

// statusIn finds the container among those that an event tells of.
func statusIn(e pod.Event, id string) *pod.ContainerStatus {
	for _, c := range e.Containers {
		if c.ID == id {
			return c
		}
	}
	return nil
}

// reasonOOM is CRI's word for a container that the kernel killed for memory.
const reasonOOM = "OOMKilled"
