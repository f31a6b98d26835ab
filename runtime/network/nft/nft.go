// Package nft has the words that our nftables tables are written in: rules that
// can be compared with what the kernel gives back, the matches that are made of
// more than one expression, the socket, and the news of what others change.
package nft

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Rule is a rule before it has a table. Two tables are the same if their
// rules are, in order.
type Rule struct {
	Chain   string
	Comment string // for whoever reads the table; part of what is compared
	Exprs   []expr.Any
}

// In makes a rule of parts, all of which have to match.
func In(chain, comment string, parts ...[]expr.Any) Rule {
	r := Rule{Chain: chain, Comment: comment}
	for _, p := range parts {
		r.Exprs = append(r.Exprs, p...)
	}
	return r
}

// Is compares in the kernel's encoding: there a thing can be said in one way only.
func (r Rule) Is(have *nftables.Rule, family nftables.TableFamily) bool {
	comment, _ := userdata.GetString(have.UserData, userdata.TypeComment)
	if comment != r.Comment || len(have.Exprs) != len(r.Exprs) {
		return false
	}
	for i, e := range r.Exprs {
		a, errA := expr.Marshal(byte(family), e)
		b, errB := expr.Marshal(byte(family), have.Exprs[i])
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			return false
		}
	}
	return true
}

// Fill queues chains and rules for a table that has neither.
func Fill(conn *nftables.Conn, table *nftables.Table, chains []*nftables.Chain, rules []Rule) {
	byName := make(map[string]*nftables.Chain)
	for _, c := range chains {
		c.Table = table
		byName[c.Name] = conn.AddChain(c)
	}
	for _, r := range rules {
		conn.AddRule(&nftables.Rule{Table: table, Chain: byName[r.Chain], Exprs: r.Exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, r.Comment)})
	}
}

// Renew queues what makes table empty, whether it is there or not.
func Renew(conn *nftables.Conn, table *nftables.Table) {
	conn.AddTable(table) // so that there is one to delete
	conn.DelTable(table)
	conn.AddTable(table)
}

// Socket is a connection that is kept from one use to the next: closing one that
// has changed nftables waits for an RCU grace period, which is ten times the
// price of the change (NETLINK_URELEASE in nf_tables_api.c). The zero value is
// ready; its owner sees to it that one uses it at a time.
type Socket struct{ conn *nftables.Conn }

// Talk runs fn with the connection. After a failure answers may be left in it,
// so then it is closed all the same.
func (s *Socket) Talk(fn func(*nftables.Conn) error) error {
	if s.conn == nil {
		conn, err := dial()
		if err != nil {
			return err
		}
		s.conn = conn
	}
	err := fn(s.conn)
	if err != nil {
		s.Close()
	}
	return err
}

// Close ends the connection; the next Talk opens another.
func (s *Socket) Close() {
	if s.conn != nil {
		_ = s.conn.CloseLasting()
		s.conn = nil
	}
}

// dial opens nftables in the network namespace of the calling thread. The
// socket is the caller's to close.
func dial() (*nftables.Conn, error) {
	// The kernel takes a transaction as one datagram and acknowledges each of
	// its messages; the default buffers end at a few hundred host ports.
	const buffer = 8 << 20
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *mdnetlink.Conn) error {
		return errors.Join(c.SetReadBuffer(buffer), c.SetWriteBuffer(buffer))
	}))
	if err != nil {
		return nil, fmt.Errorf("cannot open nftables: %w", err)
	}
	return conn, nil
}

// Side is which end of a packet a match is about.
type Side int

// The sides.
const (
	Source Side = iota
	Destination
)

// Address matches packets of p's family with the address at s inside p.
func Address(s Side, p netip.Prefix) []expr.Any {
	family, offset, length := byte(unix.NFPROTO_IPV4), uint32(12), uint32(4)
	if p.Addr().Is6() {
		family, offset, length = unix.NFPROTO_IPV6, 8, 16
	}
	if s == Destination {
		offset += length
	}
	out := append(Family(family), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length})
	if p.Bits() < p.Addr().BitLen() {
		out = append(out, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length,
			Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: make([]byte, length)})
	}
	return append(out, Equal(1, p.Masked().Addr().AsSlice()))
}

// Family matches packets of one family, a NFPROTO.
func Family(family byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, Equal(1, []byte{family})}
}

// Interface compares the name of the interface that a packet came by or leaves by.
// A name that ends in a star stands for all that begin so.
func Interface(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	if begin, ok := strings.CutSuffix(name, "*"); ok {
		padded = []byte(begin)
	}
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

// Translated matches packets of connections whose destination was changed, by
// us or by another (a service address, say).
func Translated() []expr.Any {
	const ipsDstNAT = 1 << 5 // enum ip_conntrack_status, IPS_DST_NAT
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(ipsDstNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// NotTranslated matches the other packets.
func NotTranslated() []expr.Any {
	out := Translated()
	out[2] = Equal(1, make([]byte, 4))
	return out
}

// NotEstablished matches packets that belong to no connection whose answer has
// been seen, and to none that such a one brings along.
func NotEstablished() []expr.Any {
	established := uint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(established), Xor: make([]byte, 4)},
		Equal(1, make([]byte, 4)),
	}
}

// Outside is Address for the packets of p's family that are not inside p.
func Outside(s Side, p netip.Prefix) []expr.Any {
	out := Address(s, p)
	last := *out[len(out)-1].(*expr.Cmp)
	last.Op = expr.CmpOpNeq
	return append(out[:len(out)-1], &last)
}

// Verdict ends a rule.
func Verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

// Equal matches if the register holds data.
func Equal(register uint32, data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}
}
