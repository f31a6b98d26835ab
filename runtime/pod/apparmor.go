package pod

import (
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/apparmor"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// appArmor resolves the profile; empty is none, as for any privileged
// container. One that was asked for by name is never left out.
func (t *Table) appArmor(sec *spec.Security) (string, error) {
	name := sec.AppArmor
	switch {
	case sec.Privileged || name == apparmor.Unconfined:
		return "", nil
	case name == "":
		return t.cfg.AppArmor, nil
	case !apparmor.Enabled():
		return "", errkind.New(errkind.FailedPrecondition, "cannot confine it by AppArmor's profile %s: AppArmor is off on this host", name)
	}
	loaded, err := apparmor.Loaded(name)
	if err != nil {
		return "", err
	}
	if !loaded {
		return "", errkind.New(errkind.FailedPrecondition, "cannot confine it by AppArmor's profile %s: it is not loaded; load it with apparmor_parser", name)
	}
	return name, nil
}
