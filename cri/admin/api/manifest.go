package api

import "context"

// ManifestRequest brings a manifest: one or several Pods of Kubernetes, as YAML
// or JSON.
type ManifestRequest struct {
	Text   string `json:"text"`
	DryRun bool   `json:"dry_run,omitempty"` // only tell what would be done
}

// ManifestResult tells of each pod of a manifest, in its order. With an error it
// is not sent.
type ManifestResult struct {
	Pods []ManifestPod `json:"pods"`
}

// ManifestPod is what was done for one pod.
type ManifestPod struct {
	Namespace string          `json:"namespace"`
	Name      string          `json:"name"`
	ID        string          `json:"id,omitempty"`
	Change    string          `json:"change,omitempty"`  // created, unchanged or replaced; of Apply
	Differs   []string        `json:"differs,omitempty"` // fields, of replaced
	Images    []ManifestImage `json:"images,omitempty"`
}

// ManifestImage is an image that a pod needs, and when it is to be pulled.
type ManifestImage struct {
	Ref        string `json:"ref"`
	PullPolicy string `json:"pull_policy"` // Always, IfNotPresent or Never
}

// PodRequest names a pod.
type PodRequest struct {
	Pod string `json:"pod"`
}

// PodManifest is a manifest of a pod.
type PodManifest struct {
	Text string   `json:"text"`
	Lost []string `json:"lost,omitempty"` // what it cannot say of the pod
}

// Apply makes the pods of a manifest.
func (c *Client) Apply(ctx context.Context, r *ManifestRequest) ([]ManifestPod, error) {
	return manifestCall(ctx, c, "Apply", r)
}

// Delete ends and removes the pods of a manifest.
func (c *Client) Delete(ctx context.Context, r *ManifestRequest) ([]ManifestPod, error) {
	return manifestCall(ctx, c, "Delete", r)
}

func manifestCall(ctx context.Context, c *Client, name string, in *ManifestRequest) ([]ManifestPod, error) {
	r, err := call[ManifestResult](ctx, c, name, in)
	if err != nil {
		return nil, err
	}
	return r.Pods, nil
}

// Manifest gives a manifest of a pod.
func (c *Client) Manifest(ctx context.Context, pod string) (*PodManifest, error) {
	return call[PodManifest](ctx, c, "Manifest", &PodRequest{Pod: pod})
}
