// SPDX-License-Identifier: Apache-2.0

// Command wget is the HTTP client of the images that hack/images makes. It
// understands the options of busybox's wget that people and tests use, and
// keeps to http_proxy, https_proxy and no_proxy. Debian's static busybox has a
// wget of its own, but its -T crashes, so that a test of what cannot be reached
// would always succeed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// options are the command line.
type options struct {
	quiet, headers bool
	output         string
	timeout        int
	header         []string
	post           string
	tries          int
}

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "wget:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	var o options
	flags := pflag.NewFlagSet("wget", pflag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "print no progress")
	flags.BoolVarP(&o.headers, "server-response", "S", false, "print the response's headers")
	flags.StringVarP(&o.output, "output-document", "O", "", "save to `FILE`, - for standard output")
	flags.IntVarP(&o.timeout, "timeout", "T", 0, "give up after `SECONDS`, for the whole request; 0 waits without a limit")
	flags.StringArrayVar(&o.header, "header", nil, "send `'NAME: VALUE'`; may be repeated")
	flags.StringVar(&o.post, "post-data", "", "send a POST request with `DATA`")
	flags.IntVarP(&o.tries, "tries", "t", 1, "accepted for compatibility; one attempt is made")
	flags.Usage = func() { fmt.Fprintf(stderr, "usage: wget [OPTION]... URL\n%s", flags.FlagUsages()) }
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		flags.Usage()
		return errors.New("want one URL")
	}
	return fetch(o, flags.Arg(0), stdout, stderr)
}

// fetch makes the request and saves the body.
func fetch(o options, address string, stdout, stderr io.Writer) error {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	request, err := newRequest(o, address)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(o.timeout)*time.Second)
		defer cancel()
	}
	response, err := http.DefaultClient.Do(request.WithContext(ctx))
	if err != nil {
		return plain(err)
	}
	defer response.Body.Close()
	if o.headers {
		fmt.Fprintf(stderr, "  %s %s\n", response.Proto, response.Status)
		_ = response.Header.Write(stderr)
	}
	if response.StatusCode >= 400 {
		return fmt.Errorf("server returned error: %s %s", response.Proto, response.Status)
	}
	return save(o, response, stdout, stderr)
}

func newRequest(o options, address string) (*http.Request, error) {
	method, body := http.MethodGet, io.Reader(nil)
	if o.post != "" {
		method, body = http.MethodPost, strings.NewReader(o.post)
	}
	request, err := http.NewRequest(method, address, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "Wget")
	if o.post != "" {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, line := range o.header {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("--header %q: want 'NAME: VALUE'", line)
		}
		if value = strings.TrimSpace(value); strings.EqualFold(name, "Host") {
			request.Host = value
		} else {
			request.Header.Set(name, value)
		}
	}
	return request, nil
}

// save writes the body to the file that the options or the URL name.
func save(o options, response *http.Response, stdout, stderr io.Writer) error {
	to, name := stdout, o.output
	if name == "" {
		if name = path.Base(response.Request.URL.Path); name == "/" || name == "." {
			name = "index.html"
		}
	}
	if name != "-" {
		file, err := os.Create(name)
		if err != nil {
			return err
		}
		defer file.Close()
		to = file
	}
	if _, err := io.Copy(to, response.Body); err != nil {
		return plain(err)
	}
	if !o.quiet && name != "-" {
		fmt.Fprintf(stderr, "'%s' saved\n", name)
	}
	return nil
}

// plain is a transport's error without the method and URL that precede it.
func plain(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("download timed out")
	}
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}
