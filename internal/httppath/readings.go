// SPDX-License-Identifier: Apache-2.0

package httppath

import "strings"

// readings are the ways, other than the plain one, in which servers read a path in
// normal form.
var readings = []func(string) string{
	decodeSlashes,
	dropParameters,
	func(path string) string { return dropParameters(decodeSlashes(path)) },
	func(path string) string { return decodeSlashes(dropParameters(path)) },
	cutQuery,
	func(path string) string { return decodeSlashes(cutQuery(path)) },
	func(path string) string { return dropParameters(cutQuery(path)) },
	func(path string) string { return dropParameters(decodeSlashes(cutQuery(path))) },
	func(path string) string { return decodeSlashes(dropParameters(cutQuery(path))) },
}

// decodeSlashes decodes escaped slashes, and removes the empty segments that result.
func decodeSlashes(path string) string {
	if !strings.Contains(path, "%2F") {
		return path
	}
	return removeDotSegments(strings.ReplaceAll(path, "%2F", "/"))
}

// dropParameters drops what follows a semicolon in each segment.
func dropParameters(path string) string {
	if !strings.Contains(path, ";") && !strings.Contains(path, "%3B") {
		return path
	}
	var b strings.Builder
	for i, segment := range strings.Split(path, "/") {
		if i > 0 {
			b.WriteByte('/')
		}
		segment, _, _ = strings.Cut(segment, ";")
		segment, _, _ = strings.Cut(segment, "%3B")
		b.WriteString(segment)
	}
	return removeDotSegments(b.String())
}

// cutQuery ends the path at an escaped question mark or number sign.
func cutQuery(path string) string {
	path, _, _ = strings.Cut(path, "%3F")
	path, _, _ = strings.Cut(path, "%23")
	return path
}
