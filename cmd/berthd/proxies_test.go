package main

import (
	"io"
	"strings"
	"testing"
)

// Proxies may have passwords: a configuration that is refused does not tell
// them to the journal.
func TestCREDConfigErrorsHideProxyPasswords(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, says string }{
		"not an URL":  {"[image]\nproxies = { 'quay.io' = 'http://u:hunter2@a b' }\n", `image.proxies: cannot use proxy of "quay.io"`},
		"scheme":      {"[image.proxies]\n'quay.io' = 'ftp://u:hunter2@a'\n", "ftp"},
		"wrong type":  {"[image]\nproxies = 'http://u:hunter2@a'\n", "config.toml:2:"},
		"list":        {"[image.proxies]\n'quay.io' = ['http://u:hunter2@a']\n", "config.toml:2:"},
		"key":         {"[image.proxies]\n'https://quay.io' = 'http://u:hunter2@a'\n", "must be a host"},
		"syntax":      {"[image.proxies]\n'quay.io' = 'http://u:hunter2@a\n", "config.toml:2:"},
		"unknown key": {"[image.proxys]\n'quay.io' = 'http://u:hunter2@a'\n", "proxys"},
	} {
		_, err := parseArgs([]string{"--config", write(t, map[string]string{"config.toml": c.text})}, io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	cfg, err := parseArgs([]string{"--config", write(t, map[string]string{
		"config.toml":     "[image.proxies]\n'quay.io' = 'http://u:p@a:1'\n",
		"conf.d/10.toml":  "[image.proxies]\n'docker.io' = ''\n",
		"conf.d/ignored.": "",
	})}, io.Discard)
	if err != nil || len(cfg.Image.Proxies) != 2 || cfg.Image.Proxies["quay.io"] != "http://u:p@a:1" {
		t.Errorf("two files gave %v, %v", cfg.Image.Proxies, err)
	}
}
