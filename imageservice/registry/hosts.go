package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// hubServer is where the registry of docker.io really is.
const hubServer = "registry-1.docker.io"

// capability is what an endpoint may be asked for. A mirror that may only
// "pull" serves what is named by digest, but is not trusted to say which
// digest a tag stands for.
type capability uint8

const (
	canPull capability = 1 << iota
	canResolve
	canPush

	canAll = canPull | canResolve | canPush
)

// host is one endpoint as configured.
type host struct {
	source      string   // file or directory that says so; empty if none does
	base        *url.URL // with the path up to the repository's name
	can         capability
	ca          []string    // files
	client      [][2]string // files of certificate and key
	skipVerify  bool
	header      http.Header
	dialTimeout time.Duration
}

// hostsFile is hosts.toml, in containerd's layout.
type hostsFile struct {
	Server string `toml:"server"`
	hostSettings
	Host map[string]hostSettings `toml:"host"`
}

// hostSettings may stand at the top, for the server, and in each host's table.
// The fields of type any are a string or a list.
type hostSettings struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   bool           `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// loadHosts gives the endpoints for a reference's host in the order to try
// them. The last one is the server.
func loadHosts(certsDirs []string, name string) ([]host, error) {
	for _, dir := range hostDirs(certsDirs, name) {
		file := filepath.Join(dir, "hosts.toml")
		text, err := os.ReadFile(file)
		switch {
		case err == nil:
			return fromFile(file, text, name)
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid):
			return nil, errkind.New(errkind.FailedPrecondition, "cannot read registry hosts: %w", err)
		}
		if h, ok := dockerCerts(dir, name); ok {
			h.source = dir
			return []host{h}, nil
		}
	}
	return []host{{base: defaultServer(name, false), can: canAll}}, nil
}

func fromFile(file string, text []byte, name string) ([]host, error) {
	hosts, err := parseHosts(file, text, name)
	for i := range hosts {
		hosts[i].source = file
	}
	return hosts, err
}

// hostDirs lists where the settings of a host may be. A colon is allowed in a
// directory's name but not everywhere, hence containerd's "host_5000_".
func hostDirs(certsDirs []string, name string) []string {
	var dirs []string
	for _, root := range certsDirs {
		if i := strings.LastIndexByte(name, ':'); i > 0 {
			dirs = append(dirs, filepath.Join(root, name[:i]+"_"+name[i+1:]+"_"))
		}
		dirs = append(dirs, filepath.Join(root, name))
	}
	for _, root := range certsDirs {
		dirs = append(dirs, filepath.Join(root, "_default"))
	}
	return dirs
}

// dockerCerts reads docker's older layout, a directory of *.crt for the
// authorities and of pairs *.cert and *.key for the client.
func dockerCerts(dir, name string) (host, bool) {
	// Glob fails on a bad pattern only, and then finds nothing.
	ca, _ := filepath.Glob(filepath.Join(dir, "*.crt"))
	certs, _ := filepath.Glob(filepath.Join(dir, "*.cert"))
	if len(ca)+len(certs) == 0 {
		return host{}, false
	}
	h := host{base: defaultServer(name, true), can: canAll, ca: ca}
	for _, cert := range certs {
		h.client = append(h.client, [2]string{cert, strings.TrimSuffix(cert, ".cert") + ".key"})
	}
	return h, true
}

// defaultServer is the URL of a host of which no file says where it is.
func defaultServer(name string, wantsTLS bool) *url.URL {
	u := &url.URL{Scheme: "https", Host: name, Path: "/v2"}
	switch {
	case name == refs.DockerHub:
		u.Host = hubServer
	case refs.IsLoopback(name) && !wantsTLS:
		u.Scheme = "http"
	}
	return u
}

func parseHosts(file string, text []byte, name string) ([]host, error) {
	var f hostsFile
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&f); err != nil {
		return nil, errkind.New(errkind.FailedPrecondition, "cannot read registry hosts: %s", place(file, err))
	}
	bad := func(where string, err error) error {
		return errkind.New(errkind.FailedPrecondition, "cannot read registry hosts: %s: %s: %v", file, where, err)
	}
	var hosts []host
	for _, key := range hostOrder(text, f.Host) {
		s := f.Host[key]
		base, err := parseBase(key, s.OverridePath)
		if err != nil {
			return nil, bad(fmt.Sprintf("host %q", key), err)
		}
		h, err := s.resolve(base, filepath.Dir(file))
		if err != nil {
			return nil, bad(fmt.Sprintf("host %q", key), err)
		}
		hosts = append(hosts, h)
	}
	base := defaultServer(name, f.CA != nil || f.Client != nil || f.SkipVerify)
	if f.Server != "" {
		var err error
		if base, err = parseBase(f.Server, f.OverridePath); err != nil {
			return nil, bad("server", err)
		}
	}
	server, err := f.resolve(base, filepath.Dir(file))
	if err != nil {
		return nil, bad("server", err)
	}
	return append(hosts, server), nil
}

// place says in which line of file the decoder stopped, and at which key.
func place(file string, err error) string {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		first := &unknown.Errors[0]
		line, _ := first.Position()
		return fmt.Sprintf("%s:%d: unknown key %q", file, line, strings.Join(first.Key(), "."))
	}
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		line, _ := wrong.Position()
		return fmt.Sprintf("%s:%d: %s", file, line, strings.TrimPrefix(wrong.Error(), "toml: "))
	}
	return fmt.Sprintf("%s: %v", file, err)
}

// hostOrder lists the keys of hosts as the file does, for a decoded table has
// no order and the order is that of preference.
func hostOrder(text []byte, hosts map[string]hostSettings) []string {
	var order []string
	var p unstable.Parser
	p.Reset(text)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table {
			continue
		}
		var key []string
		for it := e.Key(); it.Next(); {
			key = append(key, string(it.Node().Data))
		}
		if len(key) < 2 || key[0] != "host" || slices.Contains(order, key[1]) {
			continue
		}
		if _, ok := hosts[key[1]]; ok {
			order = append(order, key[1])
		}
	}
	// Hosts written as inline tables have no header of their own.
	var rest []string
	for key := range hosts {
		if !slices.Contains(order, key) {
			rest = append(rest, key)
		}
	}
	slices.Sort(rest)
	return append(order, rest...)
}

// parseBase reads the URL of an endpoint. Its path ends in /v2 unless the file
// says that the path is meant as written.
func parseBase(s string, overridePath bool) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		first, _, _ := strings.Cut(s, "/")
		s = defaultServer(first, false).Scheme + "://" + s
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("it is not an URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("its scheme is %q, not http or https", u.Scheme)
	case u.Host == "":
		return nil, errors.New("it names no host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("it may have a path only, no user, query or fragment")
	}
	if u.Host == refs.DockerHub || u.Host == "index.docker.io" {
		u.Host = hubServer
	}
	u.Path = strings.TrimSuffix(path.Clean("/"+u.Path), "/")
	if !overridePath && !strings.HasSuffix(u.Path, "/v2") {
		u.Path += "/v2"
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}, nil
}

// resolve turns settings into an endpoint; relative files are under dir.
func (s hostSettings) resolve(base *url.URL, dir string) (host, error) {
	h := host{base: base, skipVerify: s.SkipVerify, header: http.Header{}}
	if s.Capabilities == nil {
		h.can = canAll
	}
	for _, c := range s.Capabilities {
		switch c {
		case "pull":
			h.can |= canPull
		case "resolve":
			h.can |= canResolve
		case "push":
			h.can |= canPush
		case "referrers": // known, but nothing here asks for them
		default:
			return host{}, fmt.Errorf("unknown capability %q", c)
		}
	}
	for key, value := range s.Header {
		values, err := stringList(value)
		if err != nil {
			return host{}, fmt.Errorf("header %s %w", key, err)
		}
		for _, v := range values {
			h.header.Add(key, v)
		}
	}
	var err error
	if h.ca, err = stringList(s.CA); err != nil {
		return host{}, fmt.Errorf("ca %w", err)
	}
	if h.client, err = clientPairs(s.Client); err != nil {
		return host{}, fmt.Errorf("client %w", err)
	}
	if s.DialTimeout != "" {
		if h.dialTimeout, err = time.ParseDuration(s.DialTimeout); err != nil {
			return host{}, fmt.Errorf("dial_timeout %q is not a duration", s.DialTimeout)
		}
	}
	h.anchor(dir)
	return h, nil
}

// anchor makes relative file names relative to dir.
func (h *host) anchor(dir string) {
	under := func(name *string) {
		if *name != "" && !filepath.IsAbs(*name) {
			*name = filepath.Join(dir, *name)
		}
	}
	for i := range h.ca {
		under(&h.ca[i])
	}
	for i := range h.client {
		under(&h.client[i][0])
		under(&h.client[i][1])
	}
}

// clientPairs reads the key "client": one file that has both, a list of such
// files, or a list of pairs.
func clientPairs(v any) ([][2]string, error) {
	list, ok := v.([]any)
	if !ok && v != nil {
		list = []any{v}
	}
	var pairs [][2]string
	for _, item := range list {
		files, err := stringList(item)
		switch {
		case err != nil:
			return nil, err
		case len(files) == 1 || len(files) == 2 && files[1] == "":
			pairs = append(pairs, [2]string{files[0], files[0]})
		case len(files) == 2:
			pairs = append(pairs, [2]string{files[0], files[1]})
		default:
			return nil, errors.New("must be a file or pairs of certificate and key")
		}
	}
	return pairs, nil
}

func stringList(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		var list []string
		for _, item := range v {
			s, ok := item.(string)
			if !ok {
				return nil, errors.New("must hold strings only")
			}
			list = append(list, s)
		}
		return list, nil
	}
	return nil, errors.New("must be a string or a list of strings")
}
