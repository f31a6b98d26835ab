package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func inspectVerb(c *cli) *cobra.Command {
	var kind string
	cmd := &cobra.Command{
		Use:   "inspect CONTAINER|POD|IMAGE...",
		Short: "Show everything about containers, pods or images, as JSON",
		Long: "Show everything about containers, pods or images, as JSON. Templates know docker's names of the\n" +
			"common fields too: .State.Status, .State.ExitCode, .State.Health.Status, .Config.Image,\n" +
			".NetworkSettings.IPAddress, .RestartCount. With --output pod it is a manifest of the pod, with\n" +
			"which berth apply makes the same again.",
		Example: examples("berth inspect --output pod web >pod.yaml", "berth inspect -f '{{.State.Status}} {{.NetworkSettings.IPAddress}}' web"),
	}
	cmd.Flags().StringVarP(&c.format, "format", "f", "", "docker's form of the answer: json, or a template")
	cmd.Flags().StringVar(&kind, "type", "", "look only for a container, pod or image of that name")
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
			one, err := cl.inspect(ctx, inv, name, kind)
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
	Local  *api.Local                 `json:"local,omitempty"` // restarts and health

	dockers map[string]any
}

// docker are the names that templates for docker use.
func (i *inspection) docker() map[string]any { return i.dockers }

// inspect looks for a container or pod first, as docker does, then for an
// image.
func (cl *client) inspect(ctx context.Context, inv *inventory, name, kind string) (*inspection, error) {
	all := map[string][]object{"": append(inv.allContainers(), inv.allPods()...), "container": inv.allContainers(), "pod": inv.allPods(), "image": nil}
	among, ok := all[kind]
	if !ok {
		return nil, &problem{what: "cannot inspect " + name, why: fmt.Sprintf("there is no type %q", kind), do: "choose --type container, pod or image; berth volume inspect and berth network inspect show the others"}
	}
	what := kind
	if what == "" {
		what = "container, pod or image"
	}
	o, notFound := inv.choose(name, among, what)
	switch {
	case notFound == nil && o.container != nil:
		r, err := cl.runtime.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: o.id(), Verbose: true})
		if err != nil {
			return nil, cannot(err, "inspect %s", o)
		}
		one, err := newInspection("container", r.Status, r.Info)
		if err != nil {
			return nil, err
		}
		return one, cl.asDocker(ctx, o, r.Status, one)
	case notFound == nil:
		r, err := cl.runtime.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: o.id(), Verbose: true})
		if err != nil {
			return nil, cannot(err, "inspect %s", o)
		}
		return newInspection("pod", r.Status, r.Info)
	}
	image, err := cl.admin.InspectImage(ctx, name)
	if err != nil || kind != "" && kind != "image" {
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

// asDocker adds what the daemon does for a local container, and docker's names.
func (cl *client) asDocker(ctx context.Context, o object, st *criv1.ContainerStatus, one *inspection) error {
	all, err := cl.admin.Local(ctx)
	if err != nil {
		return cannot(err, "inspect %s", o)
	}
	local := all[o.id()]
	if _, ok := all[o.id()]; ok {
		one.Local = &local
	}
	var info struct {
		Pid                      int
		ProcessLabel, MountLabel string
	}
	_ = json.Unmarshal(one.Info["info"], &info) // of a daemon that says less, 0
	state := map[string]any{
		"Status": stateName(st.State, local), "Running": st.State == criv1.ContainerState_CONTAINER_RUNNING, "Paused": local.Paused, "Restarting": local.Restarting,
		"ExitCode": int(st.ExitCode), "OOMKilled": st.Reason == "OOMKilled", "Error": st.Message, "Pid": info.Pid, "Dead": false,
		"StartedAt": nanos(st.StartedAt).UTC().Format(time.RFC3339Nano), "FinishedAt": nanos(st.FinishedAt).UTC().Format(time.RFC3339Nano),
	}
	if h := local.Health; h != nil {
		state["Health"] = map[string]any{"Status": h.Status, "FailingStreak": h.FailingStreak}
	}
	address := ""
	if o.pod != nil {
		if p, err := cl.runtime.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: o.pod.Id}); err == nil {
			address = p.GetStatus().GetNetwork().GetIp()
		}
	}
	policy := o.container.Annotations[restartNote]
	if policy == "" {
		policy = "no"
	}
	name, most, _ := strings.Cut(policy, ":")
	one.dockers = map[string]any{
		"Id": o.id(), "ID": o.id(), "Name": "/" + o.name(), "State": state, "RestartCount": local.Restarts, "Image": o.container.ImageId,
		"Created": nanos(st.CreatedAt).UTC().Format(time.RFC3339Nano), "LogPath": st.LogPath,
		"Config":          map[string]any{"Image": imageName(o.container, true), "Labels": st.Labels},
		"HostConfig":      map[string]any{"RestartPolicy": map[string]any{"Name": name, "MaximumRetryCount": most}},
		"NetworkSettings": map[string]any{"IPAddress": address},
		"ProcessLabel":    info.ProcessLabel, "MountLabel": info.MountLabel,
	}
	return nil
}
