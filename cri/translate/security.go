package translate

import (
	"path/filepath"
	"slices"
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/spec"
)

// security translates the security context of a container.
func security(sc *criv1.LinuxContainerSecurityContext) (spec.Security, error) {
	s := spec.Security{
		Privileged:         sc.GetPrivileged(),
		RunAsUsername:      sc.GetRunAsUsername(),
		SupplementalGroups: sc.GetSupplementalGroups(),
		ReadonlyRootfs:     sc.GetReadonlyRootfs(),
		NoNewPrivs:         sc.GetNoNewPrivs(),
		MaskedPaths:        sc.GetMaskedPaths(),
		ReadonlyPaths:      sc.GetReadonlyPaths(),
	}
	if err := identity(&s, sc); err != nil {
		return s, err
	}
	var err error
	if s.Namespaces, err = containerNamespaces(sc.GetNamespaceOptions()); err != nil {
		return s, err
	}
	if s.GroupsPolicy, err = groupsPolicy(sc.GetSupplementalGroupsPolicy()); err != nil {
		return s, err
	}
	if s.Seccomp, err = seccompProfile(sc.GetSeccomp(), sc.GetSeccompProfilePath()); err != nil { //nolint:staticcheck // deprecated, and all that some clients set
		return s, err
	}
	if s.AppArmor, err = apparmorProfile(sc.GetApparmor(), sc.GetApparmorProfile()); err != nil { //nolint:staticcheck // deprecated, and all that some clients set
		return s, err
	}
	s.SELinux = selinux(sc.GetSelinuxOptions())
	caps := sc.GetCapabilities()
	if s.CapAdd, err = capabilities(caps.GetAddCapabilities()); err != nil {
		return s, err
	}
	if s.CapDrop, err = capabilities(caps.GetDropCapabilities()); err != nil {
		return s, err
	}
	s.CapAmbient, err = capabilities(caps.GetAddAmbientCapabilities())
	return s, err
}

func identity(s *spec.Security, sc *criv1.LinuxContainerSecurityContext) error {
	user, group := sc.GetRunAsUser(), sc.GetRunAsGroup()
	if user != nil && s.RunAsUsername != "" {
		return invalid("run_as_user and run_as_username exclude each other")
	}
	if group != nil && user == nil && s.RunAsUsername == "" {
		return invalid("run_as_group needs run_as_user or run_as_username")
	}
	if user != nil {
		s.RunAsUser = &user.Value
	}
	if group != nil {
		s.RunAsGroup = &group.Value
	}
	ids := slices.Clone(s.SupplementalGroups)
	ids = append(ids, user.GetValue(), group.GetValue())
	for _, id := range ids {
		// (uid_t)-1 means "do not change" to the kernel.
		if id < 0 || id >= 1<<32-1 {
			return invalid("%d is no user or group id", id)
		}
	}
	return nil
}

// selinux gives nil where nothing is asked for: an empty option is none.
func selinux(o *criv1.SELinuxOption) *spec.SELinux {
	out := spec.SELinux{User: o.GetUser(), Role: o.GetRole(), Type: o.GetType(), Level: o.GetLevel()}
	if out == (spec.SELinux{}) {
		return nil
	}
	return &out
}

func groupsPolicy(p criv1.SupplementalGroupsPolicy) (spec.GroupsPolicy, error) {
	switch p {
	case criv1.SupplementalGroupsPolicy_Merge:
		return spec.GroupsMerge, nil
	case criv1.SupplementalGroupsPolicy_Strict:
		return spec.GroupsStrict, nil
	}
	return "", invalid("unknown supplemental_groups_policy %d", p)
}

// capabilities normalises names as clients write them: with or without the
// prefix, in any case.
func capabilities(names []string) ([]string, error) {
	var out []string
	for _, name := range names {
		short := strings.TrimPrefix(strings.ToUpper(name), "CAP_")
		known := short == "ALL" || slices.ContainsFunc(spec.AllCaps(), func(c string) bool {
			return strings.TrimPrefix(c, "CAP_") == short
		})
		if !known {
			return nil, invalid("unknown capability %q", name)
		}
		out = append(out, short)
	}
	return out, nil
}

// seccompProfile translates the profile and its deprecated form, a string;
// the new form wins. Neither means nil: unconfined.
func seccompProfile(p *criv1.SecurityProfile, deprecated string) (*spec.Seccomp, error) {
	if p == nil {
		return oldSeccompProfile(deprecated)
	}
	if p.ProfileType != criv1.SecurityProfile_Localhost && p.LocalhostRef != "" {
		return nil, invalid("seccomp: localhost_ref %q is only for profile type Localhost", p.LocalhostRef)
	}
	switch p.ProfileType {
	case criv1.SecurityProfile_RuntimeDefault:
		return &spec.Seccomp{Mode: spec.SeccompDefault}, nil
	case criv1.SecurityProfile_Unconfined:
		return &spec.Seccomp{Mode: spec.SeccompUnconfined}, nil
	case criv1.SecurityProfile_Localhost:
		return localSeccomp(p.LocalhostRef)
	}
	return nil, invalid("seccomp: unknown profile type %d", p.ProfileType)
}

func oldSeccompProfile(s string) (*spec.Seccomp, error) {
	switch s {
	case "":
		return nil, nil
	case "unconfined":
		return &spec.Seccomp{Mode: spec.SeccompUnconfined}, nil
	case "runtime/default", "docker/default":
		return &spec.Seccomp{Mode: spec.SeccompDefault}, nil
	}
	path, ok := strings.CutPrefix(s, "localhost/")
	if !ok {
		return nil, invalid("seccomp: unknown profile %q", s)
	}
	return localSeccomp(path)
}

func localSeccomp(path string) (*spec.Seccomp, error) {
	if !filepath.IsAbs(path) {
		return nil, invalid("seccomp: profile %q is not an absolute path", path)
	}
	return &spec.Seccomp{Mode: spec.SeccompLocalhost, Path: path}, nil
}

// unconfined is the name for no AppArmor profile at all.
const unconfined = "unconfined"

// apparmorProfile gives the name of the profile to run under: empty for the
// runtime's default, which is also what nothing means.
func apparmorProfile(p *criv1.SecurityProfile, deprecated string) (string, error) {
	if p == nil {
		switch deprecated {
		case "", "runtime/default":
			return "", nil
		case unconfined:
			return unconfined, nil
		}
		name, ok := strings.CutPrefix(deprecated, "localhost/")
		if !ok || name == "" {
			return "", invalid("apparmor: unknown profile %q", deprecated)
		}
		return name, nil
	}
	if p.ProfileType != criv1.SecurityProfile_Localhost && p.LocalhostRef != "" {
		return "", invalid("apparmor: localhost_ref %q is only for profile type Localhost", p.LocalhostRef)
	}
	switch p.ProfileType {
	case criv1.SecurityProfile_RuntimeDefault:
		return "", nil
	case criv1.SecurityProfile_Unconfined:
		return unconfined, nil
	case criv1.SecurityProfile_Localhost:
		name := strings.TrimPrefix(p.LocalhostRef, "localhost/")
		if name == "" {
			return "", invalid("apparmor: profile type Localhost needs a localhost_ref")
		}
		return name, nil
	}
	return "", invalid("apparmor: unknown profile type %d", p.ProfileType)
}
