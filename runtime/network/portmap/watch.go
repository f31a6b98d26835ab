package portmap

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/network/nft"
)

// pace is the least time between two looks, for one that changes the table
// again and again.
const pace = 100 * time.Millisecond

// Watch calls changed whenever another process has changed the table, `nft flush
// ruleset` for one, until ctx ends. It waits for the kernel's news and does
// nothing between them; its own process's changes are none. News that were lost
// count as a change.
func (t *Table) Watch(ctx context.Context, changed func()) error {
	news, err := nft.Listen()
	if err != nil {
		return fmt.Errorf("cannot watch nftables table %s: %w", t.cfg.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = news.Close() })
	defer stop()
	defer func() { _ = news.Close() }()

	wake := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range wake {
			changed()
			select {
			case <-time.After(pace):
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() { close(wake); <-done }()
	look := func() {
		select {
		case wake <- struct{}{}:
		default: // it will look anyway
		}
	}
	touched := false
	for {
		msgs, err := news.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			look()
		case err != nil:
			return fmt.Errorf("cannot watch nftables table %s: %w", t.cfg.Name, err)
		}
		for _, m := range msgs {
			ends, ours := nft.Ends(m)
			if !ends {
				touched = touched || nft.About(m) == t.cfg.Name
				continue
			}
			if touched && !ours {
				look()
			}
			touched = false
		}
	}
}
