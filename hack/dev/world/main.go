// SPDX-License-Identifier: Apache-2.0

// Command world simulates the outside world for the development cluster. It
// serves HTTP with and without TLS, DNS for names below .test, and a UDP echo, on
// every IPv4 and IPv6 address of the network namespace that it was started in. It logs
// everything that reaches it as a line of JSON, so that a test sees what got out
// of a guest without having to trust the guest. It does not authenticate or
// limit clients: run it only in namespaces that have no route out of the machine.
//
// usage: world -log FILE [-http PORTS] [-tls FOLDER] [-dns PORT] [-echo PORTS]
package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

func main() {
	var o options
	flag.StringVar(&o.log, "log", "", "`file` that gets one JSON line for each request, query and datagram")
	flag.StringVar(&o.web, "http", "80,443,8080", "TCP `ports` of the HTTP server, separated by commas")
	flag.StringVar(&o.tls, "tls", "", "`folder` of the HTTP server's certificate and of its authority, ca.pem, which are made if there are none; \"\" means no TLS")
	flag.StringVar(&o.dns, "dns", "53", "UDP and TCP `ports` of the name server")
	flag.StringVar(&o.echo, "echo", "4000", "UDP `ports` that echo datagrams")
	flag.Parse()
	if o.log == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	err := run(o)
	fmt.Fprintln(os.Stderr, "world:", err)
	os.Exit(1)
}

// options are the command line.
type options struct{ log, web, tls, dns, echo string }

// run serves until the first server fails, and returns its error.
func run(o options) error {
	file, err := os.OpenFile(o.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	w := &world{log: &journal{w: file}, failed: make(chan error, 1)}
	if o.tls != "" {
		loaded, err := loadCertificate(o.tls)
		if err != nil {
			return err
		}
		w.certificate = &loaded
	}
	for _, s := range []struct {
		ports  string
		listen func(port string) error
	}{
		{o.web, w.listenHTTP}, {o.dns, w.listenDNS}, {o.echo, w.listenEcho},
	} {
		for port := range strings.SplitSeq(s.ports, ",") {
			if port == "" {
				continue
			}
			if _, err := strconv.ParseUint(port, 10, 16); err != nil {
				return fmt.Errorf("port %q: want a number", port)
			}
			if err := s.listen(port); err != nil {
				return err
			}
		}
	}
	return <-w.failed
}

// world runs the servers. The first failure of a server ends the program.
type world struct {
	log    *journal
	failed chan error
	// certificate is nil if the world has no TLS.
	certificate *tls.Certificate
}

func (w *world) serve(what string, serve func() error) {
	go func() {
		err := fmt.Errorf("%s: %w", what, serve())
		select {
		case w.failed <- err:
		default: // another server failed first
		}
	}()
}

// listenEcho sends datagrams back to their sender.
func (w *world) listenEcho(port string) error {
	return w.listenUDP("echo", port, func(e entry, datagram []byte) []byte {
		e.Kind = "echo"
		w.log.write(e, datagram)
		return datagram
	})
}

// listenUDP answers datagrams over IPv4 and, if the kernel has it, IPv6.
func (w *world) listenUDP(what, port string, answer func(e entry, datagram []byte) []byte) error {
	for _, network := range []string{"udp4", "udp6"} {
		socket, err := openSocket(network, port)
		if network == "udp6" && errors.Is(err, errNoIPv6) {
			continue
		}
		if err != nil {
			return err
		}
		w.serve(what, func() error { return socket.serve(answer) })
	}
	return nil
}

// listenTCP runs serve on a listener for both IPv4 and IPv6.
func (w *world) listenTCP(what, port string, serve func(net.Listener) error) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	w.serve(what, func() error { return serve(l) })
	return nil
}
