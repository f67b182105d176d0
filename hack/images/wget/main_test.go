// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/refused":
			http.Error(w, "no", http.StatusForbidden)
		case "/silent":
			<-r.Context().Done()
		default:
			fmt.Fprintf(w, "%s %s %s %s %s", r.Method, r.Host, r.Header.Get("X"), r.URL.Path, body)
		}
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	for name, tt := range map[string]struct {
		args      []string
		want, err string
	}{
		"to standard output":       {[]string{"-qO-", server.URL + "/a"}, "GET " + host + "  /a ", ""},
		"without a scheme":         {[]string{"-q", "-O", "-", host + "/a"}, "GET " + host + "  /a ", ""},
		"options after the URL":    {[]string{"-qO-", server.URL + "/a", "--header", "X: y"}, "GET " + host + " y /a ", ""},
		"another Host":             {[]string{"-qO-", "--header", "Host: other.test", server.URL + "/a"}, "GET other.test  /a ", ""},
		"POST":                     {[]string{"-qO-", "--post-data", "k=v", server.URL + "/a"}, "POST " + host + "  /a k=v", ""},
		"an error of the server's": {[]string{"-qO-", server.URL + "/refused"}, "", "server returned error: HTTP/1.1 403 Forbidden"},
		"a silent server":          {[]string{"-qO-", "-T1", server.URL + "/silent"}, "", "download timed out"},
		"nothing there":            {[]string{"-qO-", "http://127.0.0.1:1/"}, "", "connection refused"},
		"a header without a name":  {[]string{"-qO-", "--header", "X", server.URL}, "", "want 'NAME: VALUE'"},
		"no URL":                   {[]string{"-q"}, "", "want one URL"},
		"an unknown option":        {[]string{"--spider", server.URL}, "", "unknown flag: --spider"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout bytes.Buffer
			err := run(tt.args, &stdout, io.Discard)
			if got := stdout.String(); got != tt.want {
				t.Errorf("standard output: got %q, want %q", got, tt.want)
			}
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("got error %v, want %q", err, tt.err)
			}
		})
	}
}

func TestSaveToFile(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "content") }))
	defer server.Close()
	t.Chdir(t.TempDir())
	for args, want := range map[string]string{server.URL + "/dir/name": "name", server.URL: "index.html"} {
		var stderr bytes.Buffer
		if err := run([]string{args}, io.Discard, &stderr); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(".", want)); err != nil || string(got) != "content" {
			t.Errorf("%s: got %q (%v), want the content", want, got, err)
		}
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("standard error: got %q, want the file's name", stderr.String())
		}
	}
}
