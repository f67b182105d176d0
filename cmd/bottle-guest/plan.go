// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/supervise"
)

const (
	planPatience = 10 * time.Second
	// runPatience bounds a whole run. Attempts that are still open then have timed
	// out.
	runPatience = time.Minute
)

// runProbe reads a plan from the standard input, as one line of JSON, and prints its
// report as one line of JSON. It judges nothing, and nothing relies on its word
// alone. It returns 0 with a report, 2 for an invalid plan or another failure.
func runProbe([]string) int {
	removeSelf()
	if err := run(os.Stdin, os.Stdout); err != nil {
		complain(err)
		return 2
	}
	return 0
}

// removeSelf deletes the program that was copied into the guest for a proof, so that
// it is not left there. It protects nothing: a guest that wants a copy could have
// taken one. The program in the mounted folder stays.
func removeSelf() {
	path, err := os.Executable()
	if err != nil { // no /proc
		path = os.Args[0]
	}
	if filepath.IsAbs(path) && filepath.Dir(path) != supervise.In {
		os.Remove(path)
	}
}

func run(in io.Reader, out io.Writer) error {
	plan, err := readPlan(in, planPatience)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), runPatience)
	defer cancel()
	p := prober{nonce: plan.Nonce, resolvers: readResolvers("/etc/resolv.conf")}
	line, err := probe.EncodeReport(p.report(ctx, plan))
	if err != nil {
		return err
	}
	_, err = out.Write(line)
	return err
}

// readPlan reads one line. It does not wait for the end of the input.
func readPlan(in io.Reader, patience time.Duration) (probe.Plan, error) {
	type read struct {
		line string
		err  error
	}
	done := make(chan read, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(in, probe.MaxPlan+1)).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		done <- read{line, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return probe.Plan{}, fmt.Errorf("plan: %w", r.err)
		}
		return probe.DecodePlan(strings.NewReader(r.line))
	case <-time.After(patience):
		return probe.Plan{}, fmt.Errorf("plan: not received within %s", patience)
	}
}
