package main

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/sys/apparmor"
)

// apparmorPatience is how long the parser may take, which compiles one profile.
const apparmorPatience = 30 * time.Second

// defaultAppArmor loads the default profile and gives its name; empty where
// containers go without one. A host whose AppArmor has no parser is such: the
// other walls around a container stand there too.
func defaultAppArmor(ctx context.Context) string {
	if !apparmor.Enabled() {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, apparmorPatience)
	defer cancel()
	if err := apparmor.LoadDefault(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "Containers that name no AppArmor profile run without one")
		return ""
	}
	return apparmor.DefaultProfile
}
