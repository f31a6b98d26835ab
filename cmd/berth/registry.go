package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// registryVerb groups what concerns registries and no image in particular.
func registryVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "registry",
		Short:   "Look into how registries are reached",
		Example: examples("berth registry explain nginx", "berth registry explain registry.example.com/team/app:1"),
	}
	return c.group(cmd, registryExplainVerb(c))
}

func registryExplainVerb(c *cli) *cobra.Command {
	var creds string
	cmd := &cobra.Command{
		Use:     "explain IMAGE",
		Short:   "Tell where a pull would look for an image, in order, without doing it",
		Example: examples("berth registry explain nginx", "berth registry explain --output json quay.io/team/app:1"),
	}
	cmd.Flags().StringVar(&creds, "creds", "", "USER:PASSWORD as pull would be given (what docker login has written if not given)")
	return c.verb(cmd, cobra.ExactArgs(1), func(ctx context.Context, cl *client, args []string) error {
		auth, err := c.credentials(ctx, cl, args[0], creds)
		if err != nil {
			return err
		}
		e, err := cl.admin.ExplainRegistry(ctx, &api.ExplainRequest{Ref: args[0], Credentials: auth})
		if err != nil {
			return cannot(err, "explain %s", args[0])
		}
		if c.structured() {
			return c.show(e)
		}
		fmt.Fprintf(c.out, "%s is looked for at\n", e.Ref)
		for i, at := range e.Endpoints {
			fmt.Fprintf(c.out, "%d. %s\n", i+1, at.URL)
			for _, fact := range endpointFacts(at) {
				fmt.Fprintf(c.out, "   %-13s %s\n", fact[0], fact[1])
			}
		}
		return nil
	})
}

// endpointFacts lists what there is to say of an endpoint; what is as usual
// is left out.
func endpointFacts(e api.Endpoint) [][2]string {
	kind, source := "a mirror", e.Source
	if e.Server {
		kind = "the registry itself"
	}
	if source == "" {
		source = "no file: the default"
	}
	facts := [][2]string{
		{"what", kind + ", used to " + strings.Join(e.Capabilities, ", ")},
		{"configured by", source},
		{"credentials", e.Auth},
	}
	add := func(name, value string) {
		if value != "" {
			facts = append(facts, [2]string{name, value})
		}
	}
	add("ca", strings.Join(e.CA, ", "))
	for _, pair := range e.Client {
		add("client", pair[0]+" with "+pair[1])
	}
	if e.SkipVerify {
		add("certificate", "not verified")
	}
	add("headers", strings.Join(e.Headers, ", "))
	add("proxy", e.Proxy)
	return facts
}
