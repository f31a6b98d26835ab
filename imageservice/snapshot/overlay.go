package snapshot

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/thread"
)

// maxOptions is what mount(2) takes, a page, with some room for the kernel.
const maxOptions = 4000

// An option without a value is a flag.
type option struct{ key, value string }

// overlay mounts an overlay of any number of layers that overlayfs itself
// takes, 500: by mount(2) if the options fit, else in ways that have no page
// to fill or that shorten the paths.
func overlay(opts []option, lowers []string, target string) error {
	var err error
	if text := joined(opts, lowers); len(text) <= maxOptions {
		err = unix.Mount("overlay", target, "overlay", 0, text)
	} else if err = mountStepwise(opts, lowers, target); errors.Is(err, unix.EINVAL) {
		// Before Linux 6.5, or so the kernel says: shorten the paths.
		err = mountFromWithin(opts, lowers, target)
	}
	if err != nil {
		return fmt.Errorf("cannot mount overlay of %d layers at %s: %w", len(lowers), target, err)
	}
	return nil
}

// joined spells the options for mount(2).
func joined(opts []option, lowers []string) string {
	var b strings.Builder
	b.WriteString("lowerdir=" + strings.Join(lowers, ":"))
	for _, o := range opts {
		b.WriteString("," + o.key)
		switch {
		case strings.Contains(o.value, ","): // of a label; layer paths have none
			b.WriteString("=\"" + o.value + "\"")
		case o.value != "":
			b.WriteString("=" + o.value)
		}
	}
	return b.String()
}

// mountStepwise gives the options one by one (lowerdir+ is of Linux 6.5), so
// their number has no limit but overlayfs' own of 500 layers.
func mountStepwise(opts []option, lowers []string, target string) error {
	return mountConfigured(opts, target, func(conf int) error {
		for _, l := range lowers {
			if err := unix.FsconfigSetString(conf, "lowerdir+", l); err != nil {
				return fmt.Errorf("layer %s: %w%s", l, err, said(conf))
			}
		}
		return nil
	})
}

// mountConfigured mounts an overlay with the options and the layers that
// layers gives to its configuration.
func mountConfigured(opts []option, target string, layers func(conf int) error) error {
	conf, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(conf) }()
	if err := layers(conf); err != nil {
		return err
	}
	for _, o := range opts {
		if o.value == "" {
			err = unix.FsconfigSetFlag(conf, o.key)
		} else {
			err = unix.FsconfigSetString(conf, o.key, o.value)
		}
		if err != nil {
			return fmt.Errorf("option %s: %w%s", o.key, err, said(conf))
		}
	}
	if err := unix.FsconfigCreate(conf); err != nil {
		return fmt.Errorf("%w%s", err, said(conf))
	}
	m, err := unix.Fsmount(conf, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(m) }()
	return attach(m, target)
}

// attach gives a mount that is nowhere attached its place.
func attach(tree int, target string) error {
	return unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// said reads the kernel's own words about a refused configuration.
func said(conf int) string {
	buf := make([]byte, 1024)
	n, err := unix.Read(conf, buf)
	if err != nil || n <= 0 {
		return ""
	}
	return ": " + strings.TrimSpace(string(buf[:n]))
}

// mountFromWithin mounts from a working directory above all layers, so that
// the options name them by the rest of their paths. The working directory is
// that of one thread, which ends with it.
func mountFromWithin(opts []option, lowers []string, target string) error {
	above := commonDir(lowers)
	short := make([]string, len(lowers))
	for i, l := range lowers {
		short[i] = strings.TrimPrefix(l, above+"/")
	}
	text := joined(opts, short)
	if len(text) >= unix.Getpagesize() {
		return fmt.Errorf("its options have %d bytes, more than this kernel takes; Linux 6.5 has no such limit", len(text))
	}
	return thread.Throwaway(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Chdir(above); err != nil {
			return err
		}
		return unix.Mount("overlay", target, "overlay", 0, text)
	})
}

// commonDir is the deepest directory above all of paths.
func commonDir(paths []string) string {
	dir := filepath.Dir(paths[0])
	for _, p := range paths {
		for !strings.HasPrefix(p, dir+"/") && dir != "/" {
			dir = filepath.Dir(dir)
		}
	}
	return strings.TrimSuffix(dir, "/")
}
