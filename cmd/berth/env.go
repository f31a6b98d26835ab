package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// parseEnv joins --env-file and --env, in this order, so that what stands on
// the command line wins. NAME alone takes the value from our own environment,
// and stays out when there is none.
func parseEnv(files, vars []string, lookup func(string) (string, bool)) ([]*criv1.KeyValue, error) {
	var lines []string
	for _, file := range files {
		read, err := readEnvFile(file)
		if err != nil {
			return nil, err
		}
		lines = append(lines, read...)
	}
	lines = append(lines, vars...)

	var envs []*criv1.KeyValue
	at := map[string]int{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, "=")
		if name == "" || strings.ContainsAny(line, "\x00") {
			return nil, &problem{
				what: fmt.Sprintf("cannot set the variable %q", line),
				why:  "it has no name",
				do:   "write NAME=VALUE, or NAME alone to pass on your own",
			}
		}
		if !ok {
			if value, ok = lookup(name); !ok {
				continue
			}
		}
		kv := &criv1.KeyValue{Key: name, Value: []byte(value)}
		if i, seen := at[name]; seen {
			envs[i] = kv
			continue
		}
		at[name] = len(envs)
		envs = append(envs, kv)
	}
	return envs, nil
}

// readEnvFile reads one variable a line. Empty lines and those that start
// with # do not count; quotes are part of the value, as docker has it.
func readEnvFile(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, &problem{what: "cannot read the environment file " + file, why: why("", err), do: "check the path given to --env-file"}
	}
	defer f.Close()
	var lines []string
	scan := bufio.NewScanner(f)
	for scan.Scan() {
		line := strings.TrimLeft(scan.Text(), " \t")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		lines = append(lines, line)
	}
	if err := scan.Err(); err != nil {
		return nil, &problem{what: "cannot read the environment file " + file, why: err.Error(), do: "check that it is text with one NAME=VALUE a line"}
	}
	return lines, nil
}

// parseLabels reads NAME=VALUE or NAME.
func parseLabels(specs []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, s := range specs {
		name, value, _ := strings.Cut(s, "=")
		if name == "" {
			return nil, &problem{what: fmt.Sprintf("cannot set the label %q", s), why: "it has no name", do: "write --label NAME=VALUE"}
		}
		if strings.HasPrefix(name, ownPrefix) || strings.HasPrefix(name, "io.kubernetes.") {
			return nil, &problem{
				what: fmt.Sprintf("cannot set the label %q", s),
				why:  "labels of io.berth and io.kubernetes say who looks after a container",
				do:   "choose a name of your own, for example com.example." + strings.TrimPrefix(name, ownPrefix),
			}
		}
		labels[name] = value
	}
	return labels, nil
}
