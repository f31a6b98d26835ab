package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/nri"
	"github.com/berth-runtime/berth/runtime/pod"
)

type nriConfig struct {
	Enable              bool     `toml:"enable,commented" comment:"Let plugins of the Node Resource Interface follow and change containers.\nThey are trusted like the daemon itself."`
	SocketPath          string   `toml:"socket_path,commented" comment:"Where plugins connect; only root can."`
	PluginPath          string   `toml:"plugin_path,commented" comment:"Plugins that the daemon starts, and their configurations."`
	PluginConfigPath    string   `toml:"plugin_config_path,commented"`
	RegistrationTimeout duration `toml:"plugin_registration_timeout,commented" comment:"How long a plugin may take to register, and to answer. One that does not\nanswer is cut off."`
	RequestTimeout      duration `toml:"plugin_request_timeout,commented"`
}

func defaultNRI() nriConfig {
	return nriConfig{SocketPath: "/var/run/nri/nri.sock", PluginPath: "/opt/nri/plugins", PluginConfigPath: "/etc/nri/conf.d",
		RegistrationTimeout: duration(5 * time.Second), RequestTimeout: duration(2 * time.Second)}
}

// wrong names the key that cannot work, and why.
func (c nriConfig) wrong() (key, why string) {
	for key, path := range map[string]string{"socket_path": c.SocketPath, "plugin_path": c.PluginPath, "plugin_config_path": c.PluginConfigPath} {
		if !filepath.IsAbs(path) {
			return key, fmt.Sprintf("%q is not an absolute path", path)
		}
	}
	for key, d := range map[string]duration{"plugin_registration_timeout": c.RegistrationTimeout, "plugin_request_timeout": c.RequestTimeout} {
		if d <= 0 {
			return key, "it must be more than 0s"
		}
	}
	return "", ""
}

// plugins are the pods' hooks, where the configuration wants them.
type plugins struct{ *nri.Service }

func buildPlugins(ctx context.Context, cfg config) (plugins, error) {
	if !cfg.NRI.Enable {
		return plugins{}, nil
	}
	nri.LogTo(klog.FromContext(ctx))
	s, err := nri.New(ctx, nri.Config{Version: version, SocketPath: cfg.NRI.SocketPath, PluginPath: cfg.NRI.PluginPath,
		PluginConfigPath: cfg.NRI.PluginConfigPath, RegistrationTimeout: time.Duration(cfg.NRI.RegistrationTimeout),
		RequestTimeout: time.Duration(cfg.NRI.RequestTimeout), CDI: cfg.CDI.Dirs})
	return plugins{s}, err
}

func (p plugins) forPods() pod.Hooks {
	if p.Service == nil {
		return nil
	}
	return p.Service
}

// start begins to tell the plugins; what was recovered before, they are shown.
func (p plugins) start(pods *pod.Table) error {
	if p.Service == nil {
		return nil
	}
	return p.Start(pods)
}

func (p plugins) stop() {
	if p.Service != nil {
		p.Stop()
	}
}

// duration is written like "2s" or "1m30s".
type duration time.Duration

// MarshalText writes the form above.
func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads it.
func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no time such as 2s or 500ms", text)
	}
	*d = duration(v)
	return nil
}
