package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func TestDockerConfigLookup(t *testing.T) {
	t.Parallel()
	auth := base64.StdEncoding.EncodeToString([]byte("joe:p:w\x00"))
	for _, c := range []struct {
		config, host string
		want         api.Credentials
	}{
		{`{}`, "quay.io", api.Credentials{}},
		{`{"auths":{"quay.io":{"auth":"` + auth + `"}}}`, "quay.io", api.Credentials{Username: "joe", Password: "p:w", Server: "quay.io"}},
		{`{"auths":{"https://quay.io/v2/":{"auth":"` + auth + `"}}}`, "quay.io", api.Credentials{Username: "joe", Password: "p:w", Server: "quay.io"}},
		{`{"auths":{"http://quay.io/v1/x":{"username":"u","password":"p"}}}`, "quay.io", api.Credentials{Username: "u", Password: "p", Server: "quay.io"}},
		{`{"auths":{"https://index.docker.io/v1/":{"identitytoken":"t"}}}`, "docker.io", api.Credentials{IdentityToken: "t", Server: "docker.io"}},
		{`{"auths":{"quay.io":{"registrytoken":"t"}}}`, "quay.io", api.Credentials{RegistryToken: "t", Server: "quay.io"}},
		{`{"auths":{"quay.io":{}}}`, "quay.io", api.Credentials{}},
		{`{"auths":{"quay.io.evil.example":{"username":"u"},"evil.example/quay.io":{"username":"u"},"https://evil.example#@quay.io/":{"username":"u"}}}`, "quay.io", api.Credentials{}},
		{`{"auths":{"quay.io:8443":{"username":"u"}}}`, "quay.io", api.Credentials{}},
	} {
		config, err := parseDockerConfig([]byte(c.config))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := config.lookup(t.Context(), c.host); err != nil || got != c.want {
			t.Errorf("%s of %s: got %+v, %v", c.host, c.config, got, err)
		}
	}
}

// helpers puts credential helpers, shell scripts by name, before all others.
func helpers(t *testing.T, scripts map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, body := range scripts {
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+body), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// A helper is asked for its host's own key; one that fails is an error, not a
// reason to look elsewhere, and its error tells no secret.
func TestCREDHelpers(t *testing.T) {
	helpers(t, map[string]string{
		"store":   `read key; [ "$1 $key" = "get quay.io" ] || { echo "credentials not found in native keychain"; exit 1; }; echo '{"ServerURL":"quay.io","Username":"joe","Secret":"hunter2"}'`,
		"token":   `echo '{"Username":"<token>","Secret":"refresh"}'`,
		"broken":  `echo "cannot open: locked"; echo hunter2; exit 1`,
		"garbage": `echo 'hunter2 is the password'`,
		"empty":   `echo '{}'`,
	})
	fallback := `"auths":{"quay.io":{"username":"other","password":"x"}}`
	for _, c := range []struct {
		config, host string
		want         api.Credentials
		says         string // of the error
	}{
		{`{"credsStore":"store"}`, "quay.io", api.Credentials{Username: "joe", Password: "hunter2", Server: "quay.io"}, ""},
		{`{"credsStore":"store"}`, "ghcr.io", api.Credentials{}, ""},
		{`{"credsStore":"store","credHelpers":{"quay.io":"token"}}`, "quay.io", api.Credentials{IdentityToken: "refresh", Server: "quay.io"}, ""},
		{`{"credHelpers":{"ghcr.io":"token"},` + fallback + `}`, "quay.io", api.Credentials{Username: "other", Password: "x", Server: "quay.io"}, ""},
		{`{"credsStore":"empty",` + fallback + `}`, "quay.io", api.Credentials{Username: "other", Password: "x", Server: "quay.io"}, ""},
		{`{"credsStore":"broken",` + fallback + `}`, "quay.io", api.Credentials{}, "cannot open: locked"},
		{`{"credHelpers":{"quay.io":"garbage"},` + fallback + `}`, "quay.io", api.Credentials{}, "did not answer with JSON"},
		{`{"credHelpers":{"quay.io":"absent"},` + fallback + `}`, "quay.io", api.Credentials{}, "executable file not found"},
		{`{"credHelpers":{"quay.io":"../../bin/sh"},` + fallback + `}`, "quay.io", api.Credentials{}, "no name of a credential helper"},
	} {
		config, err := parseDockerConfig([]byte(c.config))
		if err != nil {
			t.Fatal(err)
		}
		got, err := config.lookup(t.Context(), c.host)
		if got != c.want || (err == nil) != (c.says == "") {
			t.Errorf("%s of %s: got %+v, %v", c.host, c.config, got, err)
		}
		if err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s of %s: got %v", c.host, c.config, err)
		}
	}
	// What cannot be read is not taken for nothing.
	for _, config := range []string{`{"credHelpers":["quay.io"],` + fallback + `}`, `{"credsStore":1}`, `{`, ``} {
		if _, err := parseDockerConfig([]byte(config)); err == nil {
			t.Errorf("%s was read", config)
		}
	}
}

