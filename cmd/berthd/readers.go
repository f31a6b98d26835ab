package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/pprof"
	"path/filepath"
	"sync"
	"time"
)

// debugSocket is in the state directory, like those of CRI.
const debugSocket = "debug.sock"

// The limits of a request for metrics or profiles. A profile takes as long as
// it is asked to, so answering has no limit there.
const (
	readerRequestTime = 5 * time.Second
	readerAnswerTime  = 30 * time.Second
	readerIdleTime    = 2 * time.Minute // above the minute at which Prometheus comes again
	readerHeader      = 16 << 10        // bytes
)

// serveReaders opens what the configuration says for those who only read: the
// metrics, and the debug socket. It goes on in the background and tells failed
// if a server ends before the returned function has ended it.
func serveReaders(ctx context.Context, cfg config, metrics http.Handler, failed chan<- error) (end func(), err error) {
	var servers []*http.Server
	var serving sync.WaitGroup
	end = func() {
		for _, s := range servers {
			_ = s.Close()
		}
		serving.Wait() // it is they who close the listeners
	}
	serve := func(ln net.Listener, handler http.Handler, answer time.Duration) {
		s := &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: readerRequestTime,
			ReadTimeout:       readerRequestTime,
			WriteTimeout:      answer,
			IdleTimeout:       readerIdleTime,
			MaxHeaderBytes:    readerHeader,
		}
		servers = append(servers, s)
		serving.Go(func() {
			if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		})
	}
	if at := cfg.Metrics.Address; at != "" {
		ln, err := listenReaders(ctx, at)
		if err != nil {
			return nil, err
		}
		serve(ln, metricsOnly(metrics), readerAnswerTime)
	}
	if cfg.Debug.Socket {
		ln, err := listen(ctx, filepath.Join(cfg.State, debugSocket), debugMode)
		if err != nil {
			end()
			return nil, err
		}
		serve(ln, debugging(metrics), 0)
	}
	return end, nil
}

// listenReaders listens on an address and port, or on a socket's path.
func listenReaders(ctx context.Context, at string) (net.Listener, error) {
	if filepath.IsAbs(at) {
		return listen(ctx, at, socketMode)
	}
	return (&net.ListenConfig{}).Listen(ctx, "tcp", at)
}

// metricsOnly answers GET /metrics.
func metricsOnly(metrics http.Handler) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	return mux
}

// debugging answers what may be told to root only: profiles show memory.
// (Package pprof registers itself with the default mux too, which nothing here
// ever serves.)
func debugging(metrics http.Handler) *http.ServeMux {
	mux := metricsOnly(metrics)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
