// SPDX-License-Identifier: Apache-2.0

// Command registry is the development cluster's registry of images: a real OCI
// registry in memory, behind TLS, that wants a password for what is below
// private/, notes each request as a line of JSON, and breaks as it is told to
// by a file. It is for namespaces that have no route out of the machine.
//
// usage:
//
//	registry serve -dir FOLDER -log FILE [-listen ADDRESS] [-name NAMES]
//	registry push -ca FILE [-user USER -password-file FILE] TAR|- REFERENCE
//
// In FOLDER serve keeps ca.pem, by which clients trust it, password, which is
// that of the user "bottle", and its own certificate and key; it makes what is
// absent. faults.json there says what is to break: see fault. push prints the
// digest of what it pushed; that is what docker save writes, or an OCI layout,
// of which manifests may name blobs that are nowhere.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

var errUsage = errors.New("usage: registry serve -dir FOLDER -log FILE [-listen ADDRESS] [-name NAMES] | push -ca FILE [-user USER -password-file FILE] TAR|- REFERENCE")

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, stdout io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	switch args[0] {
	case "serve":
		dir := flags.String("dir", "", "`folder` of certificates, password and faults")
		log := flags.String("log", "", "`file` that gets one JSON line for each request")
		listen := flags.String("listen", ":5000", "`address` to listen on")
		names := flags.String("name", "10.77.0.1,127.0.0.1,localhost", "`names` and addresses that the certificate is for, separated by commas")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		if *dir == "" || *log == "" || flags.NArg() > 0 {
			return errUsage
		}
		return serve(*dir, *log, *listen, strings.Split(*names, ","))
	case "push":
		var p pusher
		flags.StringVar(&p.ca, "ca", "", "PEM `file` by which the registry is trusted")
		flags.StringVar(&p.user, "user", "", "`user` to push as")
		flags.StringVar(&p.passwordFile, "password-file", "", "`file` of the user's password")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		if p.ca == "" || (p.user == "") != (p.passwordFile == "") || flags.NArg() != 2 {
			return errUsage
		}
		digest, err := p.push(flags.Arg(0), flags.Arg(1), stdin)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(stdout, digest)
		return err
	}
	return errUsage
}
