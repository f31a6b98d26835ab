package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// momentForms is for the help of flags that take a moment.
const momentForms = "a time (2026-01-02T15:04:05Z), how long ago (10m), or seconds since 1970"

// layouts of times as docker takes them; those without a zone are local.
var layouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02Z07:00",
	"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", time.DateOnly,
}

// parseMoment reads the value of a flag that tells a moment; nothing is the
// zero time.
func parseMoment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, ok := parseSeconds(text); ok {
		return t, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, layout := range layouts {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, &problem{
		what: fmt.Sprintf("cannot read the moment --%s %s", flag, text), why: "it is neither a time nor a length of time",
		do: fmt.Sprintf("write for example --%[1]s 10m, --%[1]s 2026-01-02T15:04:05Z or --%[1]s 1767366245", flag),
	}
}

// parseSeconds reads seconds since 1970 with up to nine digits of fraction,
// without the loss of a float.
func parseSeconds(text string) (time.Time, bool) {
	whole, part, _ := strings.Cut(text, ".")
	seconds, err := strconv.ParseUint(whole, 10, 63)
	if err != nil || len(part) > 9 || seconds > math.MaxInt64/uint64(time.Second) {
		return time.Time{}, false
	}
	nanos, err := strconv.ParseUint((part + "000000000")[:9], 10, 63)
	return time.Unix(int64(seconds), int64(nanos)), err == nil
}
