package imageservice

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// A descriptor may say where else its content is. Nobody whom an image names
// so is asked, not even without credentials (CVE-2020-15157).
func TestCREDDescriptorURLs(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	var asked atomic.Int32
	evil := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(evil.Close)
	reg, host := startLiar(t)
	layer := gzLayer(t, file("f", "x"))
	img := makeImage(t, layer)
	push(t, host+"/x:v1", img)
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	blob, _ := blobOf(t, layer)
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	urls := []string{evil.URL + "/blob", "http://169.254.169.254/", "file:///etc/passwd"}
	l := m["layers"].([]any)[0].(map[string]any)
	l["urls"], m["config"].(map[string]any)["urls"] = urls, urls
	pull := func(tag string) error {
		t.Helper()
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		put(t, "http://"+host+"/v2/x/manifests/"+tag, fmt.Sprint(m["mediaType"]), b)
		_, err = s.Pull(context.Background(), PullRequest{Ref: host + "/x:" + tag, Auth: &Auth{Username: "u", Password: "p"}})
		return err
	}
	if err := pull("urls"); err != nil {
		t.Errorf("a layer that the registry has too: %v", err)
	}
	if err := s.Remove(context.Background(), host+"/x:urls"); err != nil {
		t.Fatal(err)
	}
	reg.tell(func(req *http.Request) bool { return strings.HasSuffix(req.URL.Path, blob) }, false)
	if err := pull("lie"); !errkind.Is(err, errkind.DataLoss) {
		t.Errorf("a layer that the registry has wrong: %v", err)
	}
	for _, foreign := range []string{"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"} {
		l["mediaType"] = foreign
		if err := pull("foreign"); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%s: %v", foreign, err)
		}
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("a host that the image names was asked %d times", n)
	}
	nothingBut(t, s)
}

func put(t *testing.T, to, mediaType string, b []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPut, to, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s: %s", to, resp.Status)
	}
}

// journal is a log that may be written by many at a time.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

// Whatever becomes of a pull, its credentials are in no error, no progress, no
// line of a log that holds back nothing, and no file of the store.
func TestCREDNowhereElse(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := openAt(t, t.TempDir())
	s.cfg.KeepBlobs = true
	var log journal
	ctx := klog.NewContext(context.Background(), textlogger.NewLogger(textlogger.NewConfig(textlogger.Verbosity(9), textlogger.Output(&log))))

	pass, refresh, regToken, token := "sentinel1"+rand.Text(), "sentinel2"+rand.Text()+"&=", "sentinel3"+rand.Text(), "sentinel4"+rand.Text()
	reg, host := startLiar(t)
	img := makeImage(t, gzLayer(t, file("f", "x")), gzLayer(t, file("g", "y")))
	push(t, host+"/x:v1", img)
	var takes atomic.Value // the one header that the registry takes
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch got := req.Header.Get("Authorization"); {
		case req.URL.Path == "/token":
			_, _ = fmt.Fprintf(w, `{"token":%q}`, token)
		case got == takes.Load() || got == "Bearer "+regToken:
			reg.ServeHTTP(w, req)
		default:
			w.Header().Set("Www-Authenticate", "Bearer realm=\"http://"+req.Host+"/token\"")
			w.WriteHeader(http.StatusUnauthorized)
			body, _ := io.ReadAll(req.Body)
			_, _ = fmt.Fprintf(w, `{"errors":[{"message":%q}]}`, fmt.Sprint(req.Header, string(body), token))
		}
	}))
	t.Cleanup(front.Close)
	ref := strings.TrimPrefix(front.URL, "http://") + "/x"
	auths := []*Auth{
		{Username: "joe", Password: pass},
		{Auth: base64.StdEncoding.EncodeToString([]byte("joe:" + pass))},
		{IdentityToken: refresh},
		{RegistryToken: regToken},
	}
	var told []string
	for _, auth := range auths {
		for n, step := range []struct{ tag, takes, lie string }{
			{":v1", "Bearer " + token, ""},
			{":v1", "Bearer " + token, "/blobs/"},
			{":absent", "Bearer " + token, ""},
			{":v1", "nothing", ""},
		} {
			takes.Store(step.takes)
			reg.tell(func(req *http.Request) bool { return step.lie != "" && strings.Contains(req.URL.Path, step.lie) }, false)
			_, err := s.Pull(ctx, PullRequest{Ref: ref + step.tag, Auth: auth, Progress: func(p Progress) {
				log.mu.Lock()
				defer log.mu.Unlock()
				told = append(told, fmt.Sprintf("%+v", p))
			}})
			if (err == nil) != (n == 0) && auth.RegistryToken == "" { // that one is taken always
				t.Errorf("step %d: got %v", n, err)
			}
			told = append(told, fmt.Sprint(err))
			if err == nil {
				if err := s.Remove(ctx, ref+step.tag); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, endpoints, err := s.Explain(ctx, ref, auth)
		told = append(told, fmt.Sprintf("%+v %v", endpoints, err))
	}
	reg.tell(nil, false)
	takes.Store("Bearer " + token)
	if _, err := s.Pull(ctx, PullRequest{Ref: ref + ":v1", Auth: auths[0]}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	places := map[string]string{"log": log.b.String(), "errors and progress": strings.Join(told, "\n")}
	err := filepath.WalkDir(s.cfg.Root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			places[path] = read(t, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for place, text := range places {
		for _, s := range []string{"sentinel", base64.StdEncoding.EncodeToString([]byte("joe:" + pass)), url.QueryEscape(refresh)} {
			if i := strings.Index(text, s); i >= 0 {
				t.Errorf("%s: ...%s", place, text[max(0, i-200):min(len(text), i+50)])
			}
		}
	}
	if len(places) < 5 || len(told) < 20 {
		t.Errorf("only %d places and %d texts were looked at", len(places), len(told))
	}
}
