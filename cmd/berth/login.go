package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func loginVerb(c *cli) *cobra.Command {
	var user, password string
	var stdin, unchecked bool
	cmd := &cobra.Command{
		Use:   "login [flags] [REGISTRY]",
		Short: "Remember credentials for a registry",
		Long: "Remember credentials for a registry, docker.io if none is named, once it has taken them. They\n" +
			"are kept where docker keeps them ($DOCKER_CONFIG/config.json, ~/.docker/config.json), by the\n" +
			"credential helper that it names (credsStore, credHelpers) or in the file itself, for your\n" +
			"eyes only. berth pull, push, run and build find them there.",
		Example: examples("berth login registry.example.com", "echo $TOKEN | berth login -u ci --password-stdin registry.example.com"),
	}
	f := cmd.Flags()
	f.StringVarP(&user, "username", "u", "", "user (asked for if none is given)")
	f.StringVarP(&password, "password", "p", "", "password; better leave it out: others can see your command line")
	f.BoolVar(&stdin, "password-stdin", false, "read the password from stdin")
	f.BoolVar(&unchecked, "no-check", false, "keep them without asking the registry")
	return c.verb(cmd, cobra.MaximumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		host := registryHost(args)
		if stdin && password != "" {
			return &problem{what: "cannot log in to " + host, why: "--password and --password-stdin are both given", do: "leave out one of the two"}
		}
		user, password, err := c.askCredentials(host, user, password, stdin)
		if err != nil {
			return err
		}
		if !unchecked {
			if err := cl.admin.CheckLogin(ctx, &api.LoginRequest{Host: host, Credentials: api.Credentials{Username: user, Password: password}}); err != nil {
				return cannot(err, "log in to %s", host)
			}
		}
		where, err := c.keepCredentials(ctx, host, user, password)
		if err != nil {
			return &problem{what: "cannot keep the credentials for " + host, why: err.Error(), do: "make the file yours to write, or name another place in $DOCKER_CONFIG"}
		}
		_, err = fmt.Fprintf(c.out, "Logged in to %s as %s; kept in %s\n", host, user, where)
		return err
	})
}

func logoutVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "logout [REGISTRY]",
		Short:   "Forget the credentials for a registry",
		Example: examples("berth logout registry.example.com", "berth logout"),
	}
	return c.local(cmd, cobra.MaximumNArgs(1), func(ctx context.Context, args []string) error {
		host := registryHost(args)
		if err := c.forgetCredentials(ctx, host); err != nil {
			return &problem{what: "cannot forget the credentials for " + host, why: err.Error(), do: "repair the file " + c.dockerConfig}
		}
		_, err := fmt.Fprintf(c.out, "Forgot the credentials for %s\n", host)
		return err
	})
}

// registryHost is what people call it; the daemon has the same for docker's.
func registryHost(args []string) string {
	if len(args) == 0 {
		return "docker.io"
	}
	host := hostOf(args[0])
	for _, docker := range keys("docker.io") {
		if host == hostOf(docker) {
			return "docker.io"
		}
	}
	return host
}

// askCredentials completes what the flags say.
func (c *cli) askCredentials(host, user, password string, stdin bool) (string, string, error) {
	in, person := terminalOf(c.in)
	p := &problem{what: "cannot log in to " + host, do: "give -u USER, and the password with --password-stdin"}
	if stdin {
		text, err := io.ReadAll(io.LimitReader(c.in, maxAnswer))
		if err != nil {
			return "", "", err
		}
		password = strings.TrimRight(string(text), "\r\n")
	}
	if !person && (user == "" || password == "") {
		p.why = "the user or the password is missing, and stdin is no terminal to ask at"
		return "", "", p
	}
	if user == "" {
		fmt.Fprintf(c.err, "User for %s: ", host)
		line, err := readLine(in)
		if err != nil {
			return "", "", err
		}
		user = line
	}
	if password == "" {
		fmt.Fprintf(c.err, "Password of %s (it is not shown): ", user)
		text, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(c.err)
		if err != nil {
			return "", "", err
		}
		password = string(text)
	}
	if user == "" || password == "" || strings.Contains(user, ":") {
		p.why = "the user or the password is empty, or the user has a colon"
		return "", "", p
	}
	return user, password, nil
}

