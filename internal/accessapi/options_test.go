// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// fields returns the names of the parameters that are wrong.
func fields(errs field.ErrorList) string {
	var out []string
	for _, e := range errs {
		out = append(out, e.Field)
	}
	return strings.Join(out, " ")
}

func TestOptions(t *testing.T) {
	t.Parallel()
	parse := map[string]func(url.Values) (url.Values, field.ErrorList){
		"exec":   func(v url.Values) (url.Values, field.ErrorList) { o, errs := parseExec(v); return o.query(), errs },
		"attach": func(v url.Values) (url.Values, field.ErrorList) { o, errs := parseAttach(v); return o.query(), errs },
		"log":    func(v url.Values) (url.Values, field.ErrorList) { o, errs := parseLog(v); return o.query(), errs },
	}
	big := "command=" + strings.Repeat("x", maxCommandBytes-len("x\x00")-2)
	for _, c := range []struct {
		verb, query string
		// wrong names the parameters that are refused; sent is what the agent gets.
		wrong, sent string
	}{
		{verb: "exec", query: "command=sh&command=-c&command=a%20b&stdin=true&stdout=1&stderr&foo=bar", sent: "command=sh&command=-c&command=a+b&stderr=true&stdin=true&stdout=true"},
		{verb: "exec", query: "command=true&stdout=true&tty=true&stdin=false", sent: "command=true&stdout=true&tty=true"},
		{verb: "exec", query: "command=cp&stdout=true&purpose=Files", sent: "command=cp&purpose=Files&stdout=true"},
		{verb: "exec", query: "stdout=true", wrong: "command"},
		{verb: "exec", query: "command=&stdout=true", wrong: "command"},
		{verb: "exec", query: "command=true", wrong: "stdout"},
		{verb: "exec", query: "command=true&stdout=true&stderr=true&tty=true", wrong: "stderr"},
		{verb: "exec", query: "command=true&stdout=maybe&stderr=true", wrong: "stdout"},
		{verb: "exec", query: "command=true&stdout=true&stdout=true", wrong: "stdout"},
		{verb: "exec", query: "command=true&stdout=true&purpose=Fun", wrong: "purpose"},
		{verb: "exec", query: "command=a&command=b%00&stdout=true", wrong: "command[1]"},
		{verb: "exec", query: strings.Repeat("command=x&", maxArguments) + "stdout=true", sent: strings.Repeat("command=x&", maxArguments) + "stdout=true"},
		{verb: "exec", query: strings.Repeat("command=x&", maxArguments+1) + "stdout=true", wrong: "command"},
		{verb: "exec", query: big + "&command=x&stdout=true", sent: big + "&command=x&stdout=true"},
		{verb: "exec", query: big + "&command=xyz&stdout=true", wrong: "command"},
		{verb: "attach", query: "stdin=true&stdout=true&tty=true", sent: "stdin=true&stdout=true&tty=true"},
		{verb: "attach", query: "", wrong: "stdout"},
		{verb: "attach", query: "tty=true&stderr=true", wrong: "stderr"},
		{verb: "log", query: "", sent: ""},
		{
			verb:  "log",
			query: "source=Egress&format=CRI&follow=true&previous=true&timestamps=true&sinceSeconds=60&tailLines=0&limitBytes=10",
			sent:  "follow=true&format=CRI&limitBytes=10&previous=true&sinceSeconds=60&source=Egress&tailLines=0&timestamps=true",
		},
		{verb: "log", query: "sinceTime=2026-11-29T12:00:00%2B01:00", sent: "sinceTime=2026-11-29T12%3A00%3A00%2B01%3A00"},
		{verb: "log", query: "sinceTime=yesterday&source=Guest&format=JSON", wrong: "source format sinceTime"},
		{verb: "log", query: "sinceTime=2026-11-29T12:00:00Z&sinceSeconds=1", wrong: "sinceTime"},
		{verb: "log", query: "tailLines=-1&limitBytes=0&sinceSeconds=0&follow=2", wrong: "follow sinceSeconds tailLines limitBytes"},
		{verb: "log", query: "tailLines=99999999999999999999", wrong: "tailLines"},
	} {
		values, err := url.ParseQuery(c.query)
		must(t, err)
		got, errs := parse[c.verb](values)
		name := c.verb + "?" + shorten(c.query)
		if diff := cmp.Diff(c.wrong, fields(errs)); diff != "" {
			t.Errorf("%s: wrong parameters (-want +got):\n%s%v", name, diff, errs)
		}
		if diff := cmp.Diff(c.sent, got.Encode()); c.wrong == "" && diff != "" {
			t.Errorf("%s: sent to the agent (-want +got):\n%s", name, diff)
		}
	}
}
