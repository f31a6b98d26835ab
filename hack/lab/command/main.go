// Command command starts a node of package lab that outlives it, and ends it:
// hack/lab.sh builds and runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/hack/lab"
)

// name is the variable that names the lab to the shell that has started it.
const name = "BERTH_LAB"

const usage = `usage: hack/lab.sh start [-registry] [-config FILE] [-parent DIR]    prints, for eval, the variables of a node that runs
       hack/lab.sh stop [DIR]...                                   ends it: that of BERTH_LAB, or those named`

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer cancel()
	var err error
	verb, args := "", os.Args[1:]
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	switch verb {
	case "start":
		err = start(ctx, args)
	case "stop":
		err = stop(args)
	default:
		err = errors.New(usage)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func start(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("start", flag.ExitOnError)
	flags.Usage = func() { fmt.Fprintln(os.Stderr, usage) }
	registry := flags.Bool("registry", false, "")
	config := flags.String("config", "", "")
	var o lab.Options
	flags.StringVar(&o.Parent, "parent", "", "")
	_ = flags.Parse(args) // it exits
	if flags.NArg() > 0 {
		return errors.New(usage)
	}
	if *config != "" {
		text, err := os.ReadFile(*config)
		if err != nil {
			return err
		}
		o.Config = string(text)
	}
	l, err := lab.New(o)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close(context.Background()))
		}
	}()
	if *registry {
		if err := l.StartRegistry(ctx); err != nil {
			return err
		}
	}
	if err := errors.Join(l.Start(ctx), l.Keep()); err != nil {
		return err
	}
	for _, v := range [][2]string{
		{name, l.Dir},
		{"BERTH_SOCKET", l.Socket}, // berth reads it
		{"CONTAINER_RUNTIME_ENDPOINT", "unix://" + l.Socket}, // crictl reads these two
		{"IMAGE_SERVICE_ENDPOINT", "unix://" + l.Socket},
		{"BERTH_KUBELET_ENDPOINT", "unix://" + l.Kubelet},
		{"BERTH_LAB_REGISTRY", l.Registry},
	} {
		if v[1] != "" {
			fmt.Printf("export %s='%s'\n", v[0], strings.ReplaceAll(v[1], "'", `'\''`))
		}
	}
	return nil
}

func stop(dirs []string) error {
	if len(dirs) == 0 {
		if dirs = []string{os.Getenv(name)}; dirs[0] == "" {
			return fmt.Errorf("%s is not set and no directory was named\n%s", name, usage)
		}
	}
	var errs []error
	for _, dir := range dirs {
		l, err := lab.Open(dir)
		if err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			err = l.End(ctx)
			cancel()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
