package api

import (
	"context"

	"google.golang.org/grpc"
)

// Server is what the daemon implements. Contexts end when the caller goes.
type Server interface {
	// Info describes the daemon.
	Info(context.Context, *Empty) (*Info, error)
	// Pull fetches an image and reports how it goes; the last message has the id.
	Pull(*PullRequest, grpc.ServerStreamingServer[Progress]) error
	// Load takes the images out of an archive (docker save or OCI layout).
	Load(grpc.ClientStreamingServer[Chunk, LoadResult]) error
	// Save sends an archive of images, from which Load makes the same images.
	Save(*SaveRequest, grpc.ServerStreamingServer[Chunk]) error
	// Push sends an image to a registry and reports how it goes; the last
	// message has the digest of the manifest.
	Push(*PushRequest, grpc.ServerStreamingServer[Progress]) error
	// Build makes an image of a Dockerfile; see the frames of a build. A client
	// that goes ends it.
	Build(grpc.BidiStreamingServer[Frame, Frame]) error
	// Tag gives an image one more name, taking that name from another image.
	Tag(context.Context, *TagRequest) (*Empty, error)
	// Untag takes one name from an image, which stays; NotFound where there is
	// no such name.
	Untag(context.Context, *ImageRequest) (*Empty, error)
	// Prune removes images that no container uses.
	Prune(context.Context, *PruneRequest) (*PruneResult, error)
	// CheckLogin asks a registry whether it takes credentials.
	CheckLogin(context.Context, *LoginRequest) (*Empty, error)
	// ExplainRegistry tells where a pull of a reference would look, in order.
	ExplainRegistry(context.Context, *ExplainRequest) (*RegistryExplanation, error)
	// Images tells of all images what InspectImage does, but for configuration
	// and history.
	Images(context.Context, *Empty) (*ImageList, error)
	// InspectImage tells all of an image; NotFound where there is none.
	InspectImage(context.Context, *ImageRequest) (*Image, error)
	// Logs sends the lines of a container's log.
	Logs(*LogsRequest, grpc.ServerStreamingServer[LogLines]) error
	// Wait returns when the container has ended, at once if it has already.
	// FailedPrecondition if it is removed meanwhile.
	Wait(context.Context, *ContainerRequest) (*WaitResult, error)
	// Signal sends a signal to a running container's first process.
	Signal(context.Context, *SignalRequest) (*Empty, error)
	// Exec starts a process in a container and carries its stdio. Its client
	// sends FrameOpen first and has FrameOpened once the process runs; the last
	// frame is FrameExit. A client that goes leaves the process to the end of
	// its stdin, a broken pipe or a hung up terminal; one that sends FrameDetach
	// leaves it as it is.
	Exec(grpc.BidiStreamingServer[Frame, Frame]) error
	// Attach does the same with the first process of a container, which may be
	// about to be started: nothing that it prints after FrameOpened is missed.
	Attach(grpc.BidiStreamingServer[Frame, Frame]) error
	// Again makes a new attempt of a local container, as a start or a restart.
	Again(context.Context, *AgainRequest) (*AgainResult, error)
	// Local tells of restarts and health of local containers.
	Local(context.Context, *Empty) (*LocalResult, error)
	// Rename gives a local container another name; its metadata stays.
	Rename(context.Context, *RenameRequest) (*Empty, error)
	// CreateVolume makes a named volume, or gives the one that is there.
	CreateVolume(context.Context, *CreateVolumeRequest) (*Volume, error)
	// Volumes tells of all named volumes.
	Volumes(context.Context, *VolumesRequest) (*VolumeList, error)
	// RemoveVolume removes a named volume with what it holds; FailedPrecondition
	// if a container mounts it.
	RemoveVolume(context.Context, *VolumeRequest) (*Empty, error)
	// StatPath describes what a container has at a path; NotFound for nothing.
	StatPath(context.Context, *PathRequest) (*PathInfo, error)
	// CopyOut sends what a container has at a path as a tar.
	CopyOut(*PathRequest, grpc.ServerStreamingServer[Chunk]) error
	// CopyIn takes a tar into a directory of a container: FrameOpen with a
	// CopyInRequest, FrameStdin and FrameStdinEnd come up, FrameOpened goes down
	// and in the end FrameExit.
	CopyIn(grpc.BidiStreamingServer[Frame, Frame]) error
	// Changes tells what a container has changed in its root file system.
	Changes(context.Context, *ContainerRequest) (*ChangesResult, error)
	// Commit makes an image of a container.
	Commit(context.Context, *CommitRequest) (*CommitResult, error)
	// Pause lets all processes of a container stand still, Unpause go on.
	Pause(context.Context, *ContainerRequest) (*Empty, error)
	Unpause(context.Context, *ContainerRequest) (*Empty, error)
	// Check compares records and machine. It changes nothing but what it is
	// asked to repair; what it cannot repair stays a problem and is no failure.
	Check(context.Context, *CheckRequest) (*CheckResult, error)
	// Events sends what happened on the node, of what is kept, and then what
	// happens. A reader that is too slow is told that it missed some.
	Events(*EventsRequest, grpc.ServerStreamingServer[Event]) error
	// Top lists the processes of a container; FailedPrecondition if it has none.
	Top(context.Context, *ContainerRequest) (*TopResult, error)
	// Stats samples containers; FailedPrecondition if one that is asked for by
	// name does not run.
	Stats(context.Context, *StatsRequest) (*StatsResult, error)
	// Work tells what is under way, and what could not be ended.
	Work(context.Context, *Empty) (*WorkResult, error)
	// Df tells what takes up space.
	Df(context.Context, *Empty) (*DfResult, error)
	// Apply makes the pods of a manifest of Kubernetes: InvalidArgument names each
	// field that is not honoured with its line, before anything is done.
	Apply(context.Context, *ManifestRequest) (*ManifestResult, error)
	// Delete ends and removes the pods that a manifest names.
	Delete(context.Context, *ManifestRequest) (*ManifestResult, error)
	// Manifest gives a manifest of a pod, whoever made it.
	Manifest(context.Context, *PodRequest) (*PodManifest, error)
	// Doctor looks at the node: what it lacks, and what would mend it.
	Doctor(context.Context, *DoctorRequest) (*DoctorResult, error)
	// Config tells the configuration that the daemon runs with.
	Config(context.Context, *Empty) (*ConfigResult, error)
	// Networks lists the networks that pods can be on, with the pods.
	Networks(context.Context, *Empty) (*NetworkList, error)
	// CreateNetwork makes a network; AlreadyExists if there is one of that name.
	CreateNetwork(context.Context, *CreateNetworkRequest) (*Network, error)
	// RemoveNetwork ends a network without pods; else FailedPrecondition.
	RemoveNetwork(context.Context, *NetworkRequest) (*Empty, error)
	// ExamineNetwork looks at what of the host is in the pods' way.
	ExamineNetwork(context.Context, *Empty) (*DoctorResult, error)
	// Dump sends what the daemon knows of itself, as text: configuration, what
	// is under way, the last operations with their steps, pods, containers,
	// events, goroutines; without secrets.
	Dump(*Empty, grpc.ServerStreamingServer[Chunk]) error
	// Steps lists the failpoints of this build.
	Steps(context.Context, *Empty) (*StepsResult, error)
}

