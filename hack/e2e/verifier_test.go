//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-runtime/berth/hack/lab"
)

// TestImageVerifiers forbids an image by its name. The kubelet knows the
// refusal by its first word, under the code whose prefix it strips.
func TestImageVerifiers(t *testing.T) {
	dir := t.TempDir()
	policy := "#!/bin/sh\ncase \"$2\" in */shell:*) exit 0;; esac\necho nobody signed it\nexit 1\n"
	if err := os.WriteFile(filepath.Join(dir, "policy"), []byte(policy), 0o755); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, lab.Options{Config: fmt.Sprintf("image.verifiers_dir = %q", dir)})
	n.crictl("pull", n.shell)
	_, err := n.Pull(t.Context(), n.web)
	refused(t, "forbidden image", err, codes.Unknown)
	text := status.Convert(unwrap(err)).Message()
	if !strings.HasPrefix(text, "SignatureValidationFailed: ") || !strings.HasSuffix(text, "image verifier policy refuses it: nobody signed it") {
		t.Errorf("the text is %q", text)
	}
	if out := n.crictl("images", "-q"); strings.Contains(out, "\n") {
		t.Errorf("the node has the images %s", out)
	}
}
