package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v3"
)

// The forms in which answers are printed. A template is go-template=TEXT, or
// docker's --format TEXT.
const (
	asTable    = "table"
	asJSON     = "json"
	asYAML     = "yaml"
	asTemplate = "go-template="
	asPod      = "pod" // a manifest; of inspect only
)

// form is what --output or --format asks for, once it is checked.
type form struct {
	kind     string // one of the above
	template *template.Template
	titles   bool // docker's "table TEMPLATE": print the names of the columns first
	lines    bool // docker's --format json: one object a line
	text     string
}

// readForm checks the flags.
func readForm(output, format string) (form, error) {
	text, isTemplate := strings.CutPrefix(output, asTemplate)
	f := form{kind: output, text: text}
	switch {
	case format == "":
	case output != asTable:
		return f, &problem{what: "cannot print in two ways", why: "both --output and --format say how", do: "leave out one of the two"}
	case format == asJSON:
		return form{kind: asJSON, lines: true}, nil
	case format == asTable || format == asYAML:
		return form{kind: format}, nil
	default:
		isTemplate = true
		f.text, f.titles = strings.CutPrefix(format, "table ")
	}
	if isTemplate {
		t, err := template.New("").Funcs(templateFuncs()).Option("missingkey=error").Parse(f.text)
		if err != nil {
			return f, &problem{what: "cannot print by the template " + f.text, why: strings.TrimPrefix(err.Error(), "template: "), do: "write for example --format '{{.ID}} {{.Names}}'; --output json shows the names"}
		}
		f.kind, f.template = asTemplate, t
		return f, nil
	}
	if f.kind != asTable && f.kind != asJSON && f.kind != asYAML {
		return f, &problem{what: fmt.Sprintf("cannot print as %q", output), why: "there is no such format", do: "choose --output table, json, yaml or go-template=TEMPLATE"}
	}
	return f, nil
}

// templateFuncs are docker's.
func templateFuncs() template.FuncMap {
	return template.FuncMap{
		"json": func(v any) (string, error) {
			text, err := json.Marshal(v)
			return string(text), err
		},
		"join": func(v []any, sep string) string {
			return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(v)), sep), "[]")
		},
		"split":    strings.Split,
		"lower":    strings.ToLower,
		"upper":    strings.ToUpper,
		"truncate": func(s string, n int) string { return s[:min(len(s), max(0, n))] },
		"println":  fmt.Sprintln,
	}
}

// structured tells whether a program reads the answer, rather than a person: it
// gets all of it, and nothing shortened.
func (c *cli) structured() bool { return c.form.kind != asTable && c.form.kind != "" }

// show prints the answer of a verb as --output says: a list, or one object.
func (c *cli) show(v any) error {
	switch c.form.kind {
	case asYAML:
		plain, err := plainly(v)
		if err != nil {
			return err
		}
		enc := yaml.NewEncoder(c.out)
		enc.SetIndent(2)
		return enc.Encode(plain)
	case asTemplate:
		return c.showByTemplate(v)
	}
	if c.form.lines {
		return c.eachOf(v, func(one any) error { return json.NewEncoder(c.out).Encode(one) })
	}
	return c.json(v)
}

// showLine prints one of many objects that come one after another.
func (c *cli) showLine(v any) error {
	switch c.form.kind {
	case asYAML:
		if _, err := fmt.Fprintln(c.out, "---"); err != nil {
			return err
		}
		return c.show(v)
	case asTemplate:
		return c.showByTemplate(v)
	}
	return json.NewEncoder(c.out).Encode(v)
}

// eachOf calls do for each element of a list, or for what is none.
func (c *cli) eachOf(v any, do func(any) error) error {
	list := reflect.ValueOf(v)
	if list.Kind() != reflect.Slice {
		return do(v)
	}
	for i := range list.Len() {
		if err := do(list.Index(i).Interface()); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) showByTemplate(v any) error {
	if c.form.titles {
		names := strings.NewReplacer("{{", "", "}}", "", ".", "").Replace(c.form.text)
		if _, err := fmt.Fprintln(c.out, strings.ToUpper(names)); err != nil {
			return err
		}
	}
	return c.eachOf(v, func(one any) error {
		fields, err := plainly(one)
		if err != nil {
			return err
		}
		fields = goNames(fields)
		if d, ok := one.(interface{ docker() map[string]any }); ok {
			if m, ok := fields.(map[string]any); ok {
				for name, value := range d.docker() {
					m[name] = value
				}
			}
		}
		var text strings.Builder
		if err := c.form.template.Execute(&text, fields); err != nil {
			return &problem{what: "cannot print by the template " + c.form.text, why: strings.TrimPrefix(err.Error(), "template: "), do: "see the names with --output json; as in docker they may begin with a capital letter: .ID, .ExitCode"}
		}
		_, err = fmt.Fprintln(c.out, text.String())
		return err
	})
}

// plainly is v as JSON has it: maps, lists, text, numbers.
func plainly(v any) (out any, err error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(strings.NewReader(string(text)))
	dec.UseNumber() // sizes must not become 1e+06
	if err := dec.Decode(&out); err != nil {
		return nil, err
	}
	return numbers(out), nil
}

// numbers makes whole numbers of JSON's.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	}
	return v
}

// goNames adds to each field its name as docker's templates write it: exit_code
// is ExitCode too, and id is ID and Id.
func goNames(v any) any {
	switch v := v.(type) {
	case map[string]any:
		more := map[string]any{}
		for k, value := range v {
			if k != "labels" && k != "annotations" { // whose keys are people's
				value = goNames(value)
			}
			v[k] = value
			name := ""
			for part := range strings.SplitSeq(k, "_") {
				if part != "" {
					name += strings.ToUpper(part[:1]) + part[1:]
				}
			}
			more[name] = value
			if strings.HasSuffix(name, "Id") {
				more[strings.TrimSuffix(name, "Id")+"ID"] = value
			}
		}
		for k, value := range more {
			if _, ok := v[k]; !ok {
				v[k] = value
			}
		}
	case []any:
		for i := range v {
			v[i] = goNames(v[i])
		}
	}
	return v
}
