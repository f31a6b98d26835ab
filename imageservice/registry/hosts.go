package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
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

// sameAs reports whether o is reached in the same way as h. Files often name
// the server among the hosts too.
func (h host) sameAs(o host) bool {
	return *h.base == *o.base && h.skipVerify == o.skipVerify && h.dialTimeout == o.dialTimeout &&
		slices.Equal(h.ca, o.ca) && slices.Equal(h.client, o.client) && maps.EqualFunc(h.header, o.header, slices.Equal)
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
// them. The last one is the server. The first directory that is there decides,
// as in containerd.
func loadHosts(certsDirs []string, name string) ([]host, error) {
	for _, dir := range hostDirs(certsDirs, name) {
		entries, err := os.ReadDir(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrInvalid):
			continue
		case err != nil:
			return nil, errkind.New(errkind.FailedPrecondition, "cannot read registry hosts: %w", err)
		}
		return loadHostDir(dir, entries, name)
	}
	return []host{{base: defaultServer(name, false), can: canAll}}, nil
}

// loadHostDir reads hosts.toml and what docker's older layout has beside it,
// which is for the host itself: *.crt for the authorities, pairs of *.cert and
// *.key for the client.
func loadHostDir(dir string, entries []fs.DirEntry, name string) ([]host, error) {
	var docker host
	file, misnamed := "", ""
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch ext := filepath.Ext(path); {
		case e.Name() == "hosts.toml":
			file = path
		case ext == ".toml":
			misnamed = path
		case ext == ".crt":
			docker.ca = append(docker.ca, path)
		case ext == ".cert":
			docker.client = append(docker.client, [2]string{path, path})
		}
	}
	for i, pair := range docker.client {
		// Without a key of its own the file has both.
		if key := strings.TrimSuffix(pair[0], ".cert") + ".key"; slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == filepath.Base(key) }) {
			docker.client[i][1] = key
		}
	}
	if file == "" && misnamed != "" {
		return nil, errkind.New(errkind.FailedPrecondition, "cannot read registry hosts: %s would not be read: its name must be hosts.toml", misnamed)
	}
	hosts := []host{{base: defaultServer(name, docker.hasTLS()), can: canAll}}
	switch {
	case file != "":
		text, err := readHostsFile(file)
		if err != nil {
			return nil, err
		}
		if hosts, err = parseHosts(file, text, name, docker.hasTLS()); err != nil {
			return nil, err
		}
	case docker.hasTLS():
		file = dir
	}
	for i := range hosts {
		hosts[i].source = file
		if len(hosts[i].ca)+len(hosts[i].client) == 0 && samePlace(hosts[i].base.Host, name) {
			hosts[i].ca, hosts[i].client = docker.ca, docker.client
		}
	}
	return hosts, nil
}

func readHostsFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, errkind.New(errkind.FailedPrecondition, "cannot read registry hosts: %w", err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxHostsFile+1))
	if err == nil && len(text) > maxHostsFile {
		err = fmt.Errorf("%s has more than %d bytes", file, maxHostsFile)
	}
	if err != nil {
		return nil, errkind.New(errkind.FailedPrecondition, "cannot read registry hosts: %w", err)
	}
	return text, nil
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

// parseHosts reads a hosts.toml. wantsTLS says that the server has certificates
// that the file does not know of.
func parseHosts(file string, text []byte, name string, wantsTLS bool) ([]host, error) {
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
	base := defaultServer(name, wantsTLS || f.CA != nil || f.Client != nil || f.SkipVerify)
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
	if len(s.Capabilities) == 0 {
		h.can = canAll // so in containerd
	}
	for _, c := range s.Capabilities {
		switch strings.ToLower(c) {
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
		if h.dialTimeout, err = time.ParseDuration(s.DialTimeout); err != nil || h.dialTimeout <= 0 {
			return host{}, fmt.Errorf("dial_timeout %q is not a duration above zero", s.DialTimeout)
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