// Register makes s answer for the service on g. Call it before g serves.
func Register(g grpc.ServiceRegistrar, s Server) {
	registerCodec()
	g.RegisterService(&serviceDesc, s)
}

var serviceDesc = grpc.ServiceDesc{
	ServiceName: ServiceName,
	HandlerType: (*Server)(nil),
	Methods: []grpc.MethodDesc{
		unary("Info", Server.Info),
		unary("Tag", Server.Tag),
		unary("Untag", Server.Untag),
		unary("Prune", Server.Prune),
		unary("ExplainRegistry", Server.ExplainRegistry),
		unary("CheckLogin", Server.CheckLogin),
		unary("Images", Server.Images),
		unary("InspectImage", Server.InspectImage),
		unary("Wait", Server.Wait),
		unary("Signal", Server.Signal),
		unary("Again", Server.Again),
		unary("Local", Server.Local),
		unary("Rename", Server.Rename),
		unary("StatPath", Server.StatPath),
		unary("Changes", Server.Changes),
		unary("Commit", Server.Commit),
		unary("Pause", Server.Pause),
		unary("Unpause", Server.Unpause),
		unary("CreateVolume", Server.CreateVolume),
		unary("Volumes", Server.Volumes),
		unary("RemoveVolume", Server.RemoveVolume),
		unary("Check", Server.Check),
		unary("Top", Server.Top),
		unary("Stats", Server.Stats),
		unary("Work", Server.Work),
		unary("Df", Server.Df),
		unary("Apply", Server.Apply),
		unary("Delete", Server.Delete),
		unary("Manifest", Server.Manifest),
		unary("Doctor", Server.Doctor),
		unary("Config", Server.Config),
		unary("Networks", Server.Networks),
		unary("CreateNetwork", Server.CreateNetwork),
		unary("RemoveNetwork", Server.RemoveNetwork),
		unary("ExamineNetwork", Server.ExamineNetwork),
		unary("Steps", Server.Steps),
	},
	Streams: []grpc.StreamDesc{
		down("Pull", Server.Pull),
		down("Push", Server.Push),
		down("Save", Server.Save),
		down("CopyOut", Server.CopyOut),
		down("Logs", Server.Logs),
		down("Events", Server.Events),
		down("Dump", Server.Dump),
		up("Load", Server.Load),
		both("Build", Server.Build),
		both("Exec", Server.Exec),
		both("CopyIn", Server.CopyIn),
		both("Attach", Server.Attach),
	},
	Metadata: "berth/admin/v1",
}

