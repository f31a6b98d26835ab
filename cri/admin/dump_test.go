package admin

import "testing"

func TestMask(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"GET https://ann:hunter2@reg.example/v2/: 401":              "GET https://***@reg.example/v2/: 401",
		`Authorization: Bearer hunter2hunter2, and more`:            `Authorization: *** ***, and more`,
		`sent "Basic aHVudGVyMg==" to it`:                           `sent "Basic ***" to it`,
		"https://blobs.example/x?X-Amz-Signature=hunter2&a=b":       "https://blobs.example/x?X-Amz-Signature=***&a=b",
		`exec: "mysql --password hunter2 -h db": not found`:         `exec: "mysql --password *** -h db": not found`,
		`{"db_password":"hunter2","name":"web"}`:                    `{"db_password":"***","name":"web"}`,
		"API_KEY=hunter2 TOKEN: hunter2":                            "API_KEY=*** TOKEN: ***",
		"github.com/x/tokens.go:55 +0x1a passwords are kept secret": "github.com/x/tokens.go:55 +0x1a passwords are kept secret",
		`{"secret_count":3}`:                                        `{"secret_count":3}`,
	} {
		if got := string(mask([]byte(in))); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}
