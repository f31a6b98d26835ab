package pod

import (
	"os"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// selinuxFile is there while the kernel's SELinux is on.
const selinuxFile = "/sys/fs/selinux/enforce"

// checkSELinux refuses a label on a host that has SELinux, where it would have
// to be given and is not: to run without would be to say that it is confined
// as asked. A host without SELinux has nothing that a label could change.
func checkSELinux(asked *spec.SELinux) error {
	if asked == nil {
		return nil
	}
	if _, err := os.Stat(selinuxFile); err != nil {
		return nil
	}
	return errkind.New(errkind.Unimplemented, "cannot give it the SELinux label %s:%s:%s:%s: labels are not supported yet; remove seLinuxOptions", asked.User, asked.Role, asked.Type, asked.Level)
}
