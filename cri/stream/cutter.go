package stream

import (
	"encoding/binary"
	"io"
	"net"
)

// headLen is the length of a SPDY frame's head: for data, 31 bits of the
// stream's number, 8 of flags and 24 of the payload's length.
const headLen = 8

const (
	controlBit = 0x80 // of the first byte: no data frame
	flagFin    = 0x01
)

// cutter passes SPDY frames on, with data frames cut to shorter ones that mean
// the same. A reader that holds frames whole holds no more than most bytes of
// payload then, however long the sender makes them: the format allows 16 MiB.
type cutter struct {
	r    io.Reader
	most int

	head [headLen]byte // of the last frame, as handed out
	out  []byte        // of head, to hand out next
	pass int           // bytes of payload to hand out after that
	more int           // bytes of payload of the frame beyond pass
	fin  byte          // flags that the last piece has
}

// Read gives what a connection would that sends short frames.
func (c *cutter) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(c.out) == 0 && c.pass == 0 {
		if c.more == 0 {
			if err := c.next(); err != nil {
				return 0, err
			}
		} else {
			c.piece()
		}
	}
	if len(c.out) > 0 {
		n := copy(p, c.out)
		c.out = c.out[n:]
		return n, nil
	}
	n, err := c.r.Read(p[:min(len(p), c.pass)])
	c.pass -= n
	return n, err
}

// next begins the frame that comes next.
func (c *cutter) next() error {
	if _, err := io.ReadFull(c.r, c.head[:]); err != nil {
		return err
	}
	c.out = c.head[:]
	length := binary.BigEndian.Uint32(c.head[4:]) & 0xffffff
	c.pass = int(length)
	if c.head[0]&controlBit == 0 && c.pass > c.most {
		c.more, c.fin = c.pass, c.head[4]
		c.piece()
	}
	return nil
}

// piece makes the head of the next piece of a data frame.
func (c *cutter) piece() {
	c.pass = min(c.more, c.most)
	c.more -= c.pass
	binary.BigEndian.PutUint32(c.head[4:], uint32(c.pass))
	c.head[4] = c.fin
	if c.more > 0 {
		c.head[4] &^= flagFin
	}
	c.out = c.head[:]
}

// cutConn is a connection read through a cutter.
type cutConn struct {
	net.Conn
	cutter cutter
}

func (c *cutConn) Read(p []byte) (int, error) { return c.cutter.Read(p) }
