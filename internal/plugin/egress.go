// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/kubectl/pkg/util/templates"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/rulenames"
)

const (
	// maxDecision is how long a line of the log may be; the bundle's are shorter.
	maxDecision = 16 << 10
	// maxTargets is how many targets of each decision are shown, the last ones first.
	maxTargets = 200
	// maxRules is how many rules are suggested.
	maxRules = 64
)

// decision is what the bundle has decided about one target so far.
type decision struct {
	Decision string          `json:"decision"` // allow, deny or fail
	Host     string          `json:"host"`
	Port     uint16          `json:"port"`
	Time     string          `json:"time"`
	Cause    egress.Cause    `json:"cause"`
	Address  string          `json:"address"`
	Reason   string          `json:"reason"`
	Closed   egress.ClosedBy `json:"closed"`
	LeftOut  uint32          `json:"leftOut"`

	// For requests to hosts of spec.egress.rules:
	Rule       string `json:"rule"`
	Method     string `json:"method"`
	Credential string `json:"credential"`
	Secret     string `json:"secret"`
	Key        string `json:"key"`
	Place      string `json:"place"`

	count uint64
}

// refusal returns the decision as the bundle saw it.
func (d *decision) refusal() egress.Refusal {
	r := egress.Refusal{Host: d.Host, Port: d.Port, Cause: d.Cause, By: d.Closed, Method: d.Method, Secret: d.Secret, Key: d.Key, Place: d.Place}
	r.Addr, _ = netip.ParseAddr(d.Address)
	return r
}

// decisions are the decisions of a bundle, by kind.
type decisions struct {
	names   rulenames.Names      // of the Bottle: the bundle's log may say anything
	targets map[string]*decision // by kind, host, port, and for opened hosts what decided
	leftOut map[string]uint64    // by kind: decisions that the log does not have
}

func (p *plugin) newEgress() *cobra.Command {
	return &cobra.Command{
		Use:                   "egress NAME",
		DisableFlagsInUseLine: true,
		Short:                 "Show what a Bottle was allowed and denied, and what to add",
		Long: templates.LongDesc(`
			Shows the destinations that the Bottle's guest has asked its bundle for: those that
			were allowed, those that were denied, and those that could not be reached. For what
			was denied, it shows the rules of spec.egress.allow that would open it, and what to
			add to spec.egress.rules for requests to opened hosts.`),
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.completeName(),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := p.interruptible(cmd.Context())
			defer cancel()
			return p.showEgress(ctx, args[0])
		},
	}
}

func (p *plugin) showEgress(ctx context.Context, name string) error {
	c, err := p.client()
	if err != nil {
		return err
	}
	b, err := c.get(ctx, name)
	if err != nil {
		return err
	}
	found := &decisions{names: rulenames.Of(&b.Spec), targets: map[string]*decision{}, leftOut: map[string]uint64{}}
	body, err := c.log(name, &subresources.BottleLogOptions{Source: subresources.LogEgress}).Stream(ctx)
	if err == nil {
		err = found.read(body)
		body.Close()
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		fmt.Fprintf(p.ErrOut, "The log of decisions cannot be read, so only the last denials of the status are shown: %s\n\n", clean(err.Error()))
		found.addStatus(b)
	}
	return p.printEgress(b, found)
}

