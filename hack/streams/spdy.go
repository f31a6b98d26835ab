package streams

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// overSPDY is one client that speaks SPDY.
func overSPDY(nc net.Conn, at *url.URL, k kind, v visit) error {
	protocol := "v4.channel.k8s.io"
	if k == forward {
		protocol = "portforward.k8s.io"
	}
	if _, err := fmt.Fprintf(nc, "POST %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: %s\r\n\r\n",
		at.Path, at.Host, protocol); err != nil || v.stage == asked {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(oneByOne{nc}, 16), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols || v.stage == upgraded {
		return wantStatus(resp, http.StatusSwitchingProtocols)
	}
	return speakSPDY(nc, k, v)
}

// speakSPDY goes on when the connection is SPDY's.
func speakSPDY(nc net.Conn, k kind, v visit) error {
	conn, err := spdy.NewClientConnection(nc)
	if err != nil {
		return err
	}
	defer conn.Close()
	if v.stage != ended {
		// What is left of the connection must not say goodbye for it.
		defer leave(nc, v.reset)
	}
	if k == forward {
		return forwardSPDY(conn, nc, v)
	}
	kinds := []string{"error", "stdin", "stdout"}
	if v.tty {
		kinds = append(kinds, "resize")
	}
	open := map[string]httpstream.Stream{}
	for _, name := range kinds {
		if open[name], err = conn.CreateStream(http.Header{"Streamtype": {name}}); err != nil || v.stage == begun {
			return err
		}
	}
	if v.stage == silent {
		return nil
	}
	if v.tty {
		_, _ = io.WriteString(open["resize"], `{"Width":80,"Height":24}`)
	}
	out := collect(open["stdout"])
	return talk(k, v, speech{
		out:  out,
		send: func(s string) error { _, err := io.WriteString(open["stdin"], s); return err },
		end:  open["stdin"].Close,
		tear: func() error { return tearSPDY(nc, open["stdin"].Identifier()) },
		word: func() (string, error) { b, err := io.ReadAll(open["error"]); return string(b), err },
	})
}

func forwardSPDY(conn httpstream.Connection, nc net.Conn, v visit) error {
	header := func(name string) http.Header {
		return http.Header{"Streamtype": {name}, "Port": {"80"}, "Requestid": {"1"}}
	}
	fail, err := conn.CreateStream(header("error"))
	if err != nil || v.stage == begun {
		return err
	}
	data, err := conn.CreateStream(header("data"))
	if err != nil || v.stage == silent {
		return err
	}
	out := collect(data)
	return talk(forward, v, speech{
		out:  out,
		send: func(s string) error { _, err := io.WriteString(data, s); return err },
		end:  data.Close,
		tear: func() error { return tearSPDY(nc, data.Identifier()) },
		word: func() (string, error) { b, err := io.ReadAll(fail); return string(b), err },
	})
}

// tearSPDY sends the head of a frame and little of what it announces.
func tearSPDY(nc net.Conn, stream uint32) error {
	frame := binary.BigEndian.AppendUint32(nil, stream)
	frame = binary.BigEndian.AppendUint32(frame, 1<<20)
	_, err := nc.Write(append(frame, "half"...))
	return err
}

// collect reads r in the background.
func collect(r io.Reader) *answered {
	a := newAnswered()
	go func() {
		_, _ = io.Copy(a, r)
		a.end()
	}()
	return a
}

// speech is what a client can do once its streams are there.
type speech struct {
	out  *answered
	send func(string) error
	end  func() error // of what is sent
	tear func() error
	word func() (string, error) // the last one
}

// hear waits for what is to come, and tells the last word if it cannot come.
func (c speech) hear(enough func(text string, over bool) bool) error {
	err := c.out.await(enough)
	if errors.Is(err, errShort) {
		word, werr := c.word()
		return fmt.Errorf("%w, and the last word is %q", errors.Join(err, werr), word)
	}
	return err
}

// talk speaks to what the session leads to.
func talk(k kind, v visit, c speech) error {
	switch v.stage {
	case broken:
		return c.tear()
	case talking:
		return chatter(k, c)
	}
	if k == forward {
		if err := c.send("GET / HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		if err := c.out.await(func(text string, _ bool) bool { return strings.HasSuffix(text, page) }); err != nil {
			return err
		}
		return c.end()
	}
	line := "one line"
	if err := c.send(line + "\n"); err != nil {
		return err
	}
	if err := c.hear(func(text string, _ bool) bool { return strings.Contains(text, line) }); err != nil {
		return err
	}
	if k == attach {
		return nil // the container goes on: a client ends by leaving
	}
	if v.tty {
		if err := c.send("\x04"); err != nil {
			return err
		}
	} else if err := c.end(); err != nil {
		return err
	}
	if word, err := c.word(); err != nil || !strings.Contains(word, `"Success"`) {
		return fmt.Errorf("the last word is %q, %w", word, err)
	}
	return nil
}

// chatter leaves data under way in both directions.
func chatter(k kind, c speech) error {
	text := strings.Repeat(strings.Repeat("x", 79)+"\n", 400)
	if k == forward {
		text = "GET / HTTP/1.0\r\nX: " + strings.Repeat("x", 30000)
	}
	if err := c.send(text); err != nil {
		return err
	}
	if k == exec {
		return c.hear(func(text string, _ bool) bool { return text != "" })
	}
	return nil
}

func wantStatus(resp *http.Response, code int) error {
	if resp.StatusCode == code {
		return nil
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return fmt.Errorf("%s: %s", resp.Status, b)
}

// oneByOne never reads ahead.
type oneByOne struct{ io.Reader }

func (r oneByOne) Read(p []byte) (int, error) { return r.Reader.Read(p[:1]) }
