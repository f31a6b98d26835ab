package registry

import (
	"context"
	"net"
	"net/http"
	"time"
)

// DialHomeAt makes the endpoints of r be found at address, whatever their
// names; where they lead is found as ever.
func DialHomeAt(r *Repository, address string) {
	for _, e := range r.endpoints {
		e.client.Transport.(*splitTransport).home = &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", address)
			},
		}
	}
}

// RetryAfter is retryAfter by today's clock.
func RetryAfter(value string) time.Duration { return retryAfter(value, time.Now()) }

const MaxBackoff = maxBackoff
