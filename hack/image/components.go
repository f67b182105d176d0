// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"botbottle.dev/bottle-operator/hack/internal/imagetar"
)

// components returns what the wheel consists of: itself, the libraries in it, the
// packages of the guest's root file system, and the crates that the wheel's own SBOM
// names.
func (w *wheel) components(entries []imagetar.File) ([]component, error) {
	name := filepath.Base(w.path)
	all := []component{{
		name: "smolmachines", version: w.version, file: name, sha256: sha256Hex(w.content), in: w.arch,
		purl:     "pkg:pypi/smolmachines@" + w.version + "?file_name=" + name,
		license:  "Apache-2.0",
		download: "https://pypi.org/project/smolmachines/" + w.version + "/",
	}}
	all = append(all, w.libraries()...)
	packages, err := guestPackages(entries)
	if err != nil {
		return nil, err
	}
	crates, err := w.crates()
	if err != nil {
		return nil, err
	}
	for _, c := range append(packages, crates...) {
		c.in = w.arch
		all = append(all, c)
	}
	return all, nil
}

// The notices of a wheel have a section for each library that comes from elsewhere.
var (
	noticeTitle   = regexp.MustCompile(`^## (\S+)`)
	noticeSource  = regexp.MustCompile(`^- Source: (\S+)/tree/([0-9a-f]{40})$`)
	noticeLicense = regexp.MustCompile(`^- License: (\S+)`)
)

// libraries returns the libraries in the wheel, with the origins that its notices name.
func (w *wheel) libraries() []component {
	type origin struct{ license, repository, revision string }
	origins := map[string]*origin{}
	var current *origin
	scanner := bufio.NewScanner(bytes.NewReader(w.files["smol/THIRD_PARTY_NOTICES.md"]))
	for scanner.Scan() {
		line := scanner.Text()
		if m := noticeTitle.FindStringSubmatch(line); m != nil {
			current = &origin{}
			origins[m[1]] = current
		}
		if current == nil {
			continue
		}
		if m := noticeSource.FindStringSubmatch(line); m != nil {
			current.repository, current.revision = m[1], m[2]
		}
		if m := noticeLicense.FindStringSubmatch(line); m != nil {
			current.license = m[1]
		}
	}
	var all []component
	for _, name := range w.names("libkrun*.so*") {
		file := path.Base(name)
		library, _, _ := strings.Cut(file, ".so")
		c := component{name: library, file: file, sha256: sha256Hex(w.files[name]), in: w.arch}
		if o := origins[library]; o != nil && o.revision != "" {
			c.version, c.license = o.revision, o.license
			c.download = "git+" + o.repository + "@" + o.revision
			c.purl = "pkg:generic/" + library + "@" + o.revision + "?vcs_url=git%2B" + o.repository + "%40" + o.revision
		}
		all = append(all, c)
	}
	return all
}

// guestPackages returns the Alpine packages in the guest's root file system.
func guestPackages(entries []imagetar.File) ([]component, error) {
	const root = payload + "agent-rootfs/"
	var database, release []byte
	for _, e := range entries {
		switch e.Name {
		case root + "lib/apk/db/installed":
			database = e.Content
		case root + "etc/alpine-release":
			release = bytes.TrimSpace(e.Content)
		}
	}
	var all []component
	for block := range strings.SplitSeq(string(database), "\n\n") {
		field := map[byte]string{}
		for line := range strings.SplitSeq(block, "\n") {
			if len(line) > 2 && line[1] == ':' && field[line[0]] == "" {
				field[line[0]] = line[2:]
			}
		}
		if field['P'] == "" {
			continue
		}
		if field['V'] == "" || field['A'] == "" {
			return nil, fmt.Errorf("the database of the guest's packages names no version or architecture of %q", field['P'])
		}
		all = append(all, component{
			name: field['P'], version: field['V'],
			purl:   fmt.Sprintf("pkg:apk/alpine/%s@%s?arch=%s&distro=alpine-%s", field['P'], strings.ReplaceAll(field['V'], "+", "%2B"), field['A'], release),
			source: "in the root file system of smolvm's guests; license: " + field['L'],
		})
	}
	return all, nil
}

// crates returns what the CycloneDX files of the wheel name, if it has any.
func (w *wheel) crates() ([]component, error) {
	var all []component
	for _, name := range sortedKeys(w.files) {
		if ok, err := path.Match("*.dist-info/sboms/*.cyclonedx.json", name); err != nil || !ok {
			continue
		}
		var bom struct {
			Components []struct{ Name, Version, PURL string }
		}
		if err := json.Unmarshal(w.files[name], &bom); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		for _, c := range bom.Components {
			// The qualifiers of local crates are paths of the machine that built the wheel.
			locator, _, _ := strings.Cut(c.PURL, "?")
			locator, _, _ = strings.Cut(locator, "#")
			all = append(all, component{name: c.Name, version: c.Version, purl: locator, source: "named by " + name})
		}
	}
	return all, nil
}
