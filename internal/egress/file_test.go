// SPDX-License-Identifier: Apache-2.0

package egress_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/egress"
)

func TestEncodeFile(t *testing.T) {
	for want, rules := range map[string][]string{
		`{"version":1,"allow":[]}`: nil,
		`{"version":1,"allow":["*.example.org:443","api.example.com:443","10.0.0.0/8:5432"]}`: {"10.0.0.0/8:5432", "API.example.com", "*.example.org", "api.example.com:443"},
	} {
		got, err := egress.EncodeFile(mustSet(t, rules...))
		if err != nil || string(got) != want+"\n" {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
		s, err := egress.DecodeFile(strings.NewReader(string(got)))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(fmt.Sprint(mustSet(t, rules...).Rules()), fmt.Sprint(s.Rules())); d != "" {
			t.Errorf("read back (-want +got):\n%s", d)
		}
	}
	if got, err := egress.EncodeFile(egress.Set{}); err != nil || string(got) != `{"version":1,"allow":[]}`+"\n" {
		t.Errorf("zero set: got %s, %v, want an empty list", got, err)
	}
}

func TestDecodeFile(t *testing.T) {
	fill := func(n int) string {
		const head, tail = `{"version":1,"allow":["a.example"],"comment":"`, `"}`
		return head + strings.Repeat("x", n-len(head)-len(tail)) + tail
	}
	tests := map[string]struct{ text, want string }{ // want in the error; "" for none
		"a file":            {`{"version":1,"allow":["a.example"]}`, ""},
		"unknown fields":    {`{"version":1,"deny":["x"],"allow":["a.example"],"more":{"a":[1]}}`, ""},
		"white space":       {"\n {\"version\": 1,\n\t\"allow\": [\"a.example\"]}\n\n", ""},
		"the largest":       {fill(1 << 20), ""},
		"one byte larger":   {fill(egress.MaxFile + 1), "more than 4194304 bytes"},
		"empty":             {"", "unexpected end"},
		"cut off":           {`{"version":1,"allow":["a.example"`, "unexpected end"},
		"two documents":     {`{"version":1,"allow":["a.example"]}{}`, "after top-level value"},
		"null":              {"null", "version 0: want 1 or 2"},
		"no version":        {`{"allow":["a.example"]}`, "version 0: want 1 or 2"},
		"a later version":   {`{"version":3,"allow":["a.example"]}`, "version 3: want 1 or 2"},
		"version as text":   {`{"version":"1","allow":["a.example"]}`, "cannot unmarshal"},
		"no list":           {`{"version":1}`, "no allow list"},
		"a null list":       {`{"version":1,"allow":null}`, "no allow list"},
		"a list of numbers": {`{"version":1,"allow":[1]}`, "cannot unmarshal"},
		"one bad rule":      {`{"version":1,"allow":["a.example","https://b.example"]}`, `egress rule "https://b.example": is a URL`},
		"an empty rule":     {`{"version":1,"allow":[""]}`, "is empty"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := egress.DecodeFile(strings.NewReader(tt.text))
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error: got %v, want one with %q", err, tt.want)
				}
				if _, ok := s.Match("a.example", 443); ok {
					t.Error("set returned with the error: got a.example allowed, want nothing")
				}
				return
			}
			if _, ok := s.Match("a.example", 443); err != nil || !ok {
				t.Errorf("a.example: got allowed %v, %v, want true", ok, err)
			}
		})
	}
}

// endless is an endless reader that counts the bytes read from it.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestDecodeFileIsBounded(t *testing.T) {
	r := &endless{}
	if _, err := egress.DecodeFile(r); err == nil || r.read > 2*egress.MaxFile {
		t.Errorf("got %v after %d bytes, want an error after little more than the limit", err, r.read)
	}
}

func TestDecodeFileReportsReadErrors(t *testing.T) {
	broken := errors.New("the disk is gone")
	r := io.MultiReader(strings.NewReader(`{"version":1,`), iotest.ErrReader(broken))
	if _, err := egress.DecodeFile(r); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestEncodeFileRefusesTooLargeFiles(t *testing.T) {
	var rules []string
	for i := range 20000 {
		rules = append(rules, fmt.Sprintf("h%d.%s", i, strings.Repeat("a.", 100)+"example"))
	}
	if got, err := egress.EncodeFile(mustSet(t, rules...)); err == nil {
		t.Errorf("got %d bytes, want an error", len(got))
	}
}
