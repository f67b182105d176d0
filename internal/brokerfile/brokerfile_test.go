// SPDX-License-Identifier: Apache-2.0

package brokerfile_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/brokerfile"
)

func TestRoundTrip(t *testing.T) {
	in := []brokerfile.Secret{
		{Secret: "b", Key: "k", Value: []byte("\x00\xff binary"), ResourceVersion: "7"},
		{Secret: "a", Key: "z", Value: []byte{}, ResourceVersion: "8"},
		{Secret: "a", Key: "k", Value: []byte("v"), ResourceVersion: "8"},
		{Secret: "a", Key: "k", Value: []byte("v"), ResourceVersion: "8", Credential: true},
	}
	data, err := brokerfile.Encode(in)
	if err != nil {
		t.Fatal(err)
	}
	got, err := brokerfile.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	want := []brokerfile.Secret{in[3], in[1], in[0]}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
}

func TestEncodeRefuses(t *testing.T) {
	many := make([]brokerfile.Secret, brokerfile.MaxSecrets+1)
	for i := range many {
		many[i] = brokerfile.Secret{Secret: fmt.Sprint("s", i), Key: "k"}
	}
	for name, in := range map[string][]brokerfile.Secret{
		"too many":   many,
		"no name":    {{Key: "k"}},
		"long name":  {{Secret: strings.Repeat("n", 254), Key: "k"}},
		"too large":  {{Secret: "s", Key: "k", Value: make([]byte, brokerfile.MaxSize)}},
		"no key":     {{Secret: "s"}},
		"long value": {{Secret: "s", Key: "k", ResourceVersion: strings.Repeat("1", 300)}},
	} {
		if _, err := brokerfile.Encode(in); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestDecodeRefusesWithoutQuoting(t *testing.T) {
	const secret = "hunter2hunter2"
	for name, content := range map[string]string{
		"not JSON":         secret,
		"wrong type":       `{"version":1,"secrets":"` + secret + `"}`,
		"not base64":       `{"version":1,"secrets":[{"secret":"s","key":"k","value":"!` + secret + `"}]}`,
		"newer version":    `{"version":2,"secrets":["` + secret + `"]}`,
		"twice":            `{"version":1,"secrets":[{"secret":"s","key":"k"},{"secret":"s","key":"k"}]}`,
		"a second value":   `{"version":1,"secrets":[]}{"` + secret + `":1}`,
		"beyond the limit": strings.Repeat(" ", brokerfile.MaxSize) + `{"version":1}`,
	} {
		_, err := brokerfile.Decode(strings.NewReader(content))
		if err == nil {
			t.Errorf("%s: got no error", name)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error quotes the content: %v", name, err)
		}
	}
}

func TestNoVerbPrintsTheValue(t *testing.T) {
	s := brokerfile.Secret{Secret: "s", Key: "k", Value: []byte("hunter2")}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{s, &s, []brokerfile.Secret{s}} {
			got := fmt.Sprintf(verb, v)
			if strings.Contains(got, "hunter2") || strings.Contains(got, "68756e74") || strings.Contains(got, "104 117") {
				t.Errorf("%s prints the value: %s", verb, got)
			}
		}
	}
}
