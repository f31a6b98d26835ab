package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What berth writes on the pods and containers that it makes.
const (
	ownPrefix       = "io.berth."
	runLabel        = ownPrefix + "run"     // on the pod and the container of a pod of one
	portsAnnotation = ownPrefix + "ports"   // on the pod: published ports as ps shows them
	commandNote     = ownPrefix + "command" // on the container: its command, a JSON array
	nameLabel       = ownPrefix + "name"    // on the container: what berth rename called it
)

// Where crictl looks for the name of a container's pod. The kubelet writes
// them too.
const (
	podNameLabel      = "io.kubernetes.pod.name"
	podNamespaceLabel = "io.kubernetes.pod.namespace"
)

// What the kubelet writes on its own.
const (
	kubeletContainerLabel = "io.kubernetes.container.name"
	kubeletPodLabel       = "io.kubernetes.pod.uid"
)

// object is a container or a pod: exactly one is set for a pod; a container
// comes with its pod if that is still there.
type object struct {
	container *criv1.Container
	pod       *criv1.PodSandbox
}

func (o object) id() string {
	if o.container != nil {
		return o.container.Id
	}
	return o.pod.Id
}

// kind and name as one writes them in a sentence: "container web".
func (o object) String() string {
	if o.container != nil {
		return "container " + o.name()
	}
	return "pod " + o.name()
}

// name is the shortest thing that a person may type for it, given no other
// object of that name.
func (o object) name() string {
	switch {
	case o.container == nil:
		return podName(o.pod)
	case o.ours() || o.pod == nil:
		return o.containerName()
	}
	return podName(o.pod) + "/" + o.containerName()
}

// containerName is the container's own name, without its pod's.
func (o object) containerName() string {
	if name := o.container.Labels[nameLabel]; name != "" {
		return name
	}
	return o.container.GetMetadata().GetName()
}

func podName(p *criv1.PodSandbox) string {
	if p.Labels[runLabel] != "" {
		return p.GetMetadata().GetName()
	}
	return p.GetMetadata().GetNamespace() + "/" + p.GetMetadata().GetName()
}

// ours tells whether berth run made it.
func (o object) ours() bool { return o.pod != nil && o.pod.Labels[runLabel] != "" }

// kubelets tells whether the kubelet looks after it.
func (o object) kubelets() bool {
	if o.container != nil && o.container.Labels[kubeletContainerLabel] != "" {
		return true
	}
	return o.container == nil && o.pod.Labels[kubeletPodLabel] != ""
}

// guard refuses to lay hands on what the kubelet looks after, unless forced.
func (o object) guard(verb string, force bool) error {
	if force || !o.kubelets() {
		return nil
	}
	return &problem{
		what: fmt.Sprintf("cannot %s %s", verb, o),
		why:  "it is the kubelet's, which will make it again",
		do:   fmt.Sprintf("change its pod with kubectl, or insist with: berth %s --force %s", verb, o.id()[:shortID]),
	}
}

// inventory is every container and pod at one moment.
type inventory struct {
	containers []*criv1.Container
	pods       map[string]*criv1.PodSandbox
}

// look asks the daemon what there is.
func (cl *client) look(ctx context.Context) (*inventory, error) {
	pods, err := cl.runtime.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
	if err != nil {
		return nil, cannot(err, "list the pods")
	}
	containers, err := cl.runtime.ListContainers(ctx, &criv1.ListContainersRequest{})
	if err != nil {
		return nil, cannot(err, "list the containers")
	}
	inv := &inventory{containers: containers.Containers, pods: map[string]*criv1.PodSandbox{}}
	for _, p := range pods.Items {
		inv.pods[p.Id] = p
	}
	for _, c := range inv.containers {
		// A pod of one is called as its container is.
		if p, name := inv.pods[c.PodSandboxId], c.Labels[nameLabel]; name != "" && p != nil && p.Labels[runLabel] != "" && p.GetMetadata().GetName() == c.GetMetadata().GetName() {
			p.Labels[logFolderLabel] = logFolderName(p.Metadata)
			p.Metadata.Name = name
		}
	}
	return inv, nil
}

// of returns the containers of a pod.
func (inv *inventory) of(podID string) []*criv1.Container {
	var all []*criv1.Container
	for _, c := range inv.containers {
		if c.PodSandboxId == podID {
			all = append(all, c)
		}
	}
	return all
}

