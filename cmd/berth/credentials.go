package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// dockerConfig is the part of docker's config.json that tells credentials.
type dockerConfig struct {
	Auths       map[string]dockerAuth `json:"auths"`
	CredsStore  string                `json:"credsStore"`  // helper for all registries
	CredHelpers map[string]string     `json:"credHelpers"` // helper for some, by host
}

type dockerAuth struct {
	Auth          string `json:"auth"` // base64 of user:password
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// dockerConfigFile is where docker login writes to.
func dockerConfigFile() string {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(home, ".docker")
	}
	return filepath.Join(dir, "config.json")
}

// maxDockerConfig and maxAnswer bound what is read of files and helpers.
const (
	maxDockerConfig = 4 << 20
	maxAnswer       = 1 << 20
)

func readDockerConfig(file string) (dockerConfig, error) {
	f, err := os.Open(file)
	if err != nil {
		return dockerConfig{}, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxDockerConfig+1))
	if err == nil && len(text) > maxDockerConfig {
		err = fmt.Errorf("it has more than %d bytes", maxDockerConfig)
	}
	if err != nil {
		return dockerConfig{}, err
	}
	return parseDockerConfig(text)
}

// parseDockerConfig reads a config.json. A part that cannot be read makes it an
// error, lest credentials that are meant to come from a helper come from
// somewhere else, or go (CVE-2021-41092).
func parseDockerConfig(text []byte) (config dockerConfig, err error) {
	return config, json.Unmarshal(text, &config)
}

// credentials gives what is to be sent for ref: what --creds says, else what
// docker's config has for the registry.
func (c *cli) credentials(ctx context.Context, cl *client, ref, creds string) (api.Credentials, error) {
	if creds != "" {
		user, password, ok := strings.Cut(creds, ":")
		if !ok {
			return api.Credentials{}, &problem{what: "cannot use credentials for " + ref, why: "--creds is not USER:PASSWORD", do: "write both, with a colon between them"}
		}
		return api.Credentials{Username: user, Password: password}, nil
	}
	config, err := c.logins()
	if err != nil {
		return api.Credentials{}, &problem{what: "cannot read the credentials for " + ref, why: err.Error(), do: "repair the file, or give --creds USER:PASSWORD"}
	}
	if config.empty() {
		return api.Credentials{}, nil
	}
	// The daemon knows which registry a short name means.
	e, err := cl.admin.ExplainRegistry(ctx, &api.ExplainRequest{Ref: ref})
	if err != nil {
		return api.Credentials{}, nil //nolint:nilerr // what is wrong with ref, the verb itself will say
	}
	host, _, _ := strings.Cut(e.Ref, "/")
	found, err := config.lookup(ctx, host)
	if err != nil {
		return api.Credentials{}, &problem{what: "cannot get the credentials for " + host, why: err.Error(), do: "log in again, or give --creds USER:PASSWORD"}
	}
	return found, nil
}

// logins gives what docker login wrote; empty if it never did.
func (c *cli) logins() (*dockerConfig, error) {
	if c.dockerConfig == "" {
		return &dockerConfig{}, nil
	}
	config, err := readDockerConfig(c.dockerConfig)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &dockerConfig{}, nil
	case err != nil:
		return nil, fmt.Errorf("%s: %w", c.dockerConfig, err)
	}
	return &config, nil
}

func (d *dockerConfig) empty() bool {
	return len(d.Auths) == 0 && d.CredsStore == "" && len(d.CredHelpers) == 0
}

// keys are the names under which docker may have a host's credentials.
func keys(host string) []string {
	if host == "docker.io" {
		return []string{"https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"}
	}
	return []string{host, "https://" + host, "http://" + host, "https://" + host + "/v1/", "https://" + host + "/v2/"}
}

// lookup gives the credentials for host; none is no failure.
func (d *dockerConfig) lookup(ctx context.Context, host string) (api.Credentials, error) {
	for _, key := range keys(host) {
		if helper := d.CredHelpers[key]; helper != "" {
			return askHelper(ctx, helper, key, host)
		}
	}
	if d.CredsStore != "" {
		for _, key := range keys(host) {
			if found, err := askHelper(ctx, d.CredsStore, key, host); err != nil || found != (api.Credentials{}) {
				return found, err
			}
		}
	}
	for _, key := range keys(host) {
		if a, ok := d.Auths[key]; ok && a != (dockerAuth{}) {
			return a.credentials(host)
		}
	}
	// As docker does, any URL of that host.
	for _, key := range slices.Sorted(maps.Keys(d.Auths)) {
		if a := d.Auths[key]; hostOf(key) == host && a != (dockerAuth{}) {
			return a.credentials(host)
		}
	}
	return api.Credentials{}, nil
}

// hostOf is the host of an URL whose scheme may lack.
func hostOf(key string) string {
	if _, after, ok := strings.Cut(key, "://"); ok {
		key = after
	}
	host, _, _ := strings.Cut(key, "/")
	return host
}

func (a dockerAuth) credentials(host string) (api.Credentials, error) {
	if a.Username == "" && a.Auth != "" {
		plain, err := base64.StdEncoding.DecodeString(a.Auth)
		user, password, ok := strings.Cut(string(plain), ":")
		if err != nil || !ok {
			return api.Credentials{}, errors.New("its auth in docker's config.json is not base64 of user:password")
		}
		a.Username, a.Password = user, strings.TrimRight(password, "\x00")
	}
	return api.Credentials{
		Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken, Server: host,
	}, nil
}

// askHelper asks a docker credential helper, a program that reads the key and
// writes JSON. It has none for most hosts.
func askHelper(ctx context.Context, helper, key, host string) (api.Credentials, error) {
	program := "docker-credential-" + helper
	if helper != filepath.Base(helper) {
		return api.Credentials{}, fmt.Errorf("%q is no name of a credential helper", helper)
	}
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin = strings.NewReader(key)
	out, errs := &capped{most: maxAnswer}, &capped{most: maxAnswer}
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(out.String() + errs.String())
		if strings.Contains(said, "credentials not found") {
			return api.Credentials{}, nil
		}
		return api.Credentials{}, fmt.Errorf("%s: %w: %s", program, err, firstLine(said))
	}
	got, err := parseHelperAnswer(out.Bytes(), host)
	if err != nil {
		return api.Credentials{}, fmt.Errorf("%s %w", program, err)
	}
	return got, nil
}

// parseHelperAnswer reads what a helper writes for host. Its errors do not
// quote it.
func parseHelperAnswer(answer []byte, host string) (api.Credentials, error) {
	var got struct{ Username, Secret string }
	if len(answer) >= maxAnswer || json.Unmarshal(answer, &got) != nil {
		return api.Credentials{}, errors.New("did not answer with JSON")
	}
	switch got.Username {
	case "":
		return api.Credentials{}, nil
	case "<token>":
		return api.Credentials{IdentityToken: got.Secret, Server: host}, nil
	}
	return api.Credentials{Username: got.Username, Password: got.Secret, Server: host}, nil
}

// firstLine is what may go of a helper's words into an error.
func firstLine(said string) string {
	line, _, _ := strings.Cut(said, "\n")
	return line[:min(len(line), 200)]
}

// capped keeps the beginning of what is written to it.
type capped struct {
	bytes.Buffer
	most int
}

func (c *capped) Write(p []byte) (int, error) {
	_, _ = c.Buffer.Write(p[:min(len(p), c.most-c.Len())])
	return len(p), nil
}