// readLine reads no further than the line: what follows may be the password.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for b := []byte{0}; ; {
		n, err := r.Read(b)
		if n == 1 && b[0] == '\n' || err != nil && len(line) > 0 {
			return strings.TrimSpace(string(line)), nil
		}
		if err != nil {
			return "", err
		}
		line = append(line, b[:n]...)
	}
}

// keepCredentials stores them and tells where.
func (c *cli) keepCredentials(ctx context.Context, host, user, password string) (where string, err error) {
	config, err := c.logins()
	if err != nil {
		return "", err
	}
	key := keys(host)[0]
	if helper := cmp.Or(config.CredHelpers[key], config.CredsStore); helper != "" {
		secret, err := json.Marshal(map[string]string{"ServerURL": key, "Username": user, "Secret": password})
		if err != nil {
			return "", err
		}
		return "docker-credential-" + helper, runHelper(ctx, helper, "store", secret)
	}
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	return c.dockerConfig, c.changeAuths(func(auths map[string]json.RawMessage) {
		for _, other := range keys(host)[1:] {
			delete(auths, other) // or lookups would differ
		}
		auths[key], _ = json.Marshal(map[string]string{"auth": auth}) // of strings, which always works
	})
}

func (c *cli) forgetCredentials(ctx context.Context, host string) error {
	config, err := c.logins()
	if err != nil {
		return err
	}
	for _, key := range keys(host) {
		if helper := cmp.Or(config.CredHelpers[key], config.CredsStore); helper != "" {
			// One that has nothing by this name says so, each in its own words.
			_ = runHelper(ctx, helper, "erase", []byte(key))
		}
	}
	if len(config.Auths) == 0 {
		return nil
	}
	return c.changeAuths(func(auths map[string]json.RawMessage) {
		for key := range auths {
			if hostOf(key) == host {
				delete(auths, key)
			}
		}
		for _, key := range keys(host) {
			delete(auths, key)
		}
	})
}

// runHelper calls a docker credential helper that answers nothing.
func runHelper(ctx context.Context, helper, verb string, stdin []byte) error {
	if helper != filepath.Base(helper) {
		return fmt.Errorf("%q is no name of a credential helper", helper)
	}
	cmd := exec.CommandContext(ctx, "docker-credential-"+helper, verb)
	cmd.Stdin = bytes.NewReader(stdin)
	said := &capped{most: maxAnswer}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("docker-credential-%s %s: %w: %s", helper, verb, err, firstLine(strings.TrimSpace(said.String())))
	}
	return nil
}

// changeAuths writes docker's file anew with other auths, and the rest as it was.
// Only its owner may read it, whatever it was before.
func (c *cli) changeAuths(change func(map[string]json.RawMessage)) error {
	if c.dockerConfig == "" {
		return errors.New("there is no home directory: set DOCKER_CONFIG")
	}
	file := c.dockerConfig
	if target, err := filepath.EvalSymlinks(file); err == nil {
		file = target // a link stays one
	}
	whole, auths := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	text, err := os.ReadFile(file)
	if err == nil && len(bytes.TrimSpace(text)) > 0 {
		err = json.Unmarshal(text, &whole)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if raw := whole["auths"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &auths); err != nil {
			return err
		}
	}
	change(auths)
	if whole["auths"], err = json.Marshal(auths); err != nil {
		return err
	}
	if text, err = json.MarshalIndent(whole, "", "\t"); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(file), ".config-*.json") // of mode 0600
	if err != nil {
		return err
	}
	_, err = temp.Write(append(text, '\n'))
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
	}
	return err
}