// A helper that never stops writing takes no memory, and ends with its caller.
func TestLIMHelpers(t *testing.T) {
	helpers(t, map[string]string{"endless": `head -c 1000000000 /dev/zero`})
	config := dockerConfig{CredsStore: "endless"}
	if _, err := config.lookup(t.Context(), "quay.io"); err == nil || !strings.Contains(err.Error(), "did not answer with JSON") {
		t.Errorf("got %v", err)
	}
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, maxDockerConfig*10_000); err != nil { // a hole, which takes no disk
		t.Fatal(err)
	}
	if _, err := (&cli{dockerConfig: file}).logins(); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v", err)
	}
}

// What is found for a host is bound to it, is found again when the file is
// written again, and of an error no value is told.
func FuzzDockerConfig(f *testing.F) {
	for _, text := range []string{
		`{"auths":{"quay.io":{"auth":"am9lOng="}}}`, `{"auths":{"https://index.docker.io/v1/":{"identitytoken":"t"}}}`,
		`{"auths":{"quay.io":{"username":"u","password":"hunter2secret"}},"HttpHeaders":{"a":"b"}}`, `{"auths":[]}`, `{"auths":{"quay.io":{"auth":1}}}`,
	} {
		f.Add([]byte(text), "quay.io")
		f.Add([]byte(text), "docker.io")
	}
	f.Fuzz(func(t *testing.T, text []byte, host string) {
		config, err := parseDockerConfig(text)
		if err != nil {
			if len(err.Error()) > 300 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		config.CredsStore, config.CredHelpers = "", nil // those are programs
		got, err := config.lookup(context.Background(), host)
		if err == nil && got != (api.Credentials{}) && got.Server != host {
			t.Fatalf("credentials for %q are bound to %q", host, got.Server)
		}
		again, jsonErr := json.Marshal(config)
		if jsonErr != nil {
			t.Fatal(jsonErr)
		}
		back, jsonErr := parseDockerConfig(again)
		if jsonErr != nil {
			t.Fatalf("%q became %q: %v", text, again, jsonErr)
		}
		twice, errAgain := back.lookup(context.Background(), host)
		if twice != got || (err == nil) != (errAgain == nil) {
			t.Fatalf("%q gives %+v, %v, then %+v, %v", text, got, err, twice, errAgain)
		}
	})
}

// A helper's answer is for the host that was asked about, whatever it says.
func FuzzHelperAnswer(f *testing.F) {
	for _, text := range []string{`{"ServerURL":"evil.example","Username":"joe","Secret":"x"}`, `{"Username":"<token>","Secret":"x"}`, `{}`, `[]`, `null`, `{"Secret":1}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		got, err := parseHelperAnswer(answer, "quay.io")
		switch {
		case err != nil && (got != (api.Credentials{}) || err.Error() != "did not answer with JSON"):
			t.Fatalf("%q gives %+v, %v", answer, got, err)
		case err == nil && got != (api.Credentials{}) && (got.Server != "quay.io" || got.RegistryToken != "" || got.IdentityToken != "" && got.Username+got.Password != ""):
			t.Fatalf("%q gives %+v", answer, got)
		}
	})
}
