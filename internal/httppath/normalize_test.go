// SPDX-License-Identifier: Apache-2.0

package httppath_test

import (
	"net/url"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/httppath"
)

func TestNormalize(t *testing.T) {
	for target, want := range map[string]string{
		"/":                        "/",
		"http://host.test":         "/",
		"http://host.test/a?b=/..": "/a",
		"https://h.test//a":        "/a",
		"/v1/messages":             "/v1/messages",
		"/v1/messages/":            "/v1/messages/",
		"//a///b//":                "/a/b/",
		"/a/./b/.":                 "/a/b/",
		"/a/b/..":                  "/a/",
		"/a/b/../":                 "/a/",
		"/a/../../../b":            "/b",
		"/..":                      "/",
		"/%2e%2E/%2e/a":            "/a",
		"/a/.%2e/b":                "/b",
		"/a/%2e./b":                "/b",
		"/%61%7E%2d%5F":            "/a~-_",
		"/%c3%a9/é":                "/%C3%A9/%C3%A9",
		"/@scope%2fname":           "/@scope%2Fname",
		"/a b\"<>^`{|}[]":          "/a%20b%22%3C%3E%5E%60%7B%7C%7D%5B%5D",
		"/a!$&'()*+,;=:@":          "/a!$&'()*+,;=:@",
		"/%21%3b":                  "/%21%3B",
		"/a%3Fb%23c":               "/a%3Fb%23c",
		"/100%25":                  "/100%25",
		"/.a/..b/c..d/.well-known": "/.a/..b/c..d/.well-known",
		"/main...feature":          "/main...feature",
		"/a;v=1/b":                 "/a;v=1/b",
	} {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Fatal(err)
		}
		got, err := httppath.Normalize(u)
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", target, got, err, want)
		}
	}
}

// TestNormalizeRefuses lists spellings of paths that programs read in different ways.
func TestNormalizeRefuses(t *testing.T) {
	for _, target := range []string{
		"*", "a/b",
		"/..;/a", "/a/..;x/b", "/a/;/../..;", "/.;/a", "/%2e%2e;x/", "/..%3B/", "/.%2e;a=b/", "/a/..%3bx",
		"/a%2F..%2Fb", "/a/..%2fb", "/a%2f../b", "/..%2F", "/%2e%2e%2fa", "/a%2F.%2Fb", "/a%2F..", "/%2F..", "/a%2F..;x",
		`/a\b`, `/..\a`, "/a%5cb", "/%5C..%5C", "/..%5c",
		"/%252e%252e/", "/a%252fb", "/a%252Fb", "/a%255cb", "/%25%32%65", "/%25252e", "/%2525", "/%2541", "/%25%32%46", "/a%25u002e",
		"/a%00", "/a%0ab", "/a%0d%0aHost:%20x", "/a%7f", "/%09", "/a%1f", "/a%c2%85b", "/a\x7f",
		"/%c0%ae%c0%ae/", "/%c0%af", "/%c1%9c", "/%e0%80%ae", "/%f0%80%80%ae", "/%ff", "/a\xff", "/%C0%2E", "/%c3",
		"/%ef%bc%8e%ef%bc%8e/", "/．．/a", "/․․/", "/‥/", "/%e2%80%a5/", "/。。/", "/.%ef%bc%8e/",
		"/a／b", "/a%ef%bc%8fb", "/a∕b", "/a＼b", "/a%e2%88%95b", "/a；b",
		"/..%20/", "/.. /", "/%20../", "/.%20./", "/.../a", "/..../", "/.%e2%80%8b./", "/..%c2%a0/", "/..%ef%bb%bf/",
		"/a#b", "/a#", "/%u002e%u002e/",
		"/a%2e%2f..", "/a/..;/..;/b", "/..;%2f", "/.%2e%2f",
		"/" + strings.Repeat("a", httppath.MaxLength), "/" + strings.Repeat("é", httppath.MaxLength/4),
	} {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			u = &url.URL{Path: target, RawPath: target} // a server would answer 400
		}
		if got, err := httppath.Normalize(u); err == nil {
			t.Errorf("%.60q: got %q, want an error", target, got)
		}
	}
	for _, u := range []*url.URL{
		{Opaque: "host/a"}, {Path: "/a", Fragment: "b"}, {Path: "/a", RawPath: "/b"}, {Path: "/a%", RawPath: "/a%"},
		{Path: "/a?b", RawPath: "/a?b"}, {Path: "a"},
	} {
		if got, err := httppath.Normalize(u); err == nil {
			t.Errorf("%#v: got %q, want an error", u, got)
		}
	}
}