// unary describes a method with one message each way.
func unary[Req, Resp any](name string, method func(Server, context.Context, *Req) (*Resp, error)) grpc.MethodDesc {
	return grpc.MethodDesc{
		MethodName: name,
		Handler: func(srv any, ctx context.Context, dec func(any) error, around grpc.UnaryServerInterceptor) (any, error) {
			in := new(Req)
			if err := dec(in); err != nil {
				return nil, err
			}
			call := func(ctx context.Context, req any) (any, error) {
				return method(srv.(Server), ctx, req.(*Req))
			}
			if around == nil {
				return call(ctx, in)
			}
			return around(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: fullMethod(name)}, call)
		},
	}
}

// down describes a method whose answer is a stream.
func down[Req, Resp any](name string, method func(Server, *Req, grpc.ServerStreamingServer[Resp]) error) grpc.StreamDesc {
	return grpc.StreamDesc{
		StreamName:    name,
		ServerStreams: true,
		Handler: func(srv any, stream grpc.ServerStream) error {
			in := new(Req)
			if err := stream.RecvMsg(in); err != nil {
				return err
			}
			return method(srv.(Server), in, &grpc.GenericServerStream[Req, Resp]{ServerStream: stream})
		},
	}
}

// up describes a method whose request is a stream.
func up[Req, Resp any](name string, method func(Server, grpc.ClientStreamingServer[Req, Resp]) error) grpc.StreamDesc {
	return grpc.StreamDesc{
		StreamName:    name,
		ClientStreams: true,
		Handler: func(srv any, stream grpc.ServerStream) error {
			return method(srv.(Server), &grpc.GenericServerStream[Req, Resp]{ServerStream: stream})
		},
	}
}

// both describes a method with a stream each way.
func both[Req, Resp any](name string, method func(Server, grpc.BidiStreamingServer[Req, Resp]) error) grpc.StreamDesc {
	return grpc.StreamDesc{
		StreamName:    name,
		ClientStreams: true,
		ServerStreams: true,
		Handler: func(srv any, stream grpc.ServerStream) error {
			return method(srv.(Server), &grpc.GenericServerStream[Req, Resp]{ServerStream: stream})
		},
	}
}

func fullMethod(name string) string { return "/" + ServiceName + "/" + name }
