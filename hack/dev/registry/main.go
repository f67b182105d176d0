// SPDX-License-Identifier: Apache-2.0

// Command registry is the development cluster's image registry: a real OCI
// registry in memory, served over TLS. It requires a password for repositories
// below private/, logs each request as a line of JSON, and injects the faults
// that a file specifies. Run it only in namespaces that have no route out of the
// machine.
//
// usage:
//
//	registry serve -dir FOLDER -log FILE [-listen ADDRESS] [-name NAMES]
//	registry push -ca FILE [-user USER -password-file FILE] TAR|- REFERENCE
//
// serve keeps these files in FOLDER and creates those that are missing: ca.pem,
// which clients must trust; password, the password of user "bottle"; and its own
// certificate and key. The file faults.json there specifies faults: see fault.
//
// push accepts an archive from docker save or an OCI layout, and prints the
// digest of the pushed image. The manifests of a layout may name blobs that it
// does not contain.
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
		dir := flags.String("dir", "", "`folder` with the certificates, the password and faults.json")
		log := flags.String("log", "", "`file` that gets one JSON line for each request")
		listen := flags.String("listen", ":5000", "`address` to listen on")
		names := flags.String("name", "10.77.0.1,127.0.0.1,localhost", "`names` and addresses in the certificate, separated by commas")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		if *dir == "" || *log == "" || flags.NArg() > 0 {
			return errUsage
		}
		return serve(*dir, *log, *listen, strings.Split(*names, ","))
	case "push":
		var p pusher
		flags.StringVar(&p.ca, "ca", "", "PEM `file` with the registry's CA certificate")
		flags.StringVar(&p.user, "user", "", "`user` to push as")
		flags.StringVar(&p.passwordFile, "password-file", "", "`file` with the user's password")
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
