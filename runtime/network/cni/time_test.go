package cni

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// The configuration's time is told only where it was what ended the plugins: the
// undoing of a pod gives them less.
func TestTimeIsToldWhereItWasThePlugins(t *testing.T) {
	t.Parallel()
	for own, told := range map[time.Duration]bool{time.Hour: false, time.Nanosecond: true} {
		n := &Network{cfg: Config{Timeout: own}, ctx: t.Context()}
		asked, cancel := context.WithTimeout(t.Context(), time.Minute)
		if !told {
			cancel()
			asked, cancel = context.WithTimeout(t.Context(), time.Nanosecond)
		}
		defer cancel()
		ctx, end := n.limited(asked)
		defer end()
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			t.Errorf("%v: it ended by %v", own, context.Cause(ctx))
		}
		if err := n.inTime(ctx, errors.New("killed")); strings.Contains(err.Error(), "network.cni.timeout") != told {
			t.Errorf("plugins that had %v: %v", own, err)
		}
	}
}
