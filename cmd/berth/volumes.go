package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mountFlags are what --volume, --mount and --tmpfs ask for.
type mountFlags struct {
	mounts      []*criv1.Mount
	volumes     map[*criv1.Mount]string // names of volumes, whose host path the daemon tells
	images      map[*criv1.Mount]string // references of images that are mounted
	tmpfs       []tmpfsMount
	fresh       []string // paths that get a directory of the container's own
	noCopy      []string
	sharedLabel []string // mounts whose files are for all containers, with SELinux
	taken       map[string]bool
}

// tmpfsMount is the daemon's form of a file system in memory.
type tmpfsMount struct {
	Path    string   `json:"path"`
	Options []string `json:"options,omitempty"`
}

// A name becomes that of a directory.
var goodVolume = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// parseMounts reads all three. A relative host path is made absolute here, as
// the daemon does not share our working directory.
func parseMounts(volumes, mounts, tmpfs []string) (*mountFlags, error) {
	all := &mountFlags{volumes: map[*criv1.Mount]string{}, images: map[*criv1.Mount]string{}, taken: map[string]bool{}}
	for _, s := range volumes {
		if err := all.volume(s); err != nil {
			return nil, err
		}
	}
	for _, s := range mounts {
		if err := all.mount(s); err != nil {
			return nil, err
		}
	}
	for _, s := range tmpfs {
		at, options, _ := strings.Cut(s, ":")
		m := tmpfsMount{}
		if options != "" {
			m.Options = strings.Split(options, ",")
		}
		if err := all.addTmpfs(s, at, m); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// place checks the path in the container at which something is mounted.
func (all *mountFlags) place(s, inside string) (string, error) {
	clean := path.Clean(inside)
	switch {
	case !path.IsAbs(inside) || clean == "/":
		return "", volumeProblem(s, fmt.Sprintf("%q is not an absolute path below / in the container", inside))
	case all.taken[clean]:
		return "", volumeProblem(s, fmt.Sprintf("something else is mounted at %s already", clean))
	}
	all.taken[clean] = true
	return clean, nil
}

func (all *mountFlags) addTmpfs(s, at string, m tmpfsMount) (err error) {
	if m.Path, err = all.place(s, at); err == nil {
		all.tmpfs = append(all.tmpfs, m)
	}
	return err
}

// volume reads [HOST|NAME:]CONTAINER[:OPTION[,OPTION]...].
func (all *mountFlags) volume(s string) error {
	parts := strings.Split(s, ":")
	if len(parts) == 1 {
		inside, err := all.place(s, s)
		all.fresh = append(all.fresh, inside)
		return err
	}
	if len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return volumeProblem(s, "it does not name one path of the host, or a volume, and one path in the container")
	}
	inside, err := all.place(s, parts[1])
	if err != nil {
		return err
	}
	m := &criv1.Mount{ContainerPath: inside}
	if len(parts) == 3 {
		for option := range strings.SplitSeq(parts[2], ",") {
			switch option {
			case "nocopy":
				all.noCopy = append(all.noCopy, inside)
				continue
			case "z":
				all.sharedLabel = append(all.sharedLabel, inside)
			}
			if err := volumeOption(m, option); err != nil {
				return volumeProblem(s, err.Error())
			}
		}
	}
	return all.add(s, m, parts[0])
}

// add adds a mount of a host path, or of a volume where source has no slash.
func (all *mountFlags) add(s string, m *criv1.Mount, source string) error {
	all.mounts = append(all.mounts, m)
	if strings.ContainsRune(source, '/') || source == "." || source == ".." {
		host, err := filepath.Abs(source)
		m.HostPath = host
		return err
	}
	if !goodVolume.MatchString(source) {
		return volumeProblem(s, fmt.Sprintf("%q is no name of a volume, which has letters, digits, _, . and -", source))
	}
	all.volumes[m] = source
	m.HostPath = "/" // until the daemon has told
	return nil
}

func volumeOption(m *criv1.Mount, option string) error {
	switch option {
	case "ro", "readonly":
		m.Readonly = true
	case "rw":
		m.Readonly = false
	case "rprivate", "private":
		m.Propagation = criv1.MountPropagation_PROPAGATION_PRIVATE
	case "rslave", "slave":
		m.Propagation = criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case "rshared", "shared":
		m.Propagation = criv1.MountPropagation_PROPAGATION_BIDIRECTIONAL
	case "z", "Z":
		m.SelinuxRelabel = true
	case "noexec", "nodev", "nosuid":
		m.MountOptions = append(m.MountOptions, option)
	case "consistent", "cached", "delegated": // of docker on other systems
	default:
		return fmt.Errorf("there is no option %q", option)
	}
	return nil
}

// mount reads a --mount: KEY=VALUE with commas between, as a line of CSV.
func (all *mountFlags) mount(s string) error {
	bad := func(why string) error {
		return &problem{what: fmt.Sprintf("cannot mount %q", s), why: why, do: "write for example --mount type=volume,source=data,target=/data or type=bind,source=/srv,target=/srv,readonly"}
	}
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return bad("it is not a list of KEY=VALUE with commas between")
	}
	kind, source, target, subpath, m, t := "volume", "", "", "", &criv1.Mount{}, tmpfsMount{}
	var noCopy bool
	for _, field := range fields {
		key, value, given := strings.Cut(field, "=")
		on := !given
		if given {
			on, _ = strconv.ParseBool(value)
		}
		switch strings.ToLower(key) {
		case "type":
			kind = value
		case "source", "src":
			source = value
		case "target", "destination", "dst":
			target = value
		case "readonly", "ro":
			m.Readonly = on
		case "bind-propagation":
			if err := volumeOption(m, value); err != nil || strings.HasPrefix(value, "no") {
				return bad(fmt.Sprintf("there is no propagation %q", value))
			}
		case "bind-recursive":
			if !slices.Contains([]string{"enabled", "readonly"}, value) {
				return bad("what is mounted below comes along: bind-recursive is enabled, or readonly for that too")
			}
			m.RecursiveReadOnly = value == "readonly"
		case "volume-nocopy":
			noCopy = on
		case "image-subpath", "image-path":
			subpath = value
		case "tmpfs-size":
			t.Options = append(t.Options, "size="+value)
		case "tmpfs-mode":
			t.Options = append(t.Options, "mode="+value)
		case "consistency":
		default:
			return bad(fmt.Sprintf("there is no key %q", key))
		}
	}
	if kind == "tmpfs" {
		if m.Readonly {
			t.Options = append(t.Options, "ro")
		}
		return all.addTmpfs(s, target, t)
	}
	if m.ContainerPath, err = all.place(s, target); err != nil {
		return bad(why("", err))
	}
	if noCopy {
		all.noCopy = append(all.noCopy, m.ContainerPath)
	}
	switch {
	case kind == "volume" && source == "":
		all.fresh = append(all.fresh, m.ContainerPath)
		return nil
	case kind == "volume" && !goodVolume.MatchString(source):
		return bad(fmt.Sprintf("%q is no name of a volume", source))
	case kind == "bind":
		if !path.IsAbs(source) {
			return bad("the source of a bind mount is an absolute path")
		}
		if _, err := os.Stat(source); err != nil {
			return bad(why("", err) + "; only -v makes what is absent")
		}
		if m.RecursiveReadOnly && !m.Readonly {
			return bad("bind-recursive=readonly needs readonly")
		}
	case kind == "image":
		if source == "" {
			return bad("it names no image (source)")
		}
		m.Readonly, m.ImageSubPath = true, subpath
		all.images[m], all.mounts = source, append(all.mounts, m)
		m.HostPath = "/" // until the image is here
		return nil
	case kind != "volume":
		return bad(fmt.Sprintf("there is no type %q", kind))
	}
	return all.add(s, m, source)
}

// notes are the annotations by which the daemon is told of what CRI has no
// field for.
func (all *mountFlags) notes(into map[string]string) error {
	for key, list := range map[string]any{tmpfsNote: all.tmpfs, volumesNote: all.fresh, noCopyNote: all.noCopy, sharedLabelNote: all.sharedLabel} {
		text, err := json.Marshal(list)
		if err != nil {
			return err
		}
		if string(text) != "null" {
			into[key] = string(text)
		}
	}
	return nil
}

func volumeProblem(s, why string) error {
	return &problem{
		what: fmt.Sprintf("cannot mount %q", s),
		why:  why,
		do:   "write HOST:CONTAINER[:ro|rw][,rshared|rslave|rprivate], for example -v /srv/www:/www:ro, or -v NAME:/path for a named volume",
	}
}
