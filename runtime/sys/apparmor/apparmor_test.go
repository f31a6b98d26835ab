package apparmor

import "testing"

func TestListed(t *testing.T) {
	t.Parallel()
	profiles := []byte("docker-default (enforce)\nwith space (complain)\n/usr/bin/man (enforce)\nlsb_release//null (x) (kill)\n")
	for name, want := range map[string]bool{
		"docker-default": true, "with space": true, "/usr/bin/man": true, "lsb_release//null (x)": true,
		"docker": false, "docker-default (enforce)": false, "": false, "with": false,
	} {
		if got := listed(profiles, name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}
