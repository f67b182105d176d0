// SPDX-License-Identifier: Apache-2.0

package main

// The parts of an SPDX 2.3 document that the SBOMs use.
// See https://spdx.github.io/spdx-spec/v2.3/.

const noAssertion = "NOASSERTION"

type spdxDocument struct {
	Version       string             `json:"spdxVersion"`
	License       string             `json:"dataLicense"`
	ID            string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	Creation      spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Files         []spdxFile         `json:"files"`
	Relationships []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID                string          `json:"SPDXID"`
	Name              string          `json:"name"`
	Version           string          `json:"versionInfo,omitempty"`
	FileName          string          `json:"packageFileName,omitempty"`
	Purpose           string          `json:"primaryPackagePurpose,omitempty"`
	DownloadLocation  string          `json:"downloadLocation"`
	FilesAnalyzed     bool            `json:"filesAnalyzed"`
	Verification      *spdxCode       `json:"packageVerificationCode,omitempty"`
	SourceInfo        string          `json:"sourceInfo,omitempty"`
	LicenseConcluded  string          `json:"licenseConcluded"`
	LicenseDeclared   string          `json:"licenseDeclared"`
	Copyright         string          `json:"copyrightText"`
	Checksums         []spdxChecksum  `json:"checksums,omitempty"`
	ExternalReference []spdxReference `json:"externalRefs,omitempty"`
}

type spdxCode struct {
	Value string `json:"packageVerificationCodeValue"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxReference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxFile struct {
	ID               string         `json:"SPDXID"`
	Name             string         `json:"fileName"`
	Checksums        []spdxChecksum `json:"checksums"`
	LicenseConcluded string         `json:"licenseConcluded"`
	Copyright        string         `json:"copyrightText"`
}

type spdxRelationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}
