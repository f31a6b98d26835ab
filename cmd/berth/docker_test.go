package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// dockerVerb is a verb of docker's command line (28) with its flags.
type dockerVerb struct {
	name  string
	flags string            // without those that every verb has
	out   map[string]string // flags that are left out, and why; "*" all others, "" is why the verb is
}

const ofSwarm = "it is for swarm; Kubernetes does that"

func dockerVerbs() []dockerVerb {
	const run = "add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent cgroupns cidfile cpu-count cpu-percent cpu-period cpu-quota cpu-rt-period " +
		"cpu-rt-runtime cpu-shares cpus cpuset-cpus cpuset-mems device device-cgroup-rule device-read-bps device-read-iops device-write-bps device-write-iops disable-content-trust dns " +
		"dns-option dns-search domainname entrypoint env env-file expose gpus group-add health-cmd health-interval health-retries health-start-interval health-start-period health-timeout " +
		"help hostname init interactive io-maxbandwidth io-maxiops ip ip6 ipc isolation kernel-memory label label-file link link-local-ip log-driver log-opt mac-address memory " +
		"memory-reservation memory-swap memory-swappiness mount name network network-alias no-healthcheck oom-kill-disable oom-score-adj pid pids-limit platform privileged publish publish-all " +
		"pull quiet read-only restart rm runtime security-opt shm-size stop-signal stop-timeout storage-opt sysctl tmpfs tty ulimit use-api-socket user userns uts volume volume-driver " +
		"volumes-from workdir"
	const kept = "an image has one platform here"
	bridges := map[string]string{"*": "networks are bridges of this node, with what these can do"}
	moving := map[string]string{"": "which network a pod is on is settled when it is made"}
	buildkit := "it is BuildKit's own, beyond what a Dockerfile and its context need"
	return []dockerVerb{
		{"attach", "detach-keys no-stdin sig-proxy", map[string]string{"sig-proxy": "signals are passed on, unless the container has a terminal"}},
		{"build", "add-host annotation allow attest build-arg build-context builder cache-from cache-to call cgroup-parent check file iidfile label load metadata-file network no-cache no-cache-filter output " +
			"platform progress provenance pull push quiet sbom secret shm-size ssh tag target ulimit", map[string]string{
			"add-host": "names come from the host's resolver", "annotation": buildkit, "allow": "nothing needs leave", "attest": buildkit, "build-context": buildkit, "builder": "there is one: the daemon",
			"cache-from": "the cache is the node's own", "cache-to": "the cache is the node's own", "call": buildkit, "cgroup-parent": "commands run in the daemon's own", "check": buildkit,
			"load": "the image is in the store when it is built", "metadata-file": "--iidfile tells the id", "no-cache-filter": buildkit, "output": "berth save, berth push", "provenance": buildkit,
			"push": "berth push", "sbom": buildkit, "shm-size": "commands have 64 MiB", "ssh": "mount a key by --secret", "ulimit": "commands have those of the runtime handler"}},
		{"commit", "author change message no-pause pause", nil},
		{"container prune", "filter force", nil},
		{"cp", "archive follow-link quiet", nil},
		{"create", run, nil},
		{"diff", "", nil},
		{"events", "filter format since until", map[string]string{"until": "the journal ends now, or with -f never"}},
		{"exec", "detach detach-keys env env-file interactive privileged tty user workdir", nil},
		{"export", "", map[string]string{"": "berth cp CONTAINER:/ - writes the same tar"}},
		{"history", "format human no-trunc platform quiet", map[string]string{"human": "--output json has exact sizes and times", "platform": kept, "quiet": "layers have no ids"}},
		{"images", "all digests filter format no-trunc quiet tree", map[string]string{"tree": kept}},
		{"import", "change message platform", map[string]string{"*": "here it takes images from other stores; a file system becomes one by berth build: FROM scratch, ADD root.tar /"}},
		{"info", "format", nil},
		{"inspect", "format size type", map[string]string{"size": "berth ps --size, berth df"}},
		{"kill", "signal", nil},
		{"load", "input platform quiet", map[string]string{"platform": "of an index that which is this machine's is loaded", "quiet": "it shows no bars"}},
		{"login", "password password-stdin username", nil},
		{"logout", "", nil},
		{"logs", "details follow since tail timestamps until", map[string]string{"details": "lines have no attributes"}},
		{"network connect", "alias driver-opt gw-priority ip ip6 link link-local-ip", moving},
		{"network create", "attachable aux-address config-from config-only driver gateway ingress internal ip-range ipam-driver ipam-opt ipv4 ipv6 label opt scope subnet", bridges},
		{"network disconnect", "force", moving},
		{"network inspect", "format verbose", bridges},
		{"network ls", "filter format no-trunc quiet", bridges},
		{"network prune", "filter force", bridges},
		{"network rm", "force", bridges},
		{"pause", "", nil},
		{"port", "", nil},
		{"ps", "all filter format last latest no-trunc quiet size", nil},
		{"pull", "all-tags disable-content-trust platform quiet", nil},
		{"push", "all-tags disable-content-trust platform quiet", map[string]string{"quiet": "send stderr elsewhere"}},
		{"rename", "", nil},
		{"restart", "signal time", nil},
		{"rm", "force link volumes", nil},
		{"rmi", "force no-prune platform", nil},
		{"run", run + " detach detach-keys sig-proxy", nil},
		{"save", "output platform", map[string]string{"platform": kept, "output": "-o is --file here; --output is the form of answers"}},
		{"search", "", map[string]string{"": "it asks docker's hub, and no other registry has what answers"}},
		{"start", "attach checkpoint checkpoint-dir detach-keys interactive", map[string]string{"checkpoint": "a pod is restored through CRI", "checkpoint-dir": "a pod is restored through CRI"}},
		{"stats", "all format no-stream no-trunc", map[string]string{"all": "what does not run uses nothing"}},
		{"stop", "signal time", nil},
		{"system df", "format verbose", map[string]string{"verbose": "everything is shown"}},
		{"system prune", "all filter force volumes", map[string]string{"filter": "berth container prune and berth volume prune have filters"}},
		{"tag", "", nil},
		{"top", "", nil},
		{"unpause", "", nil},
		{"update", "", map[string]string{"": "limits are said when a container is made; the kubelet changes those of its own"}},
		{"version", "format", nil},
		{"volume create", "driver label name opt", map[string]string{"name": "it is the argument"}},
		{"volume inspect", "format", nil},
		{"volume ls", "filter format quiet", nil},
		{"volume prune", "all filter force", nil},
		{"volume rm", "force", nil},
		{"volume update", "", map[string]string{"": ofSwarm}},
		{"wait", "", nil},
		{"swarm, node, service, stack, secret, config", "", map[string]string{"": ofSwarm}},
		{"context", "", map[string]string{"": "the daemon is this node's; --socket or $BERTH_SOCKET names another"}},
		{"plugin", "", map[string]string{"": "NRI has plugins, and CDI has devices"}},
		{"manifest, trust", "", map[string]string{"": "they work on registries, without a daemon: skopeo, cosign, crane"}},
		{"checkpoint", "", map[string]string{"": "the kubelet and crictl checkpoint make checkpoints"}},
		{"buildx, builder, compose", "", map[string]string{"": "they are plugins of docker's; berth build and berth apply do the main part"}},
	}
}

