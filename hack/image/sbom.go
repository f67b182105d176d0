// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"

	"botbottle.dev/bottle-operator/hack/internal/imagetar"
)

// component is something that an image is made of and that has a name and a version
// of its own.
type component struct {
	name, version string
	purl          string // a package URL; see https://github.com/package-url/purl-spec
	license       string // an SPDX expression; "" if it is not known
	download      string // where it can be had; "" if nowhere or unknown
	source        string // what is known of its origin
	file          string // its own file name
	sha256        string
	// in is the architecture whose image has it; "" if the component is found in
	// a program.
	in string
}

// id is derived from what tells components apart.
func (c component) id() string {
	return spdxID("Package", strings.Join([]string{c.name, c.version, c.purl, c.sha256, c.file}, "\x00"), c.name)
}

// spdxID returns an identifier that is unique for key. Its end says what it is about.
func spdxID(kind, key, label string) string {
	sum := sha256.Sum256([]byte(key))
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		}
		return '-'
	}, label)
	return "SPDXRef-" + kind + "-" + hex.EncodeToString(sum[:8]) + "-" + clean
}

// sbom collects what is in an image. Nothing is in it twice.
type sbom struct {
	packages      map[string]spdxPackage
	files         map[string]spdxFile
	relationships map[spdxRelationship]bool
}

// newSBOM returns the product's SPDX document. It names every file of every platform,
// every Go module of every Go program, and what the product says about itself.
func newSBOM(p *product, r release) ([]byte, error) {
	digest, err := p.index.Digest()
	if err != nil {
		return nil, err
	}
	s := &sbom{packages: map[string]spdxPackage{}, files: map[string]spdxFile{}, relationships: map[spdxRelationship]bool{}}
	whole := spdxPackage{
		ID: "SPDXRef-Image", Name: p.name, Version: p.version, Purpose: "CONTAINER", DownloadLocation: noAssertion,
		LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, Copyright: noAssertion,
		Checksums:         []spdxChecksum{{"SHA256", digest.Hex}},
		ExternalReference: purl("pkg:oci/" + p.name + "@" + strings.ReplaceAll(digest.String(), ":", "%3A")),
	}
	s.packages[whole.ID] = whole
	s.relate("SPDXRef-DOCUMENT", "DESCRIBES", whole.ID)
	for _, one := range p.platforms {
		if err := s.addPlatform(p, one, r); err != nil {
			return nil, err
		}
	}
	document := spdxDocument{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: p.name + " " + p.version,
		Namespace: "https://botbottle.dev/spdx/" + p.name + "/" + digest.Hex,
		Creation:  spdxCreation{Created: r.created.Format("2006-01-02T15:04:05Z"), Creators: []string{"Tool: bottle-operator/hack/image"}},
	}
	for _, id := range sortedKeys(s.packages) {
		document.Packages = append(document.Packages, s.packages[id])
	}
	for _, id := range sortedKeys(s.files) {
		document.Files = append(document.Files, s.files[id])
	}
	document.Relationships = slices.SortedFunc(maps.Keys(s.relationships), func(a, b spdxRelationship) int {
		return strings.Compare(a.From+" "+a.Type+" "+a.To, b.From+" "+b.Type+" "+b.To)
	})
	out, err := json.MarshalIndent(document, "", " ")
	return append(out, '\n'), err
}

func (s *sbom) addPlatform(p *product, one platformImage, r release) error {
	digest, err := one.image.Digest()
	if err != nil {
		return err
	}
	arch := one.platform.Architecture
	image := spdxPackage{
		ID: "SPDXRef-Image-linux-" + arch, Name: p.name + " for linux/" + arch, Version: p.version, Purpose: "CONTAINER",
		DownloadLocation: noAssertion, FilesAnalyzed: true,
		LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, Copyright: noAssertion,
		Checksums:         []spdxChecksum{{"SHA256", digest.Hex}},
		ExternalReference: purl("pkg:oci/" + p.name + "@" + strings.ReplaceAll(digest.String(), ":", "%3A") + "?arch=" + arch),
	}
	s.relate("SPDXRef-Image", "CONTAINS", image.ID)
	var sums []string
	for _, e := range one.entries {
		if e.Kind != tar.TypeReg {
			continue
		}
		file := newFile(e, arch)
		s.files[file.ID] = file
		s.relate(image.ID, "CONTAINS", file.ID)
		sums = append(sums, file.Checksums[0].Value)
		if info, err := buildinfo.Read(bytes.NewReader(e.Content)); err == nil {
			s.addProgram(file.ID, info, r)
		}
	}
	slices.Sort(sums)
	image.Verification = &spdxCode{hexSHA1([]byte(strings.Join(sums, "")))}
	s.packages[image.ID] = image
	for _, c := range p.about {
		if c.in == arch {
			s.relate(image.ID, "CONTAINS", s.add(c))
		}
	}
	return nil
}

// addProgram adds the modules that a Go program is linked from.
func (s *sbom) addProgram(file string, info *debug.BuildInfo, r release) {
	standard := strings.TrimPrefix(info.GoVersion, "go")
	s.relate(file, "STATIC_LINK", s.add(component{
		name: "stdlib", version: standard, purl: "pkg:golang/stdlib@" + standard, license: "BSD-3-Clause",
	}))
	main := info.Main
	if main.Version == "" || main.Version == "(devel)" {
		main.Version = r.version
	}
	s.relate(file, "GENERATED_FROM", s.add(module(main, "Apache-2.0")))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		s.relate(file, "STATIC_LINK", s.add(module(*m, "")))
	}
}

func module(m debug.Module, license string) component {
	c := component{
		name: m.Path, version: m.Version, license: license,
		purl: "pkg:golang/" + m.Path + "@" + strings.ReplaceAll(m.Version, "+", "%2B"),
	}
	if m.Sum != "" {
		c.source = "go.sum: " + m.Sum
	}
	return c
}

// add adds a component and returns its identifier.
func (s *sbom) add(c component) string {
	p := spdxPackage{
		ID: c.id(), Name: c.name, Version: c.version, FileName: c.file, DownloadLocation: noAssertion, SourceInfo: c.source,
		LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, Copyright: noAssertion,
	}
	if c.license != "" {
		p.LicenseDeclared = c.license
	}
	if c.download != "" {
		p.DownloadLocation = c.download
	}
	if c.purl != "" {
		p.ExternalReference = purl(c.purl)
	}
	if c.sha256 != "" {
		p.Checksums = []spdxChecksum{{"SHA256", c.sha256}}
	}
	s.packages[p.ID] = p
	return p.ID
}

func (s *sbom) relate(from, kind, to string) {
	s.relationships[spdxRelationship{From: from, Type: kind, To: to}] = true
}

func newFile(e imagetar.File, arch string) spdxFile {
	sum := sha256.Sum256(e.Content)
	return spdxFile{
		ID: spdxID("File", arch+"\x00"+e.Name, arch+"-"+e.Name), Name: "./" + e.Name,
		Checksums:        []spdxChecksum{{"SHA1", hexSHA1(e.Content)}, {"SHA256", hex.EncodeToString(sum[:])}},
		LicenseConcluded: noAssertion, Copyright: noAssertion,
	}
}

// hexSHA1 is what SPDX 2.3 requires for each file. Nothing relies on it: the SHA-256
// stands beside it.
func hexSHA1(content []byte) string {
	sum := sha1.Sum(content)
	return hex.EncodeToString(sum[:])
}

func purl(locator string) []spdxReference {
	return []spdxReference{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: locator}}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func sha256Hex(content []byte) string { return fmt.Sprintf("%x", sha256.Sum256(content)) }
