package api

import "context"

// DoctorRequest says what to look at beside the node itself.
type DoctorRequest struct {
	// Registries are hosts to try to reach; "all" are those that the
	// configuration knows. Without any no network is asked.
	Registries []string `json:"registries,omitempty"`
}

// DoctorResult is what a look at the node found.
type DoctorResult struct {
	Findings []Finding `json:"findings"`
}

// Finding is what one check of the node says.
type Finding struct {
	Check   string `json:"check"`
	Verdict string `json:"verdict"` // "ok", "warn" or "fail"
	Reason  string `json:"reason"`
	Fix     string `json:"fix,omitempty"` // the command that mends it, or what to do
}

// Doctor looks at the node.
func (c *Client) Doctor(ctx context.Context, r *DoctorRequest) (*DoctorResult, error) {
	return call[DoctorResult](ctx, c, "Doctor", r)
}

// ConfigResult is the configuration that the daemon runs with.
type ConfigResult struct {
	Settings []Setting `json:"settings"`
}

// Setting is one key of the configuration.
type Setting struct {
	Key    string `json:"key"`    // "network.bridge"
	Value  string `json:"value"`  // as TOML has it; without passwords
	Origin string `json:"origin"` // "FILE:LINE", "--FLAG" or "default"
}

// Config tells the configuration that the daemon runs with.
func (c *Client) Config(ctx context.Context) ([]Setting, error) {
	r, err := call[ConfigResult](ctx, c, "Config", &Empty{})
	if err != nil {
		return nil, err
	}
	return r.Settings, nil
}
