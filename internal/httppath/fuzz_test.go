// SPDX-License-Identifier: Apache-2.0

package httppath_test

import (
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"botbottle.dev/bottle-operator/internal/httppath"
)

var fuzzPaths = []string{
	"/v1/messages", "/a/../b", "/%2e%2e/a", "/a//b/", "/..;/a", "/a;v=1/b", "/@s%2fname", "/a%2F..%2Fb", "/%252e/", "/a%00", "/%c0%ae",
	"/．．/", "/.%2e/..%20/", "/a%3Fb%23c", "/é", "/a b", "/100%25", "/%5c..", "/;/;a/%3b", "/a%2f/%2F", "/.%e2%80%8b./x", "/%e3%80%82%EF%BD%A1",
}

// once decodes all escapes, as lenient servers do: it keeps what is no escape.
func once(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if i+2 < len(text) {
			if c, err := url.PathUnescape(text[i : i+3]); err == nil && text[i] == '%' {
				b.WriteString(c)
				i += 2
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// withoutParameters cuts each segment at its first semicolon.
func withoutParameters(text string) string {
	segments := strings.Split(text, "/")
	for i := range segments {
		segments[i], _, _ = strings.Cut(segments[i], ";")
	}
	return strings.Join(segments, "/")
}

// toASCII is what a careless conversion makes of dots and slashes.
func toASCII(text string) string {
	return strings.NewReplacer("．", ".", "․", ".", "‥", "..", "…", "...", "。", ".", "｡", ".", "／", "/", "＼", "/", "∕", "/", "⁄", "/", "\\", "/", "；", ";", "\u200b", "", "\ufeff", "").Replace(text)
}

// trimmed removes spaces at the ends of segments, as some file systems do.
func trimmed(text string) string {
	segments := strings.Split(text, "/")
	for i := range segments {
		segments[i] = strings.Trim(segments[i], " ")
	}
	return strings.Join(segments, "/")
}

// readers are what servers do to a path before they look for dot segments.
var readers = map[string]func(string) string{
	"as it is":                   func(p string) string { return p },
	"decoded":                    once,
	"decoded twice":              func(p string) string { return once(once(p)) },
	"decoded three times":        func(p string) string { return once(once(once(p))) },
	"parameters":                 withoutParameters,
	"parameters, decoded":        func(p string) string { return once(withoutParameters(p)) },
	"decoded, parameters":        func(p string) string { return withoutParameters(once(p)) },
	"decoded, ASCII":             func(p string) string { return toASCII(once(p)) },
	"decoded, ASCII, parameters": func(p string) string { return withoutParameters(toASCII(once(p))) },
	"decoded, trimmed":           func(p string) string { return trimmed(once(p)) },
	"decoded, parameters, trimmed, ASCII": func(p string) string {
		return toASCII(trimmed(withoutParameters(once(p))))
	},
}

// FuzzNormalize checks of each path that is accepted that its normal form is its own,
// that it is sent as it is, that no server finds a dot segment or a control character
// in it, and that a server that knows no tricks sees the same path as before.
func FuzzNormalize(f *testing.F) {
	for _, p := range fuzzPaths {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			u = &url.URL{Path: target, RawPath: target}
		}
		normal, err := httppath.Normalize(u)
		if err != nil {
			return
		}
		if again, err := httppath.Normalize(&url.URL{Path: once(normal), RawPath: normal}); err != nil || again != normal {
			t.Fatalf("%q: got %q, whose normal form is %q, %v", target, normal, again, err)
		}
		sent := &url.URL{Scheme: "https", Host: "host.test", RawQuery: "q"}
		if err := httppath.Apply(sent, normal); err != nil || sent.RequestURI() != normal+"?q" || sent.Path != once(normal) {
			t.Fatalf("%q: got %q, %v, want that %q is sent", target, sent.RequestURI(), err, normal)
		}
		for name, read := range readers {
			for segment := range strings.SplitSeq(read(normal), "/") {
				if segment == "." || segment == ".." {
					t.Fatalf("%q: got %q, in which a server sees a dot segment: %s", target, normal, name)
				}
			}
		}
		decoded := once(normal)
		if !utf8.ValidString(decoded) || strings.ContainsFunc(decoded, unicode.IsControl) || strings.Contains(decoded, `\`) || strings.Contains(normal, "//") {
			t.Fatalf("%q: got %q", target, normal)
		}
		if strings.Contains(normal, "%2F") {
			return // once does not tell such a slash from others
		}
		want := path.Clean("/" + once(u.EscapedPath()))
		if got := path.Clean(decoded); got != want {
			t.Fatalf("%q: got %q, want the path %q", target, normal, want)
		}
	})
}

// expression translates a glob to a regular expression for decoded paths.
func expression(glob string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for rest := glob; rest != ""; {
		begins := strings.HasSuffix(glob[:len(glob)-len(rest)], "/")
		switch {
		case begins && strings.HasPrefix(rest, "**/"):
			b.WriteString(`(?:.*/)?`)
			rest = rest[3:]
		case strings.HasPrefix(rest, "**"):
			b.WriteString(`.*`)
			rest = rest[2:]
		case begins && (rest == "*" || strings.HasPrefix(rest, "*/")):
			b.WriteString(`[^/]+`)
			rest = rest[1:]
		case rest[0] == '*':
			b.WriteString(`[^/]*`)
			rest = rest[1:]
		default:
			end := strings.IndexByte(rest, '*')
			if end < 0 {
				end = len(rest)
			}
			b.WriteString(regexp.QuoteMeta(once(rest[:end])))
			rest = rest[end:]
		}
	}
	return regexp.MustCompile(b.String() + `\z`)
}

// FuzzMatch checks that what a pattern matches is also matched by the same pattern as a
// regular expression, in each way in which a server may read path and pattern.
func FuzzMatch(f *testing.F) {
	for i, p := range fuzzPaths {
		f.Add([]string{"/**", "/v1/*", "/*/b", "/a**", "/**/a/**", "/@s%2F*", "/a;v=1/*", "/a*%3Fb**"}[i%8], p)
	}
	f.Add("/users/*", "/users/%2F")
	f.Add("/*/ok", "/x%3F/ok")
	f.Fuzz(func(t *testing.T, text, target string) {
		pattern, err := httppath.ParsePattern(text)
		if err != nil || len(target) > 300 {
			return
		}
		if again, err := httppath.ParsePattern(pattern.String()); err != nil || again != pattern {
			t.Fatalf("%q: got %q, then %q, %v", text, pattern, again, err)
		}
		normal, err := httppath.Normalize(&url.URL{Path: once(target), RawPath: target})
		if err != nil {
			return
		}
		// The private characters tell an escaped slash or star from a plain one.
		hide := strings.NewReplacer("%2F", "\ue000", "%2A", "\ue001").Replace
		matches := pattern.Match(normal)
		plain := expression(hide(pattern.String())).MatchString(once(hide(normal)))
		if matches && !plain || plain && !matches && !strings.ContainsAny(normal, "%;") {
			t.Fatalf("%q, %q: got %t, want %t", pattern, normal, matches, plain)
		}
		if !matches {
			return
		}
		slashes := func(p string) string { return collapse(strings.ReplaceAll(p, "%2F", "/")) }
		parameters := func(p string) string {
			return collapse(hide(withoutParameters(strings.ReplaceAll(p, "%3B", ";"))))
		}
		query := func(p string) string {
			if i := strings.Index(p, "%3F"); i >= 0 {
				p = p[:i]
			}
			if i := strings.Index(p, "%23"); i >= 0 {
				p = p[:i]
			}
			return hide(p)
		}
		for name, read := range map[string]func(string) string{
			"slashes": slashes, "parameters": parameters, "query": query,
			"slashes, parameters": func(p string) string { return parameters(slashes(p)) },
			"query, slashes":      func(p string) string { return slashes(query(strings.ReplaceAll(p, "%2F", "/"))) },
			"query, parameters":   func(p string) string { return parameters(query(p)) },
		} {
			if server := once(read(normal)); !expression(read(pattern.String())).MatchString(server) {
				t.Fatalf("%q, %q: got a match, but a server that reads the path as %q (%s) was not meant", pattern, normal, server, name)
			}
		}
	})
}

// collapse removes empty segments.
func collapse(p string) string {
	for strings.Contains(p, "//") {
		p = strings.ReplaceAll(p, "//", "/")
	}
	return p
}
