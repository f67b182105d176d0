// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"botbottle.dev/bottle-operator/hack/dev/certificate"
)

// user is the only user who may read and write below private/.
const user = "bottle"

// entry is a line of the log.
type entry struct {
	Time   string `json:"time"`
	Remote string `json:"remote"`
	// User is the user named in the request, "" if anonymous. The password may
	// have been wrong.
	User   string `json:"user,omitempty"`
	Method string `json:"method"`
	Path   string `json:"path"`
	// Range is the request's Range header, "" if it requested the whole blob.
	Range  string `json:"range,omitempty"`
	Status int    `json:"status"`
	// Bytes is the number of bytes of the response body that were written.
	Bytes int64 `json:"bytes"`
	// Fault is the injected fault: "cut", "corrupt", "redirect" or ""
	// for none.
	Fault string `json:"fault,omitempty"`
}

// server is the registry's handler.
type server struct {
	registry http.Handler
	password string
	faults   *faults

	mu  sync.Mutex
	log io.Writer
}

func newServer(dir string, journal io.Writer) (*server, error) {
	secret, err := password(dir)
	if err != nil {
		return nil, err
	}
	return &server{
		registry: registry.New(registry.Logger(log.New(io.Discard, "", 0))),
		password: secret, faults: &faults{path: dir + "/faults.json"}, log: journal,
	}, nil
}

func serve(dir, journal, listen string, names []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(journal, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	s, err := newServer(dir, file)
	if err != nil {
		return err
	}
	cert, err := certificate.Load(dir, names)
	if err != nil {
		return err
	}
	web := &http.Server{
		Addr: listen, Handler: s, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: time.Minute,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
		// Do not log connections that are cut on purpose.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	return web.ListenAndServeTLS("", "")
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, secret, _ := r.BasicAuth()
	rec := &recordedResponse{ResponseWriter: w, status: http.StatusOK, entry: entry{
		Remote: r.RemoteAddr, User: name, Method: r.Method, Path: r.URL.Path, Range: r.Header.Get("Range"),
	}}
	defer s.logRequest(rec) // also if the connection is cut
	if strings.HasPrefix(r.URL.Path, "/v2/private/") && !s.authenticated(name, secret) {
		challenge(rec)
		return
	}
	if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
		rec.fault = s.faults.next(r.URL.Path)
	}
	if rec.fault != nil && rec.fault.Redirect != "" {
		rec.entry.Fault = "redirect"
		http.Redirect(rec, r, rec.fault.Redirect, http.StatusTemporaryRedirect)
		return
	}
	s.registry.ServeHTTP(rec, r)
	if rec.fault != nil && rec.fault.CutAfterBytes > 0 {
		s.faults.returnCut() // a cut panics and does not get here
	}
}

func (s *server) authenticated(name, secret string) bool {
	return name == user && subtle.ConstantTimeCompare([]byte(secret), []byte(s.password)) == 1
}

func challenge(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Basic realm="development registry"`)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
}

// logRequest writes a line with one Write call, so that a reader sees all of it or none.
func (s *server) logRequest(rec *recordedResponse) {
	e := rec.entry
	e.Time, e.Status, e.Bytes = time.Now().UTC().Format(time.RFC3339Nano), rec.status, rec.written
	line, err := json.Marshal(e)
	if err != nil {
		return // cannot happen: strings and numbers always marshal
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = s.log.Write(append(line, '\n')) // there is nowhere to report an error
}

// recordedResponse counts the bytes of a response and injects its fault.
type recordedResponse struct {
	http.ResponseWriter
	entry   entry
	fault   *fault
	status  int
	written int64
}

func (r *recordedResponse) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recordedResponse) Write(p []byte) (int, error) {
	cut := false
	if f := r.fault; f != nil && r.status < 300 && len(p) > 0 {
		switch {
		case f.CutAfterBytes > 0 && r.written+int64(len(p)) > f.CutAfterBytes:
			p, cut = p[:f.CutAfterBytes-r.written], true
			r.entry.Fault = "cut"
		case f.Corrupt > 0 && r.written == 0:
			p = append([]byte{p[0] ^ 0xff}, p[1:]...)
			r.entry.Fault = "corrupt"
		}
	}
	n, err := r.ResponseWriter.Write(p)
	r.written += int64(n)
	if cut {
		_ = http.NewResponseController(r.ResponseWriter).Flush() // let the client receive what was written before the cut
		panic(http.ErrAbortHandler)
	}
	return n, err
}
