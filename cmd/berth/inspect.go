package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func inspectVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "inspect CONTAINER|POD|IMAGE...",
		Short:   "Show everything about containers, pods or images, as JSON",
		Long:    "Show everything about containers, pods or images, as JSON. With --output pod it is a manifest of the\npod, with which berth apply makes the same again.",
		Example: examples("berth inspect web", "berth inspect --output pod web >pod.yaml"),
	}
	return c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		if c.form.kind == asPod {
			for i, name := range args {
				if i > 0 {
					fmt.Fprintln(c.out, "---")
				}
				if err := c.podManifest(ctx, cl, inv, name); err != nil {
					return err
				}
			}
			return nil
		}
		found := []*inspection{}
		err = c.each(args, func(name string) error {
			one, err := cl.inspect(ctx, inv, name)
			if err == nil {
				found = append(found, one)
			}
			return err
		})
		return errors.Join(c.show(found), err)
	})
}

// inspection is one object: what CRI says of it, and the daemon's own notes.
type inspection struct {
	Kind   string                     `json:"kind"`
	Status json.RawMessage            `json:"status"`
	Info   map[string]json.RawMessage `json:"info,omitempty"`
}

// inspect looks for a container or pod first, as docker does, then for an
// image.
func (cl *client) inspect(ctx context.Context, inv *inventory, name string) (*inspection, error) {
	o, notFound := inv.choose(name, append(inv.allContainers(), inv.allPods()...), "container, pod or image")
	switch {
	case notFound == nil && o.container != nil:
		r, err := cl.runtime.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: o.id(), Verbose: true})
		if err != nil {
			return nil, cannot(err, "inspect %s", o)
		}
		return newInspection("container", r.Status, r.Info)
	case notFound == nil:
		r, err := cl.runtime.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: o.id(), Verbose: true})
		if err != nil {
			return nil, cannot(err, "inspect %s", o)
		}
		return newInspection("pod", r.Status, r.Info)
	}
	image, err := cl.admin.InspectImage(ctx, name)
	if err != nil {
		return nil, notFound // says that nothing of any kind has this name
	}
	status, err := json.Marshal(image)
	return &inspection{Kind: "image", Status: status}, err
}

func newInspection(kind string, status proto.Message, info map[string]string) (*inspection, error) {
	text, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(status)
	if err != nil {
		return nil, cannot(err, "print the %s", kind)
	}
	one := &inspection{Kind: kind, Status: text}
	for key, value := range info {
		if one.Info == nil {
			one.Info = map[string]json.RawMessage{}
		}
		if json.Valid([]byte(value)) {
			one.Info[key] = json.RawMessage(value)
		} else if quoted, err := json.Marshal(value); err == nil {
			one.Info[key] = quoted
		}
	}
	return one, nil
}
