// Package cnitest is a plugin of CNI that works or fails as a file tells it,
// and what tests of networks need beside it: the reference plugins, built from
// their module.
//
// The plugin keeps addresses like host-local does, a file each, so that what is
// not given back can be seen; it makes no interface. It writes down every call.
package cnitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Type is the name of the plugin's program.
const Type = "fault"

// The ways to fail. They are the answer to one verb.
const (
	Fail    = "fail"     // with an error of CNI
	Busy    = "busy"     // with the error that asks to try again later
	Mute    = "mute"     // with nothing but an exit code and words on stderr
	Hang    = "hang"     // for ever, and so does a child of it
	Garbage = "garbage"  // succeeds with an answer that is no JSON
	NoIPs   = "no ips"   // succeeds without any address
	Null    = "null"     // succeeds with an address that is null
	BadIPs  = "bad ips"  // succeeds with an address of an interface that there is not
	Huge    = "huge"     // succeeds with gigabytes
	After   = "after"    // does what is asked and then fails
	Fifth   = "fifth"    // fails at every fifth call
	Slow    = "slow"     // takes a second
	Daemon  = "daemonic" // works, and leaves a process with a session of its own behind
)

// Faults are what the plugin does for each verb; absent: it works.
type Faults map[string]string

// Call is one run of the plugin.
type Call struct {
	Verb        string          `json:"verb"`
	ContainerID string          `json:"container"`
	Interface   string          `json:"interface"`
	Netns       string          `json:"netns"`
	Args        string          `json:"args"`
	Stdin       json.RawMessage `json:"stdin"`
}

// Dir is where an instance of the plugin keeps what it knows: "dir" of its
// configuration names it, else it is "plugin" beside the program's directory.
type Dir string

// SetFaults tells the plugin what to do from now on.
func (d Dir) SetFaults(f Faults) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return err
	}
	file := filepath.Join(string(d), "faults")
	return errors.Join(os.WriteFile(file+".new", text, 0o644), os.Rename(file+".new", file))
}

// Calls are the runs so far, of those verbs if any are given.
func (d Dir) Calls(verbs ...string) ([]Call, error) {
	text, err := os.ReadFile(filepath.Join(string(d), "calls"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Call
	for line := range strings.Lines(string(text)) {
		var c Call
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			return nil, err
		}
		if len(verbs) == 0 || slices.Contains(verbs, c.Verb) {
			out = append(out, c)
		}
	}
	return out, nil
}

// Held are the addresses that are not given back, with who has them.
func (d Dir) Held() (map[string]string, error) {
	entries, err := os.ReadDir(filepath.Join(string(d), "addresses"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	out := map[string]string{}
	for _, e := range entries {
		holder, err := os.ReadFile(filepath.Join(string(d), "addresses", e.Name()))
		if err != nil {
			return nil, err
		}
		out[e.Name()] = string(holder)
	}
	return out, err
}

// conf is the part of the configuration that the plugin reads.
type conf struct {
	CNIVersion string          `json:"cniVersion"`
	Dir        Dir             `json:"dir"`
	Subnets    []string        `json:"subnets"` // of the addresses that it gives; none if it comes after another
	PrevResult json.RawMessage `json:"prevResult"`
	Valid      []struct {
		ContainerID string `json:"containerID"`
		Interface   string `json:"ifname"`
	} `json:"cni.dev/valid-attachments"`
}

// Main is the program. It returns the exit code.
func Main() int {
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		return refuse(err.Error(), 5)
	}
	verb := os.Getenv("CNI_COMMAND")
	if verb == "VERSION" {
		fmt.Println(`{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}`)
		return 0
	}
	var c conf
	if err := json.Unmarshal(stdin, &c); err != nil {
		return refuse("cannot read the configuration: "+err.Error(), 6)
	}
	if c.Dir == "" {
		c.Dir = Dir(filepath.Join(filepath.Dir(os.Args[0]), "..", "plugin"))
	}
	fault, err := c.Dir.note(Call{verb, os.Getenv("CNI_CONTAINERID"), os.Getenv("CNI_IFNAME"), os.Getenv("CNI_NETNS"), os.Getenv("CNI_ARGS"), stdin})
	if err != nil {
		return refuse(err.Error(), 5)
	}
	switch fault {
	case Fail, Fifth:
		return refuse("the cable is cut", 100)
	case Busy:
		return refuse("the switch is busy", 11)
	case Mute:
		fmt.Fprintln(os.Stderr, "no cable\x1b[2J")
		return 3
	case Hang:
		hang()
	case Garbage:
		fmt.Println("<html>504</html>")
		return 0
	case Huge:
		line := []byte(`{"cniVersion":"` + strings.Repeat("9", 1<<16))
		for range 1 << 16 {
			if _, err := os.Stdout.Write(line); err != nil {
				return 1
			}
		}
	case Slow:
		time.Sleep(time.Second)
	case Daemon:
		if err := leaveBehind(); err != nil {
			return refuse(err.Error(), 5)
		}
	}
	switch verb {
	case "ADD":
		err = c.add(fault)
	case "DEL":
		err = c.free(func(holder string) bool { return holder == me() })
	case "GC":
		err = c.free(func(holder string) bool {
			for _, v := range c.Valid {
				if holder == v.ContainerID+" "+v.Interface {
					return false
				}
			}
			return true
		})
	}
	if err == nil && fault == After {
		err = errors.New("the cable came off")
	}
	if err != nil {
		return refuse(err.Error(), 101)
	}
	return 0
}

func me() string { return os.Getenv("CNI_CONTAINERID") + " " + os.Getenv("CNI_IFNAME") }

func refuse(msg string, code int) int {
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"cniVersion": "1.0.0", "code": code, "msg": msg, "details": "said the plugin of the tests"})
	return 1
}

