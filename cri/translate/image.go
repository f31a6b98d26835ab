package translate

import (
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/imageservice"
)

// Image gives the message for an image; whether it is pinned depends on who
// asks.
func Image(i imageservice.Image, pinned bool) *criv1.Image {
	out := &criv1.Image{
		Id:          i.ID,
		RepoTags:    i.Tags,
		RepoDigests: i.Digests,
		Size:        i.Size,
		Username:    i.Username,
		Spec:        &criv1.ImageSpec{Image: i.ID},
		Pinned:      pinned,
	}
	if i.UID != nil {
		out.Uid = &criv1.Int64Value{Value: *i.UID}
	}
	return out
}

// Auth translates the credentials of a pull; nil is anonymous.
func Auth(a *criv1.AuthConfig) *imageservice.Auth {
	if a == nil {
		return nil
	}
	return &imageservice.Auth{
		Username:      a.Username,
		Password:      a.Password,
		Auth:          a.Auth,
		IdentityToken: a.IdentityToken,
		RegistryToken: a.RegistryToken,
		ServerAddress: a.ServerAddress,
	}
}