// find resolves a name to a container or a pod: the whole id, then a name,
// then a prefix of an id. A container hides its pod of the same name.
func (inv *inventory) find(name string) (object, error) {
	return inv.choose(name, append(inv.allContainers(), inv.allPods()...), "container or pod")
}

// findContainer resolves a name to a container. The name of a pod stands for
// its container if it has just one.
func (inv *inventory) findContainer(name string) (object, error) {
	o, err := inv.find(name)
	if err != nil || o.container != nil {
		return o, err
	}
	inside := inv.of(o.pod.Id)
	if len(inside) == 1 {
		return object{container: inside[0], pod: o.pod}, nil
	}
	why := "it is a pod without containers"
	if len(inside) > 1 {
		var names []string
		for _, c := range inside {
			names = append(names, object{container: c}.containerName())
		}
		slices.Sort(names)
		why = "it is a pod with the containers " + strings.Join(slices.Compact(names), ", ")
	}
	return object{}, &problem{
		what: "cannot choose a container by " + name,
		why:  why,
		do:   fmt.Sprintf("name the container: %s/CONTAINER", podName(o.pod)),
	}
}

func (inv *inventory) allContainers() []object {
	var all []object
	for _, c := range inv.containers {
		all = append(all, object{container: c, pod: inv.pods[c.PodSandboxId]})
	}
	return all
}

func (inv *inventory) allPods() []object {
	var all []object
	for _, p := range inv.pods {
		all = append(all, object{pod: p})
	}
	return all
}

func (inv *inventory) choose(name string, all []object, what string) (object, error) {
	if name == "" {
		return object{}, &problem{what: "cannot find a " + what, why: "its name is empty", do: "see what there is with: berth ps -a"}
	}
	for _, o := range all {
		if o.id() == name {
			return o, nil
		}
	}
	found := newest(filter(all, func(o object) bool { return slices.Contains(o.names(), name) }))
	if slices.ContainsFunc(found, func(o object) bool { return o.container != nil }) {
		found = filter(found, func(o object) bool { return o.container != nil })
	}
	if len(found) == 0 {
		found = filter(all, func(o object) bool { return strings.HasPrefix(o.id(), name) })
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return object{}, &problem{
			what: fmt.Sprintf("cannot find %s %s", what, name),
			why:  "nothing has this name, and no id begins with it",
			do:   "see what there is with: berth ps -a, berth pods, berth images",
		}
	}
	return object{}, ambiguous(name, found)
}

// names is everything but the id by which o may be called.
func (o object) names() []string {
	pod := o.pod.GetMetadata()
	if o.container == nil {
		return []string{pod.GetName(), pod.GetNamespace() + "/" + pod.GetName()}
	}
	c := o.containerName()
	return []string{c, pod.GetName() + "/" + c, pod.GetNamespace() + "/" + pod.GetName() + "/" + c}
}

// newest keeps of the attempts of one container, or of one pod, the last: the
// kubelet leaves the ended ones around under the same name.
func newest(found []object) []object {
	type identity struct{ kind, podUID, container string }
	of := func(o object) identity {
		if o.container == nil {
			return identity{"pod", o.pod.GetMetadata().GetUid(), ""}
		}
		return identity{"container", o.pod.GetMetadata().GetUid(), o.container.GetMetadata().GetName()}
	}
	last := map[identity]object{}
	for _, o := range found {
		if old, ok := last[of(o)]; !ok || o.createdAt() > old.createdAt() {
			last[of(o)] = o
		}
	}
	return filter(found, func(o object) bool { return last[of(o)].id() == o.id() })
}

func (o object) createdAt() int64 {
	if o.container != nil {
		return o.container.CreatedAt
	}
	return o.pod.CreatedAt
}

func ambiguous(name string, found []object) error {
	var list []string
	for _, o := range found {
		list = append(list, fmt.Sprintf("%s (%s)", o.id()[:min(shortID, len(o.id()))], o))
	}
	slices.Sort(list)
	return &problem{
		what: fmt.Sprintf("cannot choose by %q", name),
		why:  fmt.Sprintf("it fits %d: %s", len(list), strings.Join(list, ", ")),
		do:   "write more of the id, or namespace/pod/container",
	}
}

func filter[T any](all []T, keep func(T) bool) []T {
	var out []T
	for _, v := range all {
		if keep(v) {
			out = append(out, v)
		}
	}
	return out
}
