package cri

import (
	"context"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// around is what every call is wrapped in.
type around struct {
	observe Observe // may be nil
	trace   Trace   // may be nil
}

// unary wraps every call with one answer.
func (a around) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	ctx, done := a.begin(ctx, info.FullMethod, req)
	defer func() {
		err = done(err, recover())
		if err != nil {
			resp = nil
		}
	}()
	return handler(ctx, req)
}

// stream wraps every call with a stream.
func (a around) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	ctx, done := a.begin(stream.Context(), info.FullMethod, nil)
	defer func() { err = done(err, recover()) }()
	return handler(srv, &loggedStream{ServerStream: stream, ctx: ctx})
}

// loggedStream is a stream whose context has the call's logger.
type loggedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *loggedStream) Context() context.Context { return s.ctx }

// begin gives the call a logger of its own. The returned function ends the
// call: it logs, counts and traces it, once, and turns its error, or its panic,
// into a status.
func (a around) begin(ctx context.Context, method string, req any) (context.Context, func(err error, panicked any) error) {
	verb := path.Base(method)
	logger := klog.LoggerWithValues(klog.FromContext(ctx), "verb", verb)
	object := objectOf(req)
	if object != "" {
		logger = klog.LoggerWithValues(logger, "object", object)
	}
	traced := func(error) {}
	if a.trace != nil {
		ctx, traced = a.trace(ctx, method, object)
	}
	start := time.Now()
	return klog.NewContext(ctx, logger), func(err error, panicked any) (told error) {
		defer func() {
			traced(told)
			if a.observe != nil {
				a.observe(method, status.Code(told), time.Since(start))
			}
		}()
		if panicked != nil {
			logger.Error(nil, "Panic in a call", "panic", panicked, "stack", string(debug.Stack()))
			return status.Errorf(codes.Internal, "cannot finish %s: a defect of berth, see its log", verb)
		}
		err = toStatus(err)
		logEnd(logger, verb, time.Since(start), err)
		return err
	}
}

// logEnd writes the one line of a call that has ended.
func logEnd(logger klog.Logger, verb string, took time.Duration, err error) {
	level := 2
	if Reads(verb) {
		level = 5
	}
	switch code := status.Code(err); code {
	case codes.OK:
		logger.V(level).Info("Done", "took", took)
	case codes.NotFound, codes.Canceled, codes.Unimplemented:
		// What a healthy kubelet asks for all day: whether something is gone.
		logger.V(4).Info("Refused", "code", code, "reason", status.Convert(err).Message(), "took", took)
	default:
		logger.Error(nil, "Failed", "code", code, "reason", status.Convert(err).Message(), "took", took)
	}
}

// Reads tells the verbs that only look; the kubelet calls them every second.
func Reads(verb string) bool {
	for _, prefix := range []string{"List", "Stream", "Get"} {
		if strings.HasPrefix(verb, prefix) {
			return true
		}
	}
	for _, suffix := range []string{"Status", "Stats", "Info", "RuntimeConfig", "Version"} {
		if strings.HasSuffix(verb, suffix) {
			return verb != "UpdateRuntimeConfig"
		}
	}
	return false
}

// objectOf names the object that a request is about, for the log.
func objectOf(req any) string {
	switch r := req.(type) {
	case interface{ GetContainerId() string }:
		return r.GetContainerId()
	case *criv1.RunPodSandboxRequest:
		m := r.GetConfig().GetMetadata()
		return m.GetNamespace() + "/" + m.GetName()
	case *criv1.CreateContainerRequest:
		return r.GetPodSandboxId() + "/" + r.GetConfig().GetMetadata().GetName()
	case interface{ GetPodSandboxId() string }:
		return r.GetPodSandboxId()
	case interface{ GetImage() *criv1.ImageSpec }:
		return r.GetImage().GetImage()
	}
	return ""
}
