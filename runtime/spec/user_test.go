package spec

import (
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

const passwd = `root:x:0:0:root:/root:/bin/sh
# comment
+nis:x:5:5::/:
short:x
1000:x:7:7:numeric name:/seven:/bin/sh
app:x:1000:1001:App:/srv/app:/bin/sh
huge:x:4294967296:0::/:
wrap:x:4294967295:0::/:
empty:x:::: 
rel:x:8:8::relative:
`

const group = `root:x:0:
staff:x:50:app,other
audio:x:29:other,app
prefix:x:60:apps,app2
bad:x:4294967296:wrong
users:x:100:root
`

func id(n int64) *int64 { return &n }

func TestResolveUser(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		sec   Security
		image string
		want  User
	}{
		"nothing is root":            {image: "", want: User{0, 0, []uint32{0, 100}, "/root"}},
		"image name":                 {image: "app", want: User{1000, 1001, []uint32{29, 50, 1001}, "/srv/app"}},
		"a number is no name":        {image: "1000", want: User{1000, 1001, []uint32{29, 50, 1001}, "/srv/app"}},
		"asked name that is numeric": {sec: Security{RunAsUsername: "1000"}, want: User{1000, 1001, []uint32{29, 50, 1001}, "/srv/app"}},
		"leading zeros are decimal":  {image: "01000", want: User{1000, 1001, []uint32{29, 50, 1001}, "/srv/app"}},
		"unknown number":             {image: "4242", want: User{4242, 0, []uint32{0}, "/"}},
		"largest":                    {image: "2147483647", want: User{2147483647, 0, []uint32{0}, "/"}},
		"user and group":             {image: "app:staff", want: User{1000, 50, []uint32{29, 50}, "/srv/app"}},
		"group by number":            {image: "app:7", want: User{1000, 7, []uint32{7, 29, 50}, "/srv/app"}},
		"only a group":               {image: ":50", want: User{0, 50, []uint32{50, 100}, "/root"}},
		"home is absolute":           {image: "rel", want: User{8, 8, []uint32{8}, "/"}},
		"asked wins":                 {sec: Security{RunAsUser: id(0)}, image: "app:staff", want: User{0, 0, []uint32{0, 100}, "/root"}},
		"asked group":                {sec: Security{RunAsUser: id(1000), RunAsGroup: id(5)}, want: User{1000, 5, []uint32{5, 29, 50}, "/srv/app"}},
		"asked name and group":       {sec: Security{RunAsUsername: "app", RunAsGroup: id(5)}, want: User{1000, 5, []uint32{5, 29, 50}, "/srv/app"}},
		"merge":                      {sec: Security{SupplementalGroups: []int64{3000, 50}}, image: "app", want: User{1000, 1001, []uint32{29, 50, 1001, 3000}, "/srv/app"}},
		"strict":                     {sec: Security{SupplementalGroups: []int64{3000}, GroupsPolicy: GroupsStrict}, image: "app", want: User{1000, 1001, []uint32{1001, 3000}, "/srv/app"}},
	}
	for name, c := range cases {
		got, err := ResolveUser(&c.sec, c.image, strings.NewReader(passwd), strings.NewReader(group))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
}

func TestResolveUserRefuses(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		sec   Security
		image string
	}{
		"unknown name":           {image: "nobody"},
		"unknown group":          {image: "app:nogroup"},
		"group without user":     {sec: Security{RunAsGroup: id(1)}},
		"user twice":             {sec: Security{RunAsUser: id(1), RunAsUsername: "app"}},
		"negative":               {sec: Security{RunAsUser: id(-1)}},
		"2^31":                   {sec: Security{RunAsUser: id(1 << 31)}},
		"2^32 wraps to root":     {image: "4294967296"},
		"2^64 wraps to root":     {image: "18446744073709551616"},
		"group 2^32":             {image: "app:4294967296"},
		"group asked 2^32":       {sec: Security{RunAsUser: id(1), RunAsGroup: id(1 << 32)}},
		"supplementary negative": {sec: Security{SupplementalGroups: []int64{-1}}},
		"passwd uid 2^32":        {image: "huge"},
		"passwd uid 2^32-1":      {image: "wrap"},
		"passwd uid empty":       {image: "empty"},
		"negative name":          {image: "-1"},
		"policy":                 {sec: Security{GroupsPolicy: "both"}},
		"NIS line":               {image: "+nis"},
	}
	for name, c := range cases {
		got, err := ResolveUser(&c.sec, c.image, strings.NewReader(passwd), strings.NewReader(group))
		if !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%s: %+v, %v, want InvalidArgument", name, got, err)
		}
	}
}

func TestResolveUserWithoutFiles(t *testing.T) {
	t.Parallel()
	if got, err := ResolveUser(&Security{}, "5:6", nil, nil); err != nil || got.UID != 5 || got.GID != 6 {
		t.Errorf("numbers: %+v, %v", got, err)
	}
	if _, err := ResolveUser(&Security{}, "app", nil, nil); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("a name: %v, want InvalidArgument", err)
	}
}

// endless is what an image's author may write instead of a file of accounts.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return copy(p, strings.Repeat("a:x:1:1\n", len(p)/8+1)), nil
}

func TestResolveUserIsBounded(t *testing.T) {
	t.Parallel()
	for name, files := range map[string][2]io.Reader{"passwd": {&endless{}, nil}, "group": {nil, &endless{}}} {
		if _, err := ResolveUser(&Security{}, "1", files[0], files[1]); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		}
	}
	many := Security{SupplementalGroups: make([]int64, maxGroups+1)}
	for i := range many.SupplementalGroups {
		many.SupplementalGroups[i] = int64(i)
	}
	if _, err := ResolveUser(&many, "1", nil, nil); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("groups: %v, want InvalidArgument", err)
	}
}
