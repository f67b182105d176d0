// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"net/url"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
	streams "k8s.io/apiserver/pkg/util/proxy"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
)

const (
	// maxArguments and maxCommandBytes bound the command of an exec. The bytes count
	// the NUL that ends each argument.
	maxArguments    = 1024
	maxCommandBytes = 128 << 10
)

// options are the validated parameters of one request.
type options interface {
	// query returns them as the agent reads them: those that are set, and no others.
	query() url.Values
	// streams returns the streams that the client opens.
	streams() streams.Options
}

type execOptions struct{ subresources.BottleExecOptions }

func parseExec(values url.Values) (execOptions, field.ErrorList) {
	q := &query{values: values}
	o := execOptions{subresources.BottleExecOptions{
		Command: values["command"],
		Stdin:   q.flag("stdin"), Stdout: q.flag("stdout"), Stderr: q.flag("stderr"), TTY: q.flag("tty"),
		Purpose: oneOf(q, "purpose", subresources.PurposeFiles),
	}}
	return o, append(q.errs, append(validateCommand(o.Command), validateStreams(o.streams())...)...)
}

func validateCommand(command []string) field.ErrorList {
	path := field.NewPath("command")
	switch {
	case len(command) == 0 || command[0] == "":
		return field.ErrorList{field.Required(path, "the command to run and its arguments, one parameter each")}
	case len(command) > maxArguments:
		return field.ErrorList{field.TooMany(path, len(command), maxArguments)}
	}
	total := 0
	for i, argument := range command {
		total += len(argument) + 1
		if strings.ContainsRune(argument, 0) {
			return field.ErrorList{field.Invalid(path.Index(i), field.OmitValueType{}, "must not contain a NUL character")}
		}
	}
	if total > maxCommandBytes {
		return field.ErrorList{field.TooLong(path, nil, maxCommandBytes)}
	}
	return nil
}

func validateStreams(o streams.Options) field.ErrorList {
	if !o.Stdin && !o.Stdout && !o.Stderr {
		return field.ErrorList{field.Required(field.NewPath("stdout"), "at least one of stdin, stdout and stderr must be true")}
	}
	if o.Tty && o.Stderr {
		return field.ErrorList{field.Invalid(field.NewPath("stderr"), true, "must be false with a TTY, which shows it as part of stdout")}
	}
	return nil
}

func (o execOptions) streams() streams.Options {
	return streams.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}
}

func (o execOptions) query() url.Values {
	v := streamQuery(o.streams())
	v["command"] = o.Command
	if o.Purpose != "" {
		v.Set("purpose", string(o.Purpose))
	}
	return v
}

type attachOptions struct {
	subresources.BottleAttachOptions
}

func parseAttach(values url.Values) (attachOptions, field.ErrorList) {
	q := &query{values: values}
	o := attachOptions{subresources.BottleAttachOptions{
		Stdin: q.flag("stdin"), Stdout: q.flag("stdout"), Stderr: q.flag("stderr"), TTY: q.flag("tty"),
	}}
	return o, append(q.errs, validateStreams(o.streams())...)
}

func (o attachOptions) streams() streams.Options {
	return streams.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}
}

func (o attachOptions) query() url.Values { return streamQuery(o.streams()) }

func streamQuery(o streams.Options) url.Values {
	v := url.Values{}
	setFlags(v, map[string]bool{"stdin": o.Stdin, "stdout": o.Stdout, "stderr": o.Stderr, "tty": o.Tty})
	return v
}

type logOptions struct{ subresources.BottleLogOptions }

func parseLog(values url.Values) (logOptions, field.ErrorList) {
	q := &query{values: values}
	o := logOptions{subresources.BottleLogOptions{
		Source: oneOf(q, "source", subresources.LogWorkload, subresources.LogConsole, subresources.LogBundle, subresources.LogEgress),
		Format: oneOf(q, "format", subresources.LogText, subresources.LogCRI),
		Follow: q.flag("follow"), Previous: q.flag("previous"), Timestamps: q.flag("timestamps"),
		SinceSeconds: q.number("sinceSeconds", 1),
		SinceTime:    q.instant("sinceTime"),
		TailLines:    q.number("tailLines", 0),
		LimitBytes:   q.number("limitBytes", 1),
	}}
	if o.SinceSeconds != nil && o.SinceTime != nil {
		q.errs = append(q.errs, field.Forbidden(field.NewPath("sinceTime"), "must not be set together with sinceSeconds"))
	}
	return o, q.errs
}

func (o logOptions) streams() streams.Options { return streams.Options{} }

func (o logOptions) query() url.Values {
	v := url.Values{}
	if o.Source != "" {
		v.Set("source", string(o.Source))
	}
	if o.Format != "" {
		v.Set("format", string(o.Format))
	}
	setFlags(v, map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps})
	setNumber(v, "sinceSeconds", o.SinceSeconds)
	setNumber(v, "tailLines", o.TailLines)
	setNumber(v, "limitBytes", o.LimitBytes)
	if o.SinceTime != nil {
		v.Set("sinceTime", o.SinceTime.Format(time.RFC3339Nano))
	}
	return v
}

// proofOptions are those of bottles/proof, which has none.
type proofOptions struct{}

func (proofOptions) query() url.Values        { return nil }
func (proofOptions) streams() streams.Options { return streams.Options{} }

func setFlags(v url.Values, flags map[string]bool) {
	for name, on := range flags {
		if on {
			v.Set(name, "true")
		}
	}
}

func setNumber(v url.Values, name string, n *int64) {
	if n != nil {
		v.Set(name, strconv.FormatInt(*n, 10))
	}
}
