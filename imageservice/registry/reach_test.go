package registry

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/imageservice/refs"
)

func TestReach(t *testing.T) {
	t.Parallel()
	status, asked := http.StatusUnauthorized, ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path
		w.WriteHeader(status)
	}))
	defer s.Close()
	reach := func(host string) error {
		ref, err := refs.Parse(host+"/a/b", "")
		if err != nil {
			t.Fatal(err)
		}
		return New(Config{CertsDirs: []string{t.TempDir()}}).Reach(t.Context(), ref)
	}
	host := strings.TrimPrefix(s.URL, "http://")
	if err := reach(host); err != nil || asked != "/v2/" {
		t.Errorf("%v, asked for %s", err, asked)
	}
	status = http.StatusBadGateway
	if err := reach(host); err == nil || !strings.Contains(err.Error(), "502") {
		t.Errorf("got %v", err)
	}
	s.Close()
	if err := reach(host); err == nil || !strings.Contains(err.Error(), "cannot reach http://"+host) {
		t.Errorf("got %v", err)
	}
}
