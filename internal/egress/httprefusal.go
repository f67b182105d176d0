// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// OtherMethod stands for a method that is not one of Methods: a guest may write anything.
const OtherMethod = "other"

// Methods are the methods that are named in logs and refusals.
var Methods = []string{"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}

// KnownMethod returns the method if it is one of Methods, and OtherMethod otherwise.
func KnownMethod(method string) string {
	if slices.Contains(Methods, method) {
		return method
	}
	return OtherMethod
}

// Places are where a request may contain a known secret.
var Places = []string{"url", "header", "body"}

// openedCauses are the causes for which more is shown than the host and port: a rule for
// the host is there.
var openedCauses = []Cause{CauseMethodPath, CausePath, CauseKnownSecret, CauseNeedsTLS, CauseHostMismatch, CauseCredentialMissing}

// denial returns HOST:PORT: REASON.
func (r Refusal) denial() string {
	host := PrintableHost(r.Host)
	if a, ok := hostAddr(host); ok {
		host = a.String() // JoinHostPort adds brackets
	}
	return net.JoinHostPort(host, strconv.Itoa(int(r.Port))) + ": " + r.Reason()
}

// method names the method of the request for a sentence.
func (r Refusal) method() string {
	if slices.Contains(Methods, r.Method) {
		return r.Method
	}
	return "the method"
}

// shownName is how many characters of the name of a Secret or of a key are shown.
const shownName = 48

// knownSecret says where the request contains the value of which Secret.
func (r Refusal) knownSecret() string {
	place := "the request"
	if slices.Contains(Places, r.Place) {
		place = "the " + strings.Replace(r.Place, "url", "URL", 1) + " of the request"
	}
	if r.Secret == "" {
		return place + " contains the value of a Secret of the Bottle"
	}
	return fmt.Sprintf("%s contains the value of key %s of the Secret %s", place, Printable(r.Key, shownName), Printable(r.Secret, shownName))
}
