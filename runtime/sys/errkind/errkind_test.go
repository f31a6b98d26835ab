package errkind_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func TestKindSurvivesWrapping(t *testing.T) {
	t.Parallel()
	inner := errkind.New(errkind.NotFound, "pod %s does not exist: %w", "x", io.EOF)
	for _, c := range []struct {
		err  error
		want errkind.Kind
	}{
		{inner, errkind.NotFound},
		{fmt.Errorf("cannot stop: %w", inner), errkind.NotFound},
		{errors.Join(errors.New("first"), inner), errkind.NotFound},
		// Who wraps knows more: the outermost kind counts.
		{errkind.New(errkind.FailedPrecondition, "cannot start: %w", inner), errkind.FailedPrecondition},
		{fmt.Errorf("cannot pull: %w", context.DeadlineExceeded), errkind.DeadlineExceeded},
		{context.Canceled, errkind.Canceled},
		{io.EOF, errkind.Unknown},
		{nil, errkind.Unknown},
	} {
		if got := errkind.Of(c.err); got != c.want {
			t.Errorf("%v is of kind %d, want %d", c.err, got, c.want)
		}
	}
	if !errors.Is(inner, io.EOF) || errkind.Is(nil, errkind.Unknown) || !errkind.Is(inner, errkind.NotFound) {
		t.Error("the cause is lost, or nil has a kind")
	}
}
