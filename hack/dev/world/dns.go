// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

var (
	internet = netip.MustParseAddr("203.0.113.10")
	// hosts are the names on the simulated internet.
	hosts = map[string]netip.Addr{
		"allowed.test":         internet,
		"denied.test":          internet,
		"opened.test":          internet,
		"node.test":            netip.MustParseAddr("203.0.113.99"), // no host of the world has it; a test gives it to a node
		"rebind-lan.test":      netip.MustParseAddr("10.77.0.1"),
		"rebind-metadata.test": netip.MustParseAddr("169.254.169.254"),
	}
)

// exfil is a zone in which every name resolves. The owner of such a zone learns
// every name that is queried, so that names can carry stolen data.
const exfil = ".exfil.test"

func lookUp(name string) (netip.Addr, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if strings.HasSuffix(name, exfil) {
		return internet, true
	}
	addr, ok := hosts[name]
	return addr, ok
}

// listenDNS answers queries over UDP and TCP.
func (w *world) listenDNS(port string) error {
	if err := w.listenUDP("dns", port, w.answerDNS); err != nil {
		return err
	}
	return w.listenTCP("dns", port, func(l net.Listener) error {
		for {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			go w.serveDNS(c)
		}
	})
}

// serveDNS answers the queries of one connection. Each message is preceded by
// its length.
func (w *world) serveDNS(c net.Conn) {
	defer c.Close()
	e := entry{Proto: "tcp", Local: c.LocalAddr().String(), Remote: c.RemoteAddr().String()}
	for {
		_ = c.SetDeadline(time.Now().Add(idleTimeout))
		var length uint16
		if binary.Read(c, binary.BigEndian, &length) != nil {
			return
		}
		query := make([]byte, length)
		n, err := io.ReadFull(c, query)
		answer := w.answerDNS(e, query[:n])
		if err != nil || answer == nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// answerDNS logs a query and answers its first question. It returns nil for
// data that is not a query.
func (w *world) answerDNS(e entry, query []byte) []byte {
	e.Kind = "dns"
	var p dnsmessage.Parser
	header, err := p.Start(query)
	var q dnsmessage.Question
	if err == nil {
		q, err = p.Question()
	}
	if err == nil {
		e.Name = q.Name.String()
	}
	w.log.write(e, query)
	if err != nil || header.Response {
		return nil
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	addr, ok := lookUp(e.Name)
	switch {
	case !ok:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 0},
			Body:   &dnsmessage.AResource{A: addr.As4()},
		}}
	}
	answer, err := m.Pack()
	if err != nil {
		return nil
	}
	return answer
}
