// SPDX-License-Identifier: Apache-2.0

package httppath_test

import (
	"net/url"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/httppath"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern    string
		yes, never []string
	}{
		{"/", []string{"/"}, []string{"/a"}},
		{"/v1/messages", []string{"/v1/messages"}, []string{"/v1/messages/", "/v1/message", "/V1/messages", "/v1/messages/x", "/v1/messagesx"}},
		{"/v1/*", []string{"/v1/a", "/v1/a.b:c"}, []string{"/v1/", "/v1", "/v1/a/", "/v1/a/b", "/v1/a%2Fb", "/v1/a%2F"}},
		{"/v1/*/x", []string{"/v1/a/x"}, []string{"/v1/x", "/v1/a/b/x", "/v1/a%2Fb/x"}},
		{"/v1/**", []string{"/v1/", "/v1/a", "/v1/a/b/c/", "/v1/a%2Fb", "/v1/%2F"}, []string{"/v1", "/v10/a", "/v1%2Fa"}},
		{"/**", []string{"/", "/a", "/a/b"}, nil},
		{"/**/x", []string{"/x", "/a/x", "/a/b/x", "/a%2Fb/x"}, []string{"/ax", "/a/bx", "/a%2Fx"}},
		{"/a/**/b/**/c", []string{"/a/b/c", "/a/x/b/y/z/c"}, []string{"/a/c", "/a/xb/c"}},
		{"/a**z", []string{"/az", "/abz", "/ab/cz", "/a/z"}, []string{"/a", "/z"}},
		{"/*.git/**", []string{"/a.git/x", "/.git/"}, []string{"/a/b.git/x", "/agit/x"}},
		{"/@s%2F*", []string{"/@s%2Fa"}, []string{"/@s/a", "/@s%2Fa%2Fb"}},
		{"/*/readonly", []string{"/a/readonly"}, []string{"/;x/readonly", "/a;x/b/readonly", "/a%2F/readonly/x"}},
		{"/users/*", []string{"/users/a", "/users/a;b", "/users/a%3Fb"}, []string{"/users/;a", "/users/%3Fa", "/users/%23", "/users/%3Ba", "/users/%2F"}},
		{"/*/ok", []string{"/a/ok"}, []string{"/a%3Fx/ok", "/a%23/ok"}},
		{"/*3*", []string{"/3", "/a3%3C"}, []string{"/a%3C", "/%33"}}, // no digit of an escape
		{"/a*%C3%A9*", []string{"/a%C3%A9", "/ab%C3%A9c"}, []string{"/a%C3", "/a3%A9"}},
		{"/a;v=1/b", []string{"/a;v=1/b"}, []string{"/a/b", "/a;v=2/b"}},
	} {
		p, err := httppath.ParsePattern(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
		}
		for _, path := range c.yes {
			if !p.Match(path) {
				t.Errorf("got %s does not match %s, want a match", c.pattern, path)
			}
		}
		for _, path := range c.never {
			if p.Match(path) {
				t.Errorf("got %s matches %s, want no match", c.pattern, path)
			}
		}
	}
	stars, err := httppath.ParsePattern(strings.Repeat("/*", httppath.MaxPatternLength/2))
	if err != nil || !stars.Match(strings.Repeat("/a", httppath.MaxPatternLength/2)) {
		t.Errorf("got %v, and no match of the longest row of stars", err)
	}
	if (httppath.Pattern{}).Match("/") {
		t.Error("got a match of the zero Pattern")
	}
}

func TestParsePattern(t *testing.T) {
	for text, want := range map[string]string{
		"/" + strings.Repeat("é", 170): "/" + strings.Repeat("%C3%A9", 170),
		"/":                            "/", "/%61/%7e": "/a/~", "/a%2fb": "/a%2Fb", "/é": "/%C3%A9", "/a*b/**": "/a*b/**",
	} {
		p, err := httppath.ParsePattern(text)
		if err != nil || p.String() != want {
			t.Errorf("%s: got %s, %v, want %s", text, p, err, want)
		}
		if again, err := httppath.ParsePattern(p.String()); again != p || err != nil {
			t.Errorf("%s: got %s, %v, when its normal form is parsed", text, again, err)
		}
	}
	for _, text := range []string{
		"", "a", "*", "/a/../b", "/a//b", "/./a", "/%2e%2e/a", "/***", "/a?b", "/a#b", "/a%", "/a\\b", "/%00", "/..;/a", "/a%252e",
		"/" + strings.Repeat("a", httppath.MaxPatternLength),
		"/" + strings.Repeat("é", 200), // too long when escaped
	} {
		if p, err := httppath.ParsePattern(text); err == nil {
			t.Errorf("%.40s: got %s, want an error", text, p)
		}
	}
}

func TestApply(t *testing.T) {
	u := &url.URL{Path: "/old"}
	if err := httppath.Apply(u, "/a%2Fb%20c"); err != nil || u.EscapedPath() != "/a%2Fb%20c" || u.Path != "/a/b c" {
		t.Errorf("got %#v, %v", u, err)
	}
}
