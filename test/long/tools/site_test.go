// SPDX-License-Identifier: Apache-2.0

package tools

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	"golang.org/x/net/websocket"
)

// site is a host outside. It is a small registry of every kind, with one package each.
type site struct {
	files map[string]func(base string) []byte // by path
}

func fixed(content string) func(string) []byte { return func(string) []byte { return []byte(content) } }

func newSite() *site {
	wheel := zipped(map[string]string{
		"demo.py": "", "demo-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
		"demo-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n", "demo-1.0.dist-info/RECORD": "",
	})
	module := zipped(map[string]string{"example.com/demo@v1.0.0/go.mod": "module example.com/demo\n", "example.com/demo@v1.0.0/demo.go": "package demo\n"})
	npm := tarred(map[string]string{"package/package.json": `{"name":"demo","version":"1.0.0"}`})
	crate := tarred(map[string]string{"demo-1.0.0/Cargo.toml": "[package]\nname = \"demo\"\nversion = \"1.0.0\"\nedition = \"2021\"\n", "demo-1.0.0/src/lib.rs": ""})
	sum512 := sha512.Sum512(npm)
	sum256 := sha256.Sum256(crate)
	return &site{files: map[string]func(string) []byte{
		"/hello":                            fixed("hello\n"),
		"/simple/demo/":                     fixed(`<a href="/wheels/demo-1.0-py3-none-any.whl">demo-1.0-py3-none-any.whl</a>`),
		"/wheels/demo-1.0-py3-none-any.whl": func(string) []byte { return wheel },
		"/npm/demo": func(base string) []byte {
			return fmt.Appendf(nil, `{"name":"demo","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"demo","version":"1.0.0","dist":{"tarball":"%s/npm/demo.tgz","integrity":"sha512-%s"}}}}`,
				base, base64.StdEncoding.EncodeToString(sum512[:]))
		},
		"/npm/demo.tgz":                       func(string) []byte { return npm },
		"/go/example.com/demo/@v/v1.0.0.info": fixed(`{"Version":"v1.0.0","Time":"2026-01-02T03:04:05Z"}`),
		"/go/example.com/demo/@v/v1.0.0.mod":  fixed("module example.com/demo\n"),
		"/go/example.com/demo/@v/v1.0.0.zip":  func(string) []byte { return module },
		"/cargo/config.json": func(base string) []byte {
			return fmt.Appendf(nil, `{"dl":"%s/cargo/dl/{crate}-{version}.crate"}`, base)
		},
		"/cargo/de/mo/demo":                    fixed(fmt.Sprintf(`{"name":"demo","vers":"1.0.0","deps":[],"cksum":"%s","features":{},"yanked":false}`, hex.EncodeToString(sum256[:]))),
		"/cargo/dl/demo-1.0.0.crate":           func(string) []byte { return crate },
		"/maven/com/example/demo/1/demo-1.pom": fixed(`<project><modelVersion>4.0.0</modelVersion><groupId>com.example</groupId><artifactId>demo</artifactId><version>1</version><packaging>pom</packaging></project>`),
		"/apt/Packages":                        fixed("Package: demo\nVersion: 1\nArchitecture: all\nMaintainer: test <test@example.com>\nFilename: ./demo_1_all.deb\nSize: 1\nSHA256: " + strings.Repeat("0", 64) + "\nDescription: test\n"),
	}}
}

// ServeHTTP implements http.Handler.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Whatever a client sends itself, the credential is the bundle's.
	if r.Host == openedHost && r.Header.Get("Authorization") != "Bearer "+credential {
		http.Error(w, "a request without the credential", http.StatusUnauthorized)
		return
	}
	switch r.URL.Path {
	case "/ws":
		websocket.Server{Handler: func(c *websocket.Conn) { _, _ = io.Copy(c, c) }}.ServeHTTP(w, r)
		return
	case "/demo.Demo/Say":
		answerCall(w, r)
		return
	}
	base := "http://" + r.Host
	if r.TLS != nil {
		base = "https://" + r.Host
	}
	name := path.Clean(r.URL.Path)
	if strings.HasSuffix(r.URL.Path, "/") && name != "/" {
		name += "/"
	}
	content, ok := s.files[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	switch {
	case strings.HasPrefix(name, "/simple/"):
		w.Header().Set("Content-Type", "text/html")
	case name == "/npm/demo":
		w.Header().Set("Content-Type", "application/json")
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	_, _ = w.Write(content(base))
}

// answerCall answers a unary call of gRPC with the message that it got.
func answerCall(w http.ResponseWriter, r *http.Request) {
	message, err := io.ReadAll(r.Body)
	if err != nil || r.ProtoMajor != 2 || r.Header.Get("Content-Type") != "application/grpc" {
		http.Error(w, "not a call of gRPC", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	_, _ = w.Write(message)
	w.Header().Set("Grpc-Status", "0")
}

func zipped(files map[string]string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, content := range files {
		f, err := z.Create(name)
		if err == nil {
			_, err = f.Write([]byte(content))
		}
		if err != nil {
			panic(err) // a buffer takes everything
		}
	}
	_ = z.Close()
	return b.Bytes()
}

func tarred(files map[string]string) []byte {
	var b bytes.Buffer
	g := gzip.NewWriter(&b)
	t := tar.NewWriter(g)
	for name, content := range files {
		err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg})
		if err == nil {
			_, err = t.Write([]byte(content))
		}
		if err != nil {
			panic(err) // a buffer takes everything
		}
	}
	_ = t.Close()
	_ = g.Close()
	return b.Bytes()
}
