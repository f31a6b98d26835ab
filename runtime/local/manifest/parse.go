package manifest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// The bounds on a text: what a person writes is far below, and an alias can
// stand for any amount of text.
const (
	maxText  = 1 << 20 // bytes
	maxNodes = 50_000
	maxPods  = 100
)

// Parse reads one or several documents, YAML or JSON. The error tells of every
// field that is not honoured and every value that cannot work, with its line.
func Parse(text []byte) ([]Pod, error) {
	if len(text) > maxText {
		return nil, errkind.New(errkind.InvalidArgument, "cannot read the manifest: it has %d bytes, and at most %d are read", len(text), maxText)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var pods []Pod
	r := &reader{}
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errkind.New(errkind.InvalidArgument, "cannot read the manifest: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if empty(&doc) {
			continue // what stands between two --- with nothing but comments
		}
		if len(pods) == maxPods {
			return nil, errkind.New(errkind.InvalidArgument, "cannot read the manifest: it has more than %d pods", maxPods)
		}
		pods = append(pods, r.pod(&doc))
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	if len(pods) == 0 {
		return nil, errkind.New(errkind.InvalidArgument, "cannot read the manifest: there is no Pod in it")
	}
	return pods, nil
}

// wrong is one thing that is.
type wrong struct {
	line int
	text string
}

// reader walks documents and collects what is wrong with them.
type reader struct {
	wrong []wrong
	nodes int
	lines map[string]int // of each path of the document under way
}

func (r *reader) err() error {
	if len(r.wrong) == 0 {
		return nil
	}
	slices.SortStableFunc(r.wrong, func(a, b wrong) int {
		return cmp.Or(cmp.Compare(a.line, b.line), strings.Compare(a.text, b.text))
	})
	var all []string
	for _, w := range r.wrong {
		all = append(all, w.text)
	}
	return errkind.New(errkind.InvalidArgument, "cannot honour the manifest: %s", strings.Join(all, "; "))
}

func (r *reader) refuse(line int, path, format string, args ...any) {
	r.wrong = append(r.wrong, wrong{line, fmt.Sprintf("line %d: %s: %s", line, path, fmt.Sprintf(format, args...))})
}

// at is refuse for a path that the walk has seen, or for the nearest one above.
func (r *reader) at(path, format string, args ...any) {
	for near := path; ; near = near[:max(0, strings.LastIndexAny(near, ".["))] {
		if line, ok := r.lines[near]; ok {
			r.refuse(line, path, format, args...)
			return
		}
	}
}

func (r *reader) pod(doc *yaml.Node) Pod {
	root := doc.Content[0]
	r.lines = map[string]int{"": root.Line}
	var p Pod
	before := len(r.wrong)
	r.walk(root, reflect.TypeFor[Pod](), "")
	if len(r.wrong) > before {
		return p // what follows would be about fields that are not there
	}
	if err := root.Decode(&p); err != nil {
		var types *yaml.TypeError
		if errors.As(err, &types) {
			for _, text := range types.Errors { // "line 7: cannot unmarshal ..."
				var line int
				_, _ = fmt.Sscanf(text, "line %d", &line)
				r.wrong = append(r.wrong, wrong{line, text})
			}
		} else {
			r.refuse(root.Line, "document", "%v", err)
		}
		return p
	}
	r.check(&p)
	return p
}

// empty tells whether a node says nothing.
func empty(n *yaml.Node) bool {
	switch n.Kind {
	case yaml.DocumentNode:
		return len(n.Content) == 0 || empty(n.Content[0])
	case yaml.AliasNode:
		return empty(n.Alias)
	case yaml.ScalarNode:
		return n.Tag == "!!null"
	}
	return len(n.Content) == 0
}

// walk holds a node to a type: every key must be one of its fields.
func (r *reader) walk(n *yaml.Node, t reflect.Type, path string) {
	if r.nodes++; r.nodes > maxNodes {
		if r.nodes == maxNodes+1 {
			r.refuse(n.Line, "document", "it has more than %d values", maxNodes)
		}
		return
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if empty(n) {
		return
	}
	switch t.Kind() {
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			r.refuse(n.Line, path, "it must be a list")
			return
		}
		for i, e := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			r.lines[at] = e.Line
			r.walk(e, t.Elem(), at)
		}
	case reflect.Struct:
		r.walkStruct(n, t, path)
	case reflect.Map:
		if n.Kind != yaml.MappingNode {
			r.refuse(n.Line, path, "it must be a mapping")
			return
		}
		for i := 0; i < len(n.Content); i += 2 {
			at := path + "." + n.Content[i].Value
			r.lines[at] = n.Content[i].Line
			r.walk(n.Content[i+1], t.Elem(), at)
		}
	default:
		if n.Kind != yaml.ScalarNode {
			r.refuse(n.Line, path, "it must be a single value")
		}
	}
}

func (r *reader) walkStruct(n *yaml.Node, t reflect.Type, path string) {
	if n.Kind != yaml.MappingNode {
		r.refuse(n.Line, path, "it must be a mapping")
		return
	}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := strings.TrimPrefix(path+"."+key.Value, ".")
		if key.Value == "<<" {
			r.refuse(key.Line, at, "merge keys are not read; write the fields out")
			continue
		}
		r.lines[at] = key.Line
		f, ok := fieldOf(t, key.Value)
		switch {
		case ok:
			r.walk(value, f.Type, at)
		case !empty(value):
			r.refuse(key.Line, at, "%s", notHonoured(key.Value))
		}
	}
}

// fieldOf is the field of t with that name in a manifest.
func fieldOf(t reflect.Type, key string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if name == key {
			return t.Field(i), true
		}
	}
	return reflect.StructField{}, false
}

// notHonoured says what to do instead of a field that people write often.
func notHonoured(key string) string {
	instead := map[string]string{
		"livenessProbe": "use berth run --health-cmd, or a kubelet", "readinessProbe": "it needs a kubelet", "startupProbe": "it needs a kubelet",
		"lifecycle": "let the program itself do it, or an init container", "envFrom": "write the variables out in env",
		"configMap": "put the files into a hostPath", "secret": "put the files into a hostPath that only root reads",
		"persistentVolumeClaim": "use a hostPath", "projected": "use a hostPath", "serviceAccountName": "it needs a cluster",
		"nodeSelector": "this is the only node", "affinity": "this is the only node", "tolerations": "this is the only node",
		"fsGroup": "give the files of the volume to the user that the container runs as", "hostAliases": "use names that DNS knows",
		"configMapKeyRef": "write the value", "secretKeyRef": "write the value", "resourceFieldRef": "write the value",
		"status": "take it out: it is not for you to set",
	}
	if do := instead[key]; do != "" {
		return "it is not honoured here: " + do
	}
	return "it is not honoured here, or Kubernetes has no such field"
}
