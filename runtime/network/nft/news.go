package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Listen subscribes to what anybody changes in nftables, in the network namespace
// of the calling thread. The connection is the caller's to close.
func Listen() (*mdnetlink.Conn, error) {
	conn, err := mdnetlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot open nftables: %w", err)
	}
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("cannot listen to nftables: %w", err)
	}
	return conn, nil
}

// header is the length of struct nfgenmsg, which every message begins with.
const header = 4

func kind(m mdnetlink.Message) (int, bool) {
	return int(m.Header.Type & 0xff), m.Header.Type>>8 == unix.NFNL_SUBSYS_NFTABLES && len(m.Data) >= header
}

// Ends tells whether m ends a transaction, which tells what it does before, and
// whether a thread of this process made that. It errs to no.
func Ends(m mdnetlink.Message) (ends, ours bool) {
	if k, ok := kind(m); !ok || k != unix.NFT_MSG_NEWGEN {
		return false, false
	}
	ad, err := mdnetlink.NewAttributeDecoder(m.Data[header:])
	if err != nil {
		return true, false
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		if ad.Type() == unix.NFTA_GEN_PROC_PID {
			// The kernel says the thread's id (nf_tables_fill_gen_info).
			_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", ad.Uint32()))
			return true, err == nil
		}
	}
	return true, false
}

// About is the name of the table that m changes, or something in it.
func About(m mdnetlink.Message) string {
	if _, ok := kind(m); !ok {
		return ""
	}
	ad, err := mdnetlink.NewAttributeDecoder(m.Data[header:])
	if err != nil {
		return ""
	}
	// The table's name is attribute 1 of tables, chains, rules, sets, elements
	// and objects alike (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and so on).
	for ad.Next() {
		if ad.Type() == unix.NFTA_TABLE_NAME {
			return string(bytes.TrimRight(ad.Bytes(), "\x00"))
		}
	}
	return ""
}
