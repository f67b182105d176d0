// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The normal form of a rule is a byte string. Two rules that do the same have the
// same normal form: the expressions in order, each with its name and its
// attributes by number. The same code makes it from what the kernel sends and from
// what we send to the kernel. It leaves out counts, the ID of a set within a
// transaction, and numbers that are zero, which one side may omit. What this
// code does not know stays as it is, so that two rules that differ in it differ.

// nlaTypeMask is NLA_TYPE_MASK. The other bits are flags.
const nlaTypeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

// maxAttr is more than the number of attributes of any of our expressions.
const maxAttr = 16

// attributes calls f for each netlink attribute in b.
func attributes(b []byte, f func(kind uint16, data []byte)) {
	for len(b) >= 4 {
		size := int(binary.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			return
		}
		f(binary.NativeEndian.Uint16(b[2:])&nlaTypeMask, b[4:size])
		b = b[min(len(b), (size+3)&^3):]
	}
}

// appendRule appends the normal form of a rule's list of expressions. It also
// returns the packets that the rule's own counters counted, without those of its
// set.
func appendRule(out, list []byte) (normal []byte, packets uint64) {
	attributes(list, func(_ uint16, e []byte) {
		var n uint64
		out, n = appendExpr(out, e)
		packets += n
	})
	return out, packets
}

func appendExpr(out, e []byte) (normal []byte, packets uint64) {
	var name, data []byte
	attributes(e, func(kind uint16, b []byte) {
		switch kind {
		case unix.NFTA_EXPR_NAME:
			name = b
		case unix.NFTA_EXPR_DATA:
			data = b
		default: // not sent by us
			out = appendAttr(out, kind, b)
		}
	})
	if n := len(name); n > 0 && name[n-1] == 0 {
		name = name[:n-1]
	}
	out = append(append(out, 0xff), name...)
	if string(name) == "counter" {
		attributes(data, func(kind uint16, b []byte) {
			if kind == unix.NFTA_COUNTER_PACKETS && len(b) == 8 {
				packets = binary.BigEndian.Uint64(b)
			}
		})
		return out, packets
	}
	return appendAttrs(out, data, string(name)), 0
}

// holdsData reports whether an attribute holds a value or a verdict.
func holdsData(name string, kind int) bool {
	switch name {
	case "cmp":
		return kind == unix.NFTA_CMP_DATA
	case "immediate":
		return kind == unix.NFTA_IMMEDIATE_DATA
	case "bitwise":
		return kind == unix.NFTA_BITWISE_MASK || kind == unix.NFTA_BITWISE_XOR
	}
	return false
}

// appendAttrs appends attributes in the order of their numbers.
func appendAttrs(out, data []byte, name string) []byte {
	var known [maxAttr][]byte
	attributes(data, func(kind uint16, b []byte) {
		if kind >= maxAttr || known[kind] != nil {
			out = appendAttr(out, kind, b)
			return
		}
		known[kind] = b
	})
	for kind, b := range known {
		switch {
		case holdsData(name, kind):
			out = appendData(append(out, byte(kind)), b)
		case len(b) == 0, zero(b), name == "dynset" && kind == unix.NFTA_DYNSET_SET_ID:
		case name == "dynset" && kind == unix.NFTA_DYNSET_EXPR:
			out = append(out, byte(kind))
			out, _ = appendExpr(out, b)
		default:
			out = appendAttr(out, uint16(kind), b)
		}
	}
	return out
}

// appendData appends a value or a verdict. Only one side flags its attributes as
// nested.
func appendData(out, b []byte) []byte {
	attributes(b, func(kind uint16, b []byte) {
		if kind != unix.NFTA_DATA_VERDICT {
			out = appendAttr(out, kind, b)
			return
		}
		out = append(out, byte(kind))
		attributes(b, func(kind uint16, b []byte) { out = appendAttr(out, kind, b) })
	})
	return out
}

func appendAttr(out []byte, kind uint16, b []byte) []byte {
	out = binary.BigEndian.AppendUint16(out, kind)
	out = binary.BigEndian.AppendUint16(out, uint16(len(b)))
	return append(out, b...)
}

// zero reports whether b is a number that is zero. Nested attributes never are,
// because they begin with their length.
func zero(b []byte) bool {
	switch len(b) {
	case 4:
		return binary.NativeEndian.Uint32(b) == 0
	case 8:
		return binary.NativeEndian.Uint64(b) == 0
	}
	return false
}

// normalOf returns the normal form of a rule that we would write, including its
// comment.
func normalOf(r rule) ([]byte, error) {
	var out []byte
	for _, e := range r.exprs {
		b, err := expr.Marshal(byte(nftables.TableFamilyNetdev), e)
		if err != nil {
			return nil, err
		}
		out, _ = appendExpr(out, b)
	}
	return appendComment(out, commentOf(r)), nil
}

func appendComment(out, comment []byte) []byte { return append(append(out, 0xfe), comment...) }
