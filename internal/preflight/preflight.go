// SPDX-License-Identifier: Apache-2.0

// Package preflight checks whether a node can run Bottles before the agent starts, and
// says for each thing that is missing how to fix it. What the agent itself checks all the
// time are its facts (internal/nodefacts); the package reports them and adds what matters
// only once: the packet filter, the disk, the network, ports, and the cluster.
//
// The package changes nothing on the node. It starts no machine: internal/boottrial does.
package preflight

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// Outcome is how a check ended.
type Outcome string

// The outcomes, from the best to the worst.
const (
	// OK: Bottles can run as far as this check can tell.
	OK Outcome = "ok"
	// Warning: Bottles can run, but not as they should, or something could not be checked.
	Warning Outcome = "warning"
	// Failure: no Bottle can run.
	Failure Outcome = "failure"
)

// Result is the outcome of one check.
type Result struct {
	Name    string  `json:"name"`
	Outcome Outcome `json:"result"`
	// Message says what was found and, after a colon, what to do about it unless the
	// outcome is OK.
	Message string `json:"message,omitempty"`
}

// Check is one check. Run must not change anything.
type Check struct {
	Name string
	Run  func(ctx context.Context) (Outcome, string)
}

// bound is how long one check may take. It is longer than the bound of any fact.
const bound = 30 * time.Second

// Run runs the checks in parallel and returns their results in the same order. A check
// that takes too long has failed.
func Run(ctx context.Context, checks []Check) []Result {
	results := make([]Result, len(checks))
	var all sync.WaitGroup
	for i, c := range checks {
		all.Go(func() { results[i] = run(ctx, c) })
	}
	all.Wait()
	return results
}

func run(ctx context.Context, c Check) Result {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	ended := make(chan Result, 1) // a disk or program that hangs may keep Run forever
	go func() {
		outcome, message := c.Run(ctx)
		ended <- Result{c.Name, outcome, message}
	}()
	select {
	case r := <-ended:
		return r
	case <-ctx.Done():
		return Result{c.Name, Failure, fmt.Sprintf("the check did not end within %s: find what hangs on the node", bound)}
	}
}

// OfFacts returns the results of the agent's own facts about its node. A good fact with a
// note is a warning.
func OfFacts(facts []host.Fact) []Result {
	results := make([]Result, len(facts))
	for i, f := range facts {
		results[i] = Result{f.Name, OK, f.Message}
		switch {
		case !f.OK:
			results[i].Outcome = Failure
		case f.Message != "":
			results[i].Outcome = Warning
		}
	}
	return results
}

// Report is what a preflight found.
type Report struct {
	Version string `json:"version"`
	Node    string `json:"node,omitempty"`
	// Outcome is the worst outcome of a check.
	Outcome Outcome  `json:"result"`
	Checks  []Result `json:"checks"`
}

// NewReport returns a report of some results.
func NewReport(version, node string, results []Result) Report {
	r := Report{Version: version, Node: node, Outcome: OK, Checks: results}
	for _, c := range results {
		if c.Outcome == Failure || c.Outcome == Warning && r.Outcome == OK {
			r.Outcome = c.Outcome
		}
	}
	return r
}

// Err returns nil unless a check failed. The error names each of them and its fix, because
// the kubelet shows only the end of the output of a container that failed.
func (r Report) Err() error {
	var failed []string
	for _, c := range r.Checks {
		if c.Outcome == Failure {
			failed = append(failed, c.Name+": "+oneLine(c.Message))
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return fmt.Errorf("this node cannot run Bottles (%d of %d checks failed)\n  %s", len(failed), len(r.Checks), strings.Join(failed, "\n  "))
}
