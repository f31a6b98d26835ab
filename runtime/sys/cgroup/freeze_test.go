package cgroup

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

func TestFreeze(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	h := local()
	path := fresh(t, h)
	if err := Make(path); err != nil {
		t.Fatal(err)
	}
	put(t, h, path)
	t.Cleanup(func() { _ = Unfreeze(path) }) // or it could not be killed
	if err := Freeze(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if !Frozen(path) {
		t.Error("what was frozen is not")
	}
	for range 2 { // the second time there is nothing to do
		if err := Unfreeze(path); err != nil {
			t.Fatal(err)
		}
	}
	if Frozen(path) {
		t.Error("what was thawed is frozen")
	}
	if err := Freeze(t.Context(), path+"-absent"); err == nil {
		t.Error("a group that is absent was frozen")
	}
	if err := Unfreeze(path + "-absent"); err != nil {
		t.Errorf("a group that is absent cannot be thawed: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	if err := Freeze(ctx, path); !errors.Is(err, context.DeadlineExceeded) || Frozen(path) {
		t.Errorf("a freeze whose time is over: %v, frozen: %v", err, Frozen(path))
	}
}
