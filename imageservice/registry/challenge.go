package registry

import "strings"

// challenge is one element of a WWW-Authenticate header (RFC 9110, 11.6.1),
// its scheme and the names of its parameters in lower case.
type challenge struct {
	scheme string
	params map[string]string
}

// parseChallenges reads all challenges of all headers. What is malformed ends
// the reading of its header: the challenges before it stand. So do those before
// there are too many.
func parseChallenges(headers []string) []challenge {
	var all []challenge
	for _, h := range headers {
		rest := strings.TrimLeft(h, " \t,")
		for rest != "" {
			var scheme string
			scheme, rest = cutToken(rest)
			if scheme == "" {
				break
			}
			if len(all) == maxChallenges {
				return all
			}
			c := challenge{scheme: strings.ToLower(scheme), params: map[string]string{}}
			rest = c.readParams(rest)
			all = append(all, c)
		}
	}
	return all
}

// readParams takes name=value pairs off s until the next scheme, which is a
// token that no "=" follows.
func (c *challenge) readParams(s string) (rest string) {
	for {
		s = strings.TrimLeft(s, " \t,")
		name, after := cutToken(s)
		after = strings.TrimLeft(after, " \t")
		if name == "" || !strings.HasPrefix(after, "=") {
			return s
		}
		var value string
		value, s = cutValue(strings.TrimLeft(after[1:], " \t"))
		if len(c.params) < maxChallenges {
			c.params[strings.ToLower(name)] = value
		}
	}
}

func cutToken(s string) (token, rest string) {
	i := strings.IndexAny(s, " \t,=\"")
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i:]
}

func cutValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		return cutToken(s)
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:]
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}
