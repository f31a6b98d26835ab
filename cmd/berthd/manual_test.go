package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write deploy/man/berthd.8 and berthd.toml.5 anew")

// roff is text as it is in a page of the manual.
func roff(text string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)) {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			b.WriteString(`\&`)
		}
		b.WriteString(line)
	}
	return b.String()
}

// daemonPage is berthd(8), of the flags that there are.
func daemonPage() []byte {
	var b bytes.Buffer
	fmt.Fprint(&b, `.TH BERTHD 8 "" berth berth
.SH NAME
berthd \- container runtime for a Kubernetes node
.SH SYNOPSIS
.B berthd
[flags]
.br
.B berthd config
default | show [flags] | check [FILE...]
.br
.B berthd doctor
[flags]
.br
.B berthd teardown
[flags]
.br
.B berthd version
.SH DESCRIPTION
The daemon: it serves CRI v1 to the kubelet and to crictl, and the command
.BR berth (1).
Containers are children of
.BR berth-shim ,
which it starts, and go on when it ends, however that is.
.PP
.B config default
prints all keys of the configuration with their defaults,
.B config show
those that hold, as JSON, with the place that sets each,
.B config check
whether files can be used.
.B doctor
looks at what the node lacks and prints that as JSON;
.BR berth\-doctor (1)
shows it.
.B teardown
ends all pods and takes what berth has made out of the kernel; images stay. The daemon must not run.
.SH OPTIONS
They override the configuration.
`)
	newFlags("berthd", io.Discard).VisitAll(func(f *flag.Flag) {
		name, usage := flag.UnquoteUsage(f)
		fmt.Fprintf(&b, ".TP\n.BI \\-\\-%s \" %s\"\n%s", roff(f.Name), roff(name), roff(usage))
		if f.DefValue != "" && f.DefValue != "0" {
			fmt.Fprintf(&b, " (%s)", roff(f.DefValue))
		}
		fmt.Fprintln(&b)
	})
	fmt.Fprint(&b, `.SH SIGNALS
SIGTERM, SIGINT and SIGHUP end the daemon; containers go on. There is no reload: a restart reads the configuration anew.
.SH FILES
.TP
.I /etc/berth/config.toml, /etc/berth/conf.d/*.toml
Configuration; see
.BR berthd.toml (5).
.TP
.I /etc/berth/certs.d/HOST/hosts.toml
Registries and mirrors, in containerd's layout.
.TP
.I /var/lib/berth
What survives a reboot: images, records, volumes, logs.
.TP
.I /run/berth
What a reboot ends:
.I berth.sock
for people and crictl,
.I kubelet.sock
for the kubelet,
.I debug.sock
for root.
.SH SEE ALSO
.BR berth (1),
.BR berthd.toml (5)
`)
	return b.Bytes()
}

// configPage is berthd.toml(5): the sample is the documentation.
func configPage() []byte {
	return fmt.Appendf(nil, `.TH BERTHD.TOML 5 "" berth berth
.SH NAME
berthd.toml \- configuration of berthd
.SH DESCRIPTION
.I /etc/berth/config.toml
is read first, then
.I /etc/berth/conf.d/*.toml
in lexical order, then the flags; each changes only what it names. An unknown key is an error with file and line.
.B berth config check
looks at files,
.B berth config show \-\-origin
at what holds and why.
.SH KEYS
.nf
%s.fi
.SH SEE ALSO
.BR berthd (8)
`, roff(string(sampleConfig())))
}

// The pages are made of the flags and of the sample: run `make reference`.
func TestTheDaemonsPagesAreUpToDate(t *testing.T) {
	t.Parallel()
	for name, page := range map[string][]byte{"berthd.8": daemonPage(), "berthd.toml.5": configPage()} {
		path := "../../deploy/man/" + name
		if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, page) {
			continue
		}
		if !*update {
			t.Errorf("deploy/man/%s differs from what berthd says: run make reference", name)
		} else if err := os.WriteFile(path, page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