// of finds the verb, also below the groups that no help shows.
func (v dockerVerb) of(root *cobra.Command) *cobra.Command {
	cmd := root
	for word := range strings.SplitSeq(v.name, " ") {
		i := slices.IndexFunc(cmd.Commands(), func(sub *cobra.Command) bool { return sub.Name() == word })
		if i < 0 {
			return nil
		}
		cmd = cmd.Commands()[i]
	}
	return cmd
}

// flagOf finds a flag by docker's name, with those that every verb has.
func flagOf(cmd *cobra.Command, name string) *pflag.Flag {
	cmd.InitDefaultHelpFlag()
	if f := cmd.Flags().Lookup(name); f != nil {
		return f
	}
	return cmd.InheritedFlags().Lookup(name)
}

// dockerPage is deploy/docker.md: what became of each of docker's verbs and
// flags. What is done and what is refused is read from the commands; what is
// left out must say why.
func dockerPage(root *cobra.Command) ([]byte, []string) {
	var b, tail bytes.Buffer
	var wrong []string
	b.WriteString("# docker's verbs and flags\n\nMade from the commands by `make reference`. *Done* is docker's, with docker's meaning; *refused* flags are known, do nothing and\n" +
		"say why and what to do instead; *left out* ones are unknown; *own* ones docker has not. Every verb has `--output`, `--format`\n" +
		"and `--socket`. `berth container VERB` and `berth image VERB` are the same verbs by docker's longer names.\n\n" +
		"Three things differ on purpose. A container runs once: `start` of one that has ended, `restart` and `--restart` make a new attempt\n" +
		"with a new id, the same name and volumes, and a fresh writable layer, unless `--keep`. What ended gives its address and ports back.\n" +
		"And a pod is around each container: `--pod` puts a container beside others.\n\n" +
		"| Verb | Done | Refused | Left out, and why | Own |\n|---|---|---|---|---|\n")
	reasons := map[string]string{}
	for _, v := range dockerVerbs() {
		cmd := v.of(root)
		if cmd == nil {
			if v.out[""] == "" {
				wrong = append(wrong, "there is no berth "+v.name+", and no word why")
			}
			fmt.Fprintf(&b, "| %s | | | the verb: %s | |\n", v.name, v.out[""])
			continue
		}
		var done, refused, out, own []string
		known := map[string]bool{"help": true, "output": true, "socket": true, "format": true}
		for name := range strings.FieldsSeq(v.flags) {
			known[name] = true
			f := flagOf(cmd, name)
			why := cmp.Or(v.out[name], v.out["*"])
			if name == "output" { // docker save's, which is another
				f = nil
			}
			switch {
			case f == nil && why == "":
				wrong = append(wrong, "berth "+v.name+" has no --"+name+", and no word why")
			case f == nil:
				out = append(out, fmt.Sprintf("`--%s`: %s", name, why))
			case f.Hidden:
				refused = append(refused, "`--"+name+"`")
				if why, ok := strings.CutPrefix(f.Usage, refusedUsage); ok {
					reasons[name] = why
				}
			default:
				done = append(done, "`--"+name+"`")
			}
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !known[f.Name] && !f.Hidden {
				own = append(own, "`--"+f.Name+"`")
			}
		})
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", v.name, strings.Join(done, " "), strings.Join(refused, " "), strings.Join(out, "; "), strings.Join(own, " "))
	}
	tail.WriteString("\nRefused flags of `run` and `create`, why, and what to do instead:\n\n| Flag | Why | Instead |\n|---|---|---|\n")
	for _, r := range refusedRunFlags() {
		if reasons[r.name] != "" {
			fmt.Fprintf(&tail, "| `--%s` | %s | %s |\n", r.name, r.why, r.do)
		}
	}
	return append(b.Bytes(), tail.Bytes()...), wrong
}