// note writes a call down and returns what to do about it.
func (d Dir) note(c Call) (fault string, err error) {
	err = d.locked(func() error {
		line, err := json.Marshal(c)
		if err != nil {
			return err
		}
		calls, err := os.OpenFile(filepath.Join(string(d), "calls"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return err
		}
		if _, err := calls.Write(append(line, '\n')); err != nil {
			return err
		}
		if err := calls.Close(); err != nil {
			return err
		}
		var faults Faults
		text, err := os.ReadFile(filepath.Join(string(d), "faults"))
		if err == nil {
			err = json.Unmarshal(text, &faults)
		} else if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		if fault = faults[c.Verb]; err != nil || fault != Fifth {
			return err
		}
		var n int
		counter := filepath.Join(string(d), "count")
		if text, err := os.ReadFile(counter); err == nil {
			_, _ = fmt.Sscan(string(text), &n)
		}
		if n++; n%5 != 0 {
			fault = ""
		}
		return os.WriteFile(counter, fmt.Append(nil, n), 0o644)
	})
	return fault, err
}

// locked runs f alone among the runs of the plugin with that directory.
func (d Dir) locked(f func() error) error {
	if err := os.MkdirAll(filepath.Join(string(d), "addresses"), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(string(d), "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	return f()
}

func (c conf) add(fault string) error {
	if len(c.PrevResult) > 0 {
		_, err := os.Stdout.Write(c.PrevResult)
		return err
	}
	result := map[string]any{"cniVersion": c.CNIVersion,
		"interfaces": []map[string]string{{"name": "host0"}, {"name": os.Getenv("CNI_IFNAME"), "sandbox": os.Getenv("CNI_NETNS")}}}
	var ips []any
	for _, s := range c.Subnets {
		p, err := c.take(s)
		if err != nil {
			return err
		}
		ip := map[string]any{"address": p.String(), "interface": 1}
		if strings.HasPrefix(c.CNIVersion, "0.") {
			ip["version"] = map[bool]string{true: "4", false: "6"}[p.Addr().Is4()]
		}
		if fault == BadIPs {
			ip["interface"] = 7
		}
		ips = append(ips, ip)
	}
	switch fault {
	case NoIPs:
		ips = nil
	case Null:
		ips = []any{nil}
	case After:
		return nil
	}
	result["ips"] = ips
	return json.NewEncoder(os.Stdout).Encode(result)
}

// take gives the first address of a subnet that is free.
func (c conf) take(subnet string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(subnet)
	if err != nil {
		return p, err
	}
	err = c.Dir.locked(func() error {
		for a := p.Masked().Addr().Next().Next(); p.Contains(a); a = a.Next() {
			file, err := os.OpenFile(filepath.Join(string(c.Dir), "addresses", a.String()), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if errors.Is(err, os.ErrExist) {
				continue
			}
			if err != nil {
				return err
			}
			p = netip.PrefixFrom(a, p.Bits())
			_, err = file.WriteString(me())
			return errors.Join(err, file.Close())
		}
		return fmt.Errorf("no address is left in %s", subnet)
	})
	return p, err
}

func (c conf) free(whose func(holder string) bool) error {
	return c.Dir.locked(func() error {
		held, err := c.Dir.Held()
		for address, holder := range held {
			if whose(holder) {
				err = errors.Join(err, os.Remove(filepath.Join(string(c.Dir), "addresses", address)))
			}
		}
		return err
	})
}
