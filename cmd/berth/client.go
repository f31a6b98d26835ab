package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// maxMessage is what the kubelet allows for an answer too.
const maxMessage = 16 << 20

// client speaks CRI and the admin service over one connection.
type client struct {
	conn    *grpc.ClientConn
	runtime criv1.RuntimeServiceClient
	image   criv1.ImageServiceClient
	admin   *api.Client
	met     *atomic.Int64 // how often a daemon has been reached
}

// connect knocks at the socket first: what gRPC would say about a daemon that
// is not there helps nobody.
func connect(ctx context.Context, socket string) (*client, error) {
	if err := knock(ctx, socket); err != nil {
		return nil, err
	}
	met := &atomic.Int64{}
	conn, err := grpcAt(socket, "berth",
		func(ctx context.Context, socket string) (net.Conn, error) {
			conn, err := dial(ctx, socket)
			if err == nil {
				met.Add(1)
			}
			return conn, err
		},
		// gRPC's own pace is for networks; this daemon is back within a second.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, cannot(err, "reach the daemon at %s", socket)
	}
	return &client{
		conn:    conn,
		runtime: criv1.NewRuntimeServiceClient(conn),
		image:   criv1.NewImageServiceClient(conn),
		admin:   api.NewClient(conn),
		met:     met,
	}, nil
}

// dial opens a connection to a socket of this machine.
func dial(ctx context.Context, socket string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", socket)
}

// grpcAt speaks gRPC over such connections, which dial makes as they are needed.
func grpcAt(socket, authority string, dial func(context.Context, string) (net.Conn, error), more ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+socket, append(more,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(authority),
		grpc.WithContextDialer(dial), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))...)
}

func (cl *client) close() { _ = cl.conn.Close() }

func knock(ctx context.Context, socket string) error {
	conn, err := dial(ctx, socket)
	if err == nil {
		return conn.Close()
	}
	const start = "start it with: systemctl start berthd (or sudo berthd); another socket: --socket or $" + socketEnv
	p := &problem{what: "cannot reach the daemon", why: fmt.Sprintf("%s: %v", socket, err), do: start, cause: err}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.why = fmt.Sprintf("berthd is not running: there is no socket %s", socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		p.why = fmt.Sprintf("berthd is not running: nobody listens at %s", socket)
	case errors.Is(err, fs.ErrPermission):
		p.why = fmt.Sprintf("you may not open %s", socket)
		p.do = "run it as root (sudo berth ...), or join the socket's group"
	}
	return p
}
