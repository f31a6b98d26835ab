package main

import (
	"context"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/sys/apparmor"
)

// defaultAppArmor loads the default profile and gives its name; empty where
// containers go without one. A host whose AppArmor has no parser is such: the
// other walls around a container stand there too.
func defaultAppArmor(ctx context.Context) string {
	if !apparmor.Enabled() {
		return ""
	}
	if err := apparmor.LoadDefault(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "Containers that name no AppArmor profile run without one")
		return ""
	}
	return apparmor.DefaultProfile
}