// TestReferenceIsUpToDateWithDocker holds the page to the commands.
func TestReferenceIsUpToDateWithDocker(t *testing.T) {
	page, wrong := dockerPage(reference(t))
	for _, w := range wrong {
		t.Error(w)
	}
	const file = "../../deploy/docker.md"
	if *update {
		if err := os.WriteFile(file, page, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if old, err := os.ReadFile(file); err != nil || !bytes.Equal(old, page) {
		t.Errorf("%s differs from what berth --help says: run make reference (%v)", file, err)
	}
}

// TestRefusedFlags has each of them say why, and what to do.
func TestRefusedFlags(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	n.must(t, "run", "-d", "--name", "web", "box", "sleep")
	for _, r := range refusedRunFlags() {
		if f := runVerb(&cli{}).Flags().Lookup(r.name); !f.Hidden {
			continue // another has come to do it
		}
		args := []string{"run", "--" + r.name + "=1", "box"}
		if r.bool {
			args[1] = "--" + r.name
		}
		code, _, errs := n.berth(args...)
		if want := fmt.Sprintf("berth: cannot run box with --%s\n  why: %s\n  try: %s\n", r.name, r.why, r.do); code != exitOwn || errs != want {
			t.Errorf("%v: %d %q, want %q", args, code, errs, want)
		}
	}
	for _, args := range [][]string{{"stop", "-s", "INT", "web"}, {"exec", "--privileged", "web", "true"}, {"pull", "-a", "box"}, {"rm", "-l", "web"}, {"rmi", "--no-prune", "box"}} {
		if code, _, errs := n.berth(args...); code != exitOwn || !strings.Contains(errs, "  why: ") || strings.Contains(errs, "unknown") {
			t.Errorf("%v: %d %q", args, code, errs)
		}
	}
	if len(n.pods) != 1 {
		t.Errorf("%d pods, want 1", len(n.pods))
	}
}
