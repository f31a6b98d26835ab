package keylock_test

import (
	"sync"
	"testing"

	"github.com/berth-runtime/berth/runtime/sys/keylock"
)

func TestOneHolderAKey(t *testing.T) {
	t.Parallel()
	var locks keylock.Locks
	counts := map[string]*int{"a": new(int), "b": new(int)} // guarded by the key's lock, which -race checks
	var wg sync.WaitGroup
	for range 50 {
		for key, n := range counts {
			wg.Go(func() {
				defer locks.Lock(key)()
				*n++
			})
		}
	}
	wg.Wait()
	if *counts["a"] != 50 || *counts["b"] != 50 {
		t.Errorf("counted %d and %d", *counts["a"], *counts["b"])
	}
}

func TestKeysDoNotHoldEachOtherUp(t *testing.T) {
	t.Parallel()
	var locks keylock.Locks
	defer locks.Lock("held")()
	done := make(chan struct{})
	go func() {
		defer close(done)
		locks.Lock("free")()
	}()
	<-done // would never come
}
