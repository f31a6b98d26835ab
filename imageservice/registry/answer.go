package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// answer is why an endpoint did not give what was asked for.
type answer struct {
	kind      errkind.Kind
	text      string
	transient bool          // the same request may succeed a little later
	after     time.Duration // how much later, if the host said so
}

func (a *answer) Error() string { return a.text }

func refuse(kind errkind.Kind, format string, args ...any) *answer {
	return &answer{kind: kind, text: fmt.Sprintf(format, args...)}
}

// transportFailure is the answer of a host that gave none.
func transportFailure(prefix string, err error) *answer {
	var a *answer
	if errors.As(err, &a) {
		return a
	}
	// An url.Error has the whole URL in its text, the query too.
	var ue *url.Error
	for errors.As(err, &ue) {
		err = ue.Err
	}
	a = &answer{kind: errkind.Unavailable, text: prefix + err.Error()}
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.As(err, &dns), errors.Is(err, errStalled):
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		a.transient = true
	}
	return a
}

// statusFailure is the answer of a host that answered otherwise than wanted.
func statusFailure(prefix string, resp *http.Response) *answer {
	a := &answer{text: prefix + strconv.Itoa(resp.StatusCode) + " " + http.StatusText(resp.StatusCode)}
	if said := saidIn(resp); said != "" {
		a.text += ": " + said
	}
	switch code := resp.StatusCode; {
	case code == http.StatusNotFound:
		a.kind = errkind.NotFound
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		a.kind = errkind.PermissionDenied
	case code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code >= 500:
		a.kind = errkind.Unavailable
		a.transient = code != http.StatusNotImplemented
		a.after = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	return a
}

// retryAfter reads the header of that name, which holds seconds or a date. It
// is bounded, as a pull should end in its caller's time.
func retryAfter(value string, now time.Time) time.Duration {
	if s, err := strconv.ParseUint(value, 10, 32); err == nil {
		return min(time.Duration(s)*time.Second, maxBackoff)
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, min(at.Sub(now), maxBackoff))
	}
	return 0
}

// saidIn reads the errors that the distribution protocol puts in a body.
func saidIn(resp *http.Response) string {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return ""
	}
	var doc struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return ""
	}
	var said []string
	for _, e := range doc.Errors {
		said = append(said, strings.Trim(e.Code+": "+e.Message, ": "))
	}
	return strings.Join(said, "; ")
}

var (
	userInURL  = regexp.MustCompile(`//[^/\s"@]*@`)
	queryInURL = regexp.MustCompile(`([^\s"?]+)\?[^\s"]+`)
)

// redacted stands where a secret was.
const redacted = "[redacted]"

// harmless makes text that a host has influenced fit for an error: one line,
// short, without secrets.
func (e *endpoint) harmless(text string) string {
	for _, s := range append([]string{strings.TrimPrefix(e.auth.authorization(), "Bearer ")}, e.secrets...) {
		if s == "" {
			continue
		}
		for _, form := range []string{s, url.QueryEscape(s), url.PathEscape(s)} {
			text = strings.ReplaceAll(text, form, redacted)
		}
	}
	text = userInURL.ReplaceAllString(text, "//")
	text = queryInURL.ReplaceAllString(text, "$1")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxSaid {
		text = strings.ToValidUTF8(text[:maxSaid], "") + "..."
	}
	return text
}

const (
	minBackoff = 250 * time.Millisecond
	maxBackoff = 10 * time.Second
)

func backoff(round int) time.Duration { return min(minBackoff<<min(round, 10), maxBackoff) }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// verb is what an error says that could not be done.
type verb string

const (
	verbFetch verb = "fetch"
	verbPush  verb = "push"
)

// try gives the endpoints that can do want to do, in order, until one
// succeeds. Those whose failure was transient are tried again in further
// rounds; so a mirror that hiccups costs no wait while the server works.
func (r *Repository) try(ctx context.Context, verb verb, what string, want capability, do func(*endpoint) error) error {
	var able []*endpoint
	for _, e := range r.endpoints {
		// One that is listed twice would give its answer twice.
		listed := slices.ContainsFunc(able, func(o *endpoint) bool { return o.sameAs(e.host) })
		if e.can&want != 0 && !listed {
			able = append(able, e)
		}
	}
	if len(able) == 0 {
		return errkind.New(errkind.FailedPrecondition, "cannot %s %s: hosts.toml leaves no host capable of it", verb, what)
	}
	answers := make([]*answer, len(able))
	for round := 0; ; round++ {
		again, wait := false, backoff(round)
		for i, e := range able {
			if answers[i] != nil && !answers[i].transient {
				continue
			}
			err := do(e)
			if err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return fmt.Errorf("cannot %s %s: %w", verb, what, context.Cause(ctx))
			}
			answers[i] = transportFailure("", err)
			again = again || answers[i].transient
			wait = max(wait, answers[i].after)
		}
		if !again || round >= r.retries {
			return failure(verb, what, able, answers)
		}
		if err := sleep(ctx, wait); err != nil {
			return fmt.Errorf("cannot %s %s: %w", verb, what, err)
		}
	}
}

// failure tells each endpoint's answer. The last endpoint is the authority.
func failure(verb verb, what string, able []*endpoint, answers []*answer) error {
	var told []string
	for i, e := range able {
		answer := e.base.String() + ": " + e.harmless(answers[i].text)
		if !slices.Contains(told, answer) {
			told = append(told, answer)
		}
	}
	return errkind.New(answers[len(answers)-1].kind, "cannot %s %s: %s", verb, what, strings.Join(told, "; "))
}
