package imageservice

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/imageservice/tarsplit"
	"github.com/berth-runtime/berth/imageservice/unpack"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// splitName is the file beside a layer's directory fs that, with the files in
// there, gives the layer's tar again.
const splitName = "tar-split.json.gz"

func (s *Service) splitFile(seq uint64) string { return filepath.Join(s.layerDir(seq), splitName) }

// record starts to record the tar that is unpacked below dir; nil if the
// store keeps no such records. What an artifact has can be given again without.
func (s *Service) record(dir string, src source) (*tarsplit.Recorder, error) {
	if s.cfg.NoTarSplit || src.part != nil {
		return nil, nil
	}
	return tarsplit.Record(filepath.Join(dir, splitName))
}

// keep ends a recording. A layer that cannot be recorded is as good as any
// other for containers.
func keep(ctx context.Context, rec *tarsplit.Recorder, src source) {
	if err := rec.Finish(); err != nil {
		klog.FromContext(ctx).Error(err, "Layer can be used, but not saved or pushed", "diffID", src.diffID)
	}
}

// recordAgain records the tar of a layer that overwrote its own files, now that
// it shows which. The stream, which was read to its end, ends first, as it has
// what was received.
func (s *Service) recordAgain(ctx context.Context, stream io.Closer, dir string, src source) {
	file := filepath.Join(dir, splitName)
	err := stream.Close()
	if err == nil {
		err = s.rerecord(ctx, file, filepath.Join(dir, "fs"), src)
	}
	if err != nil {
		klog.FromContext(ctx).Error(errors.Join(err, os.Remove(file)), "Layer can be used, but not saved or pushed", "diffID", src.diffID)
	}
}

func (s *Service) rerecord(ctx context.Context, file, root string, src source) error {
	blob, err := s.download(ctx, src)
	if err != nil {
		return err
	}
	defer func() { _ = blob.Close() }()
	plain, err := src.tar(&meter{ctx: ctx, r: blob, hash: sha256.New()}, s.windows.decoders)
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }()
	tar := &meter{ctx: ctx, r: plain, hash: sha256.New(), limit: src.tarLimit(s.ratioPad)}
	if err := tarsplit.Again(file, tar, root); err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, tar.hash); got != src.diffID {
		return errkind.New(errkind.DataLoss, "cannot record layer %s again: its tar has digest %s", src.diffID, got)
	}
	return nil
}

// writeTar writes the tar of one layer to w and verifies that it is the one
// that was unpacked. stack is the layer and all below it, topmost first.
func (s *Service) writeTar(ctx context.Context, w io.Writer, stack []uint64, diffID digest.Digest) error {
	var dirs []string
	for _, seq := range stack {
		dirs = append(dirs, s.layerFS(seq))
	}
	at, err := unpack.NewLocator(dirs)
	if err != nil {
		return kinded(err, "cannot write layer %s", diffID)
	}
	defer at.Close()
	sum := sha256.New()
	err = tarsplit.Write(ctx, io.MultiWriter(w, sum), s.splitFile(stack[0]), dirs[0], at.Locate)
	if errors.Is(err, fs.ErrNotExist) && !errkind.Is(err, errkind.DataLoss) {
		return errkind.New(errkind.FailedPrecondition, "cannot write layer %s: its tar was not recorded when it was unpacked (image.tar_split); remove the image and pull it again", diffID)
	}
	if err != nil {
		return kinded(err, "cannot write layer %s", diffID)
	}
	if got := digest.NewDigest(digest.SHA256, sum); got != diffID {
		return errkind.New(errkind.DataLoss, "cannot write layer %s: its files give a tar of digest %s", diffID, got)
	}
	return nil
}
