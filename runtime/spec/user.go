package spec

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

const (
	// maxAccounts bounds /etc/passwd and /etc/group in bytes: the image's
	// author wrote them, and the daemon reads them into memory.
	maxAccounts = 1 << 20
	// maxGroups is the kernel's NGROUPS_MAX.
	maxGroups = 65536
)

// ResolveUser decides the identity of the first process. The readers are the
// image's /etc/passwd and /etc/group, nil if it has none. The image's USER is
// used if sec names no user. What looks like a number is one, even if
// an account has that name (CVE-2016-3697); an id is at most 2^31-1, since
// larger ones wrap around somewhere (CVE-2024-40635).
func ResolveUser(sec *Security, imageUser string, passwd, group io.Reader) (User, error) {
	who, groupName, err := wanted(sec, imageUser)
	if err != nil {
		return User{}, err
	}
	accounts, err := readAccounts("/etc/passwd", passwd)
	if err != nil {
		return User{}, err
	}
	groups, err := readAccounts("/etc/group", group)
	if err != nil {
		return User{}, err
	}
	u, name, err := lookup(who, accounts)
	if err != nil {
		return User{}, err
	}
	switch {
	case sec.RunAsGroup != nil:
		u.GID, err = checkID("group", *sec.RunAsGroup)
	case groupName != "":
		u.GID, err = lookupGroup(groupName, groups)
	}
	if err != nil {
		return User{}, err
	}
	u.Groups, err = supplementary(sec, u.GID, name, groups)
	return u, err
}

// wanted tells the user and the group that were asked for, as names or numbers.
func wanted(sec *Security, imageUser string) (who, group string, err error) {
	switch {
	case sec.RunAsUser != nil && sec.RunAsUsername != "":
		return "", "", errkind.New(errkind.InvalidArgument, "both a user id (%d) and a user name (%q) are asked for", *sec.RunAsUser, sec.RunAsUsername)
	case sec.RunAsUser != nil:
		id, err := checkID("user", *sec.RunAsUser)
		return strconv.FormatUint(uint64(id), 10), "", err
	case sec.RunAsUsername != "":
		return sec.RunAsUsername, "", nil
	case sec.RunAsGroup != nil:
		return "", "", errkind.New(errkind.InvalidArgument, "a group (%d) is asked for without a user", *sec.RunAsGroup)
	}
	who, group, _ = strings.Cut(imageUser, ":")
	if who == "" {
		who = "0"
	}
	return who, group, nil
}

// lookup finds the account of who, a name or a number. A number needs no
// account, and is then of group 0. The name is empty without an account.
func lookup(who string, accounts [][]string) (u User, name string, err error) {
	u.Home = "/"
	id, numeric, err := number("user", who)
	if err != nil {
		return User{}, "", err
	}
	i := slices.IndexFunc(accounts, func(a []string) bool {
		if len(a) < 4 {
			return false
		}
		if numeric {
			n, ok, err := number("user", a[2])
			return ok && err == nil && n == id
		}
		return a[0] == who
	})
	if i < 0 {
		if !numeric {
			return User{}, "", errkind.New(errkind.InvalidArgument, "user %q is not in the image's /etc/passwd", who)
		}
		u.UID = id
		return u, "", nil
	}
	a := accounts[i]
	if u.UID, err = strictNumber("user", a[2]); err != nil {
		return User{}, "", err
	}
	if u.GID, err = strictNumber("group", a[3]); err != nil {
		return User{}, "", err
	}
	if len(a) > 5 && path.IsAbs(a[5]) && !strings.ContainsRune(a[5], 0) {
		u.Home = a[5]
	}
	return u, a[0], nil
}

func lookupGroup(who string, groups [][]string) (uint32, error) {
	id, numeric, err := number("group", who)
	if numeric || err != nil {
		return id, err
	}
	for _, g := range groups {
		if len(g) >= 3 && g[0] == who {
			return strictNumber("group", g[2])
		}
	}
	return 0, errkind.New(errkind.InvalidArgument, "group %q is not in the image's /etc/group", who)
}

// supplementary are the groups of a user named name: its primary one, those
// asked for, and by policy those that the image makes it a member of.
func supplementary(sec *Security, gid uint32, name string, groups [][]string) ([]uint32, error) {
	out := []uint32{gid}
	for _, g := range sec.SupplementalGroups {
		id, err := checkID("group", g)
		if err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	switch sec.GroupsPolicy {
	case GroupsStrict:
	case GroupsMerge, "":
		for _, g := range groups {
			if name == "" || len(g) < 4 || !slices.Contains(strings.Split(g[3], ","), name) {
				continue
			}
			id, err := strictNumber("group", g[2])
			if err != nil {
				return nil, err
			}
			out = append(out, id)
		}
	default:
		return nil, errkind.New(errkind.InvalidArgument, "unknown policy for supplementary groups %q", sec.GroupsPolicy)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if len(out) > maxGroups {
		return nil, errkind.New(errkind.InvalidArgument, "the user has %d groups, at most %d are possible", len(out), maxGroups)
	}
	return out, nil
}

// readAccounts reads lines of fields separated by colons.
func readAccounts(file string, r io.Reader) ([][]string, error) {
	if r == nil {
		return nil, nil
	}
	data, err := io.ReadAll(io.LimitReader(r, maxAccounts+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s of the image: %w", file, err)
	}
	if len(data) > maxAccounts {
		// A part of the file could give a wrong identity.
		return nil, errkind.New(errkind.InvalidArgument, "cannot read %s of the image: it has more than %d bytes", file, maxAccounts)
	}
	var out [][]string
	for line := range bytes.Lines(data) {
		// Lines that begin like this are NIS's or comments.
		if s := strings.TrimSpace(string(line)); s != "" && !strings.ContainsRune("#+-", rune(s[0])) {
			out = append(out, strings.SplitN(s, ":", 8))
		}
	}
	return out, nil
}

// number tells whether s is written as a number, and which id that is. A
// number out of range is no name: it is an error.
func number(kind, s string) (id uint32, numeric bool, err error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return 0, true, errkind.New(errkind.InvalidArgument, "%s id %.32q is not in 0 to %d", kind, s, math.MaxInt32)
	}
	return uint32(n), true, nil
}

// strictNumber is number where a name cannot be.
func strictNumber(kind, s string) (uint32, error) {
	id, numeric, err := number(kind, s)
	if err == nil && !numeric {
		err = errkind.New(errkind.InvalidArgument, "%s id %.32q of the image is not a number", kind, s)
	}
	return id, err
}

func checkID(kind string, n int64) (uint32, error) {
	if n < 0 || n > math.MaxInt32 {
		return 0, errkind.New(errkind.InvalidArgument, "%s id %d is not in 0 to %d", kind, n, math.MaxInt32)
	}
	return uint32(n), nil
}