// read adds up the lines of a log. It skips what is not a decision.
func (d *decisions) read(r io.Reader) error {
	lines := bufio.NewReaderSize(r, maxDecision)
	for {
		line, err := lines.ReadSlice('\n')
		var one decision
		if err == nil && json.Unmarshal(line, &one) == nil {
			d.add(one)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull): // the rest of the line is no JSON either
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// maxKept is how many targets are kept in memory; a guest chooses their number.
const maxKept = 10000

func (d *decisions) add(one decision) {
	if !slices.Contains([]string{"allow", "deny", "fail"}, one.Decision) {
		return
	}
	d.leftOut[one.Decision] += uint64(one.LeftOut)
	if one.Host == "" {
		return
	}
	one.Rule, one.Credential = d.names.Rule(one.Rule), d.names.Credential(one.Credential)
	one.Secret, one.Key = d.names.Secret(one.Secret, one.Key)
	if one.Method != "" {
		one.Method = egress.KnownMethod(one.Method)
	}
	key := strings.Join([]string{one.Decision, net.JoinHostPort(one.Host, strconv.Itoa(int(one.Port))), one.Rule, one.Method, one.Secret, one.Key}, " ")
	if one.Cause == "" {
		key += " " + one.Reason // from the status
	}
	known := d.targets[key]
	switch {
	case known != nil:
		one.count = known.count
	case len(d.targets) >= maxKept:
		d.leftOut[one.Decision]++
		return
	}
	one.count++
	d.targets[key] = &one
}

// addStatus adds the denials that the status has.
func (d *decisions) addStatus(b *v1alpha1.Bottle) {
	if b.Status.Egress == nil {
		return
	}
	for _, target := range b.Status.Egress.RecentDenials {
		target, reason, _ := strings.Cut(target, ": ") // with a reason for opened hosts
		host, port, err := net.SplitHostPort(target)
		if err != nil {
			continue
		}
		number, _ := strconv.ParseUint(port, 10, 16)
		one := decision{Decision: "deny", Host: host, Port: uint16(number), Cause: egress.CauseNoRule}
		if reason != "" {
			one.Cause, one.Reason = "", reason
		}
		for _, closed := range b.Status.Egress.ClosedByPlatform {
			if strings.HasPrefix(closed, target+": ") {
				one.Cause, one.Reason = egress.CausePlatform, strings.TrimPrefix(closed, target+": ")
			}
		}
		d.add(one)
	}
}

// of returns the decisions of one kind, the last ones first.
func (d *decisions) of(kind string) []*decision {
	var out []*decision
	for _, one := range d.targets {
		if one.Decision == kind {
			out = append(out, one)
		}
	}
	slices.SortFunc(out, func(a, b *decision) int {
		return cmp.Or(cmp.Compare(b.Time, a.Time), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port))
	})
	return out
}

// kinds are the sections of the output.
var kinds = []struct{ kind, title string }{
	{"allow", "Allowed"}, {"deny", "Denied"}, {"fail", "Allowed, but not reached"},
}

func (p *plugin) printEgress(b *v1alpha1.Bottle, found *decisions) error {
	for _, k := range kinds {
		list := found.of(k.kind)
		if len(list) == 0 && k.kind == "fail" {
			continue
		}
		fmt.Fprintf(p.Out, "%s:\n", k.title)
		if len(list) == 0 {
			fmt.Fprintln(p.Out, "   nothing so far")
		}
		var rows [][]string
		for _, one := range list[:min(len(list), maxTargets)] {
			rows = append(rows, one.row())
		}
		if err := table(p.Out, rows); err != nil {
			return err
		}
		if more := uint64(max(0, len(list)-maxTargets)) + found.leftOut[k.kind]; more > 0 {
			fmt.Fprintf(p.Out, "   and %d more that are not listed\n", more)
		}
		fmt.Fprintln(p.Out)
	}
	if b.Spec.Bundle != nil && b.Spec.Bundle.Image != nil {
		fmt.Fprintln(p.Out, "This Bottle has a bundle of its own (spec.bundle.image), whose rules are not in spec.egress.")
		return nil
	}
	return p.printRules(b, found.of("deny"))
}

func (d *decision) row() []string {
	when := d.Time
	if t, err := time.Parse(time.RFC3339Nano, d.Time); err == nil {
		when = t.UTC().Format(time.RFC3339)
	}
	row := []string{"   " + net.JoinHostPort(d.Host, strconv.Itoa(int(d.Port))), times(d.count), when}
	if details := d.details(); len(details) > 0 {
		row = append(row, strings.Join(details, ", "))
	}
	return row
}

// details returns what there is to say about the decision besides the target.
func (d *decision) details() []string {
	var out []string
	if d.Method != "" {
		out = append(out, d.Method)
	}
	if d.Decision != "allow" {
		reason := d.Reason
		if d.Method != "" { // the bundle's text may name Secrets that the spec does not have
			reason = ""
		}
		out = append(out, cmp.Or(reason, d.refusal().Why()))
	}
	if d.Rule != "" {
		out = append(out, "rule "+d.Rule)
	}
	if d.Credential != "" {
		out = append(out, "credential "+d.Credential)
	}
	if d.Decision == "allow" && d.Secret != "" {
		out = append(out, "contains the short value of key "+d.Key+" of the Secret "+d.Secret)
	}
	return out
}

// times says how often something happened.
func times(n uint64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// printRequests shows what to add to spec.egress.rules.
func (p *plugin) printRequests(denied []*decision) {
	var lines []string
	for _, one := range denied {
		line := "   - " + net.JoinHostPort(one.Host, strconv.Itoa(int(one.Port))) + ": "
		switch {
		case one.Cause == egress.CauseMethodPath && one.Method != "" && one.Method != egress.OtherMethod:
			line += "to http, the method " + one.Method + " with the path of the request"
		case one.Cause == egress.CauseMethodPath:
			line += "to http, the method and the path of the request"
		case one.Cause == egress.CauseKnownSecret && one.Secret != "":
			line += "to passSecrets, the Secret " + one.Secret
		default:
			continue
		}
		if line = clean(line); !slices.Contains(lines, line) && len(lines) < maxRules {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(p.Out, "To allow what the rules of opened hosts denied, add to the host's rule in spec.egress.rules what the agent needs, and nothing else. The bundle logs no paths; the agent sees them.")
	fmt.Fprintf(p.Out, "%s\n\n", strings.Join(lines, "\n"))
}

// printRules shows what to add to spec.egress.allow.
func (p *plugin) printRules(b *v1alpha1.Bottle, denied []*decision) error {
	var allow []string
	if b.Spec.Egress != nil {
		for _, rule := range b.Spec.Egress.Allow {
			allow = append(allow, string(rule))
		}
	}
	var missing []string
	for _, one := range denied {
		rule := one.refusal().Rule()
		if _, err := egress.Parse(rule); err == nil && !slices.Contains(missing, rule) && !slices.Contains(allow, rule) && len(missing) < maxRules {
			missing = append(missing, rule)
		}
	}
	p.printRequests(denied)
	if len(missing) == 0 {
		fmt.Fprintln(p.Out, "Nothing to add to spec.egress.allow.")
		return nil
	}
	fmt.Fprintln(p.Out, "To allow what was denied, add to spec.egress.allow what the agent needs, and nothing else. The guest chose these names:")
	for _, rule := range missing {
		fmt.Fprintf(p.Out, "   - %q\n", rule)
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"egress": map[string]any{"allow": append(allow, missing...)}}})
	if err != nil {
		return err
	}
	fmt.Fprintf(p.Out, "\nThis adds all of them:\n   kubectl patch bottle %s -n %s --type merge -p '%s'\n", b.Name, b.Namespace, strings.ReplaceAll(string(patch), "'", `'\''`))
	return nil
}
