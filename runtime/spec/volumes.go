package spec

import (
	"path"
	"slices"
	"strings"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// maxImageVolumes bounds the VOLUMEs of an image: each is a directory on the
// host and a mount in every container.
const maxImageVolumes = 128

// VolumePaths are the VOLUMEs of the image that may become mounts, and more of
// their kind, clean, sorted and each once. Left out are those that would take the place of what
// the runtime mounts: a volume over /proc would divert the masked paths and
// the writing of security labels (CVE-2019-16884).
func VolumePaths(image *ImageConfig, more ...string) ([]string, error) {
	if len(image.Volumes) > maxImageVolumes {
		return nil, errkind.New(errkind.InvalidArgument,
			"image %s has %d volumes, at most %d are possible", image.Name, len(image.Volumes), maxImageVolumes)
	}
	var out []string
	for _, v := range slices.Concat(image.Volumes, more) {
		clean := path.Join("/", v)
		if !reserved(clean) && !hasNUL(clean) {
			out = append(out, clean)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func reserved(clean string) bool {
	switch clean {
	case "/", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf":
		return true
	}
	return slices.ContainsFunc([]string{"/proc", "/sys", "/dev"}, func(dir string) bool {
		return clean == dir || strings.HasPrefix(clean, dir+"/")
	})
}
