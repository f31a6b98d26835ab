// Package crilog writes, parses and follows container logs in the format that
// CRI prescribes and the kubelet reads:
//
//	2006-01-02T15:04:05.999999999Z stdout F content of a line
//
// The tag is F for a line that is whole or ends here and P for a piece that a
// later entry continues; further tags may follow it, split by colons. Times
// are in UTC and of fixed length. They grow from write to write, and entries of
// one write share theirs.
//
// The law: every write(2) ends at the end of an entry, both streams of a
// container pass one serial writer, and a file is appended to by one Writer
// only. So a reader sees a torn entry only at the end of the file, and only
// for the moment in which it is written.
//
// Somebody else, the kubelet, rotates: it renames the file, to the name with a
// suffix, and asks for a Reopen; it compresses and removes rotated files when
// it likes. It renames a file back when it does not hear of success. A reader
// finds the files by their names; the times in them tell it their order, and
// which entries it has read already.
package crilog

import (
	"bytes"
	"errors"
	"time"
)

// MaxContent is the longest content of one entry in bytes. A longer line of
// the container becomes several entries.
const MaxContent = 16 << 10

// Every entry that a Writer makes begins with so many bytes, since both streams
// have names of one length: "2006-01-02T15:04:05.000000000Z stdout F ".
const (
	stampLayout = "2006-01-02T15:04:05.000000000Z07:00"
	stampLen    = len("2006-01-02T15:04:05.000000000Z")
	headerLen   = stampLen + len(" stdout F ")
)

// Stream is the name of an output as it stands in the log.
type Stream string

// The streams. A terminal's output is logged as Stdout.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Line is one entry of a log.
type Line struct {
	Time    time.Time
	Stream  Stream
	Partial bool   // the next entry of the stream continues this one
	Content []byte // without the newline
}

var errFormat = errors.New("not an entry of a CRI log")

// Parse reads one entry, with or without its newline. The content is a part
// of b.
func Parse(b []byte) (Line, error) {
	b = bytes.TrimSuffix(b, []byte{'\n'})
	at, rest, ok := bytes.Cut(b, []byte{' '})
	stream, rest, ok2 := bytes.Cut(rest, []byte{' '})
	tags, content, ok3 := bytes.Cut(rest, []byte{' '})
	if !ok || !ok2 || !ok3 {
		return Line{}, errFormat
	}
	t, err := time.Parse(time.RFC3339Nano, string(at))
	if err != nil {
		return Line{}, errFormat
	}
	l := Line{Time: t, Content: content}
	switch s := Stream(stream); s {
	case Stdout, Stderr:
		l.Stream = s
	default:
		return Line{}, errFormat
	}
	tag, _, _ := bytes.Cut(tags, []byte{':'})
	switch string(tag) {
	case "F":
	case "P":
		l.Partial = true
	default:
		return Line{}, errFormat
	}
	return l, nil
}

// appendEntry appends one entry, newline included, to dst.
func appendEntry(dst []byte, stamp []byte, s Stream, partial bool, content []byte) []byte {
	dst = append(dst, stamp...)
	dst = append(dst, ' ')
	dst = append(dst, s...)
	if partial {
		dst = append(dst, " P "...)
	} else {
		dst = append(dst, " F "...)
	}
	dst = append(dst, content...)
	return append(dst, '\n')
}
