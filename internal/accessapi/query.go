// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"net/url"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// query reads the parameters of a request and collects what is wrong with them.
// kube-apiserver and clients add parameters of their own, so unknown ones are
// ignored, as everywhere in Kubernetes.
type query struct {
	values url.Values
	errs   field.ErrorList
}

// text returns a parameter that is given once at most.
func (q *query) text(name string) string {
	all := q.values[name]
	if len(all) > 1 {
		q.errs = append(q.errs, field.TooMany(field.NewPath(name), len(all), 1))
	}
	if len(all) == 0 {
		return ""
	}
	return all[0]
}

// flag returns a boolean parameter. One without a value is true, as for pods.
func (q *query) flag(name string) bool {
	if !q.values.Has(name) {
		return false
	}
	text := q.text(name)
	if text == "" {
		return true
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		q.errs = append(q.errs, field.Invalid(field.NewPath(name), shorten(text), "must be true or false"))
	}
	return on
}

// number returns an integer that is at least lowest, or nil if it is absent.
func (q *query) number(name string, lowest int64) *int64 {
	text := q.text(name)
	if text == "" {
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		q.errs = append(q.errs, field.Invalid(field.NewPath(name), shorten(text), "must be a whole number"))
		return nil
	case n < lowest:
		q.errs = append(q.errs, field.Invalid(field.NewPath(name), n, "must be at least "+strconv.FormatInt(lowest, 10)))
		return nil
	}
	return &n
}

// instant returns a time, or nil if it is absent.
func (q *query) instant(name string) *metav1.Time {
	text := q.text(name)
	if text == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		q.errs = append(q.errs, field.Invalid(field.NewPath(name), shorten(text), "must be a time such as 2026-11-29T12:00:00Z"))
		return nil
	}
	return &metav1.Time{Time: t}
}

// oneOf returns a parameter that must be absent or one of the allowed values.
func oneOf[T ~string](q *query, name string, allowed ...T) T {
	value := T(q.text(name))
	if value != "" && !slices.Contains(allowed, value) {
		q.errs = append(q.errs, field.NotSupported(field.NewPath(name), T(shorten(string(value))), allowed))
	}
	return value
}

// shorten bounds what an error repeats of a user's input.
func shorten(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
