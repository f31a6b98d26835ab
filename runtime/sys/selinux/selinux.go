// Package selinux works out labels of SELinux and gives them to files.
//
// Model. A label is user:role:type:level. The host's policy says which one
// containers get and which one their files; what a client asks for replaces
// parts of both. The level of a pod, s0 with a pair of categories that no other
// pod has, keeps pods of one type apart.
//
// Law. Nothing is remembered here: which levels are taken the records of the
// pods tell. (github.com/opencontainers/selinux keeps them in the process, where
// a restart loses them, and relabels trees by path, where whoever owns one can
// swap a directory for a link.) Trees are relabelled through directory handles.
package selinux

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// kernel is where its SELinux is mounted, while it is on.
const kernel = "/sys/fs/selinux"

// Enabled tells whether the host has SELinux, enforcing or not.
func Enabled() bool {
	_, err := os.Stat(filepath.Join(kernel, "enforce"))
	return err == nil
}

// Label is one of a process or a file. Its zero value, and any empty part of
// it, is none.
type Label struct{ User, Role, Type, Level string }

// Parse reads user:role:type:level.
func Parse(s string) (Label, error) {
	parts := strings.SplitN(s, ":", 4)
	if len(parts) != 4 || parts[0] == "" || parts[1] == "" || parts[2] == "" || parts[3] == "" {
		return Label{}, fmt.Errorf("%q is no label such as system_u:system_r:container_t:s0", s)
	}
	return Label{parts[0], parts[1], parts[2], parts[3]}, nil
}

// String is how the kernel writes the label; empty for the zero value.
func (l Label) String() string {
	if l == (Label{}) {
		return ""
	}
	return l.User + ":" + l.Role + ":" + l.Type + ":" + l.Level
}

// level is what a client may ask for: sensitivities and categories.
var level = regexp.MustCompile(`^s\d{1,2}(-s\d{1,2})?(:c\d{1,4}(\.c\d{1,4})?(,c\d{1,4}(\.c\d{1,4})?)*)?$`)

// Policy is what the host's policy says of containers: of their processes, of
// the files that are theirs, and of files that all of them may read and execute.
type Policy struct{ Process, File, ReadOnly Label }

// Read reads the policy that /etc/selinux/config names.
func Read() (*Policy, error) {
	const dir = "/etc/selinux"
	kind, err := value(filepath.Join(dir, "config"), "SELINUXTYPE")
	if err != nil {
		return nil, err
	}
	return readContexts(filepath.Join(dir, filepath.Base(kind), "contexts/lxc_contexts"))
}

func readContexts(path string) (*Policy, error) {
	var p Policy
	for key, to := range map[string]*Label{"process": &p.Process, "file": &p.File, "ro_file": &p.ReadOnly} {
		text, err := value(path, key)
		if err == nil {
			*to, err = Parse(text)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the labels of containers: %s: %w", path, err)
		}
	}
	return &p, nil
}

// value finds the last KEY = "VALUE" of a file.
func value(path, key string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	found := ""
	lines := bufio.NewScanner(io.LimitReader(f, 1<<20))
	for lines.Scan() {
		k, v, _ := strings.Cut(lines.Text(), "=")
		if strings.TrimSpace(k) == key {
			found = strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	if found == "" && lines.Err() == nil {
		return "", fmt.Errorf("%s has no %s", path, key)
	}
	return found, lines.Err()
}

// Labels are those of a container's processes and files, with what was asked
// for in place of the policy's own; own is the level if none was asked for. A
// level that is malformed is errkind.InvalidArgument.
func (p *Policy) Labels(asked Label, own string) (process, file Label, err error) {
	if asked.Level == "" {
		asked.Level = own
	} else if !level.MatchString(asked.Level) {
		return process, file, errkind.New(errkind.InvalidArgument, "%q is no level of SELinux such as s0:c1,c2", asked.Level)
	}
	for _, part := range []string{asked.User, asked.Role, asked.Type} {
		if strings.ContainsAny(part, ":\x00\n,\" ") {
			return process, file, errkind.New(errkind.InvalidArgument, "%q is no part of a label of SELinux", part)
		}
	}
	process, file = p.Process, p.File
	for _, set := range []struct {
		to   *string
		from string
	}{
		{&process.User, asked.User}, {&process.Role, asked.Role}, {&process.Type, asked.Type}, {&process.Level, asked.Level},
		{&file.User, asked.User}, {&file.Level, asked.Level},
	} {
		if set.from != "" {
			*set.to = set.from
		}
	}
	return process, file, nil
}

// Known asks the kernel whether its policy has the label; one that it lacks is
// errkind.InvalidArgument.
func Known(l Label) error {
	err := os.WriteFile(filepath.Join(kernel, "context"), append([]byte(l.String()), 0), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errkind.New(errkind.InvalidArgument, "the host's SELinux policy has no label %s: %w", l, err)
	}
	return err
}

// categories are those that a policy of the usual kind has.
const categories = 1024

// FreeLevel picks a level that is not taken, at random, so that one which was
// given back is not soon another's.
func FreeLevel(taken map[string]bool) (string, error) {
	for range 100 * categories {
		a, b := rand.IntN(categories), rand.IntN(categories)
		if a == b {
			continue
		}
		if l := fmt.Sprintf("s0:c%d,c%d", min(a, b), max(a, b)); !taken[l] {
			return l, nil
		}
	}
	return "", errkind.New(errkind.ResourceExhausted, "cannot find a level of SELinux that no pod has: %d are taken", len(taken))
}
