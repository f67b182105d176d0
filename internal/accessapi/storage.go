// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// The verbs that go on to an agent, and those that do not.
const (
	verbExec     = "exec"
	verbAttach   = "attach"
	verbLog      = "log"
	verbProof    = "proof"
	verbRestart  = "restart"
	verbRecreate = "recreate"
)

// parent is the resource bottles, which has subresources here and no verbs of its
// own: Bottles themselves are in the group botbottle.dev.
type parent struct{}

var (
	_ rest.Scoper               = parent{}
	_ rest.SingularNameProvider = parent{}
)

func (parent) New() runtime.Object     { return &subresources.BottleAction{} }
func (parent) Destroy()                {}
func (parent) NamespaceScoped() bool   { return true }
func (parent) GetSingularName() string { return "bottle" }

// storage returns the resources of the API. environments may be nil.
func (a *access) storage(environments rest.Storage) map[string]rest.Storage {
	action := func(verb, annotation string) rest.Storage {
		return &action{access: a, verb: verb, annotation: annotation}
	}
	both := []string{http.MethodGet, http.MethodPost}
	nothing := func() runtime.Object { return &subresources.BottleAction{} }
	all := map[string]rest.Storage{
		"bottles":        parent{},
		"bottles/exec":   &connecter{access: a, verb: verbExec, methods: both, serve: a.exec, object: nothing},
		"bottles/attach": &connecter{access: a, verb: verbAttach, methods: both, serve: a.attach, object: nothing},
		"bottles/log":    &connecter{access: a, verb: verbLog, methods: []string{http.MethodGet}, serve: a.readLog, object: nothing},
		"bottles/proof": &connecter{access: a, verb: verbProof, methods: []string{http.MethodPost}, serve: a.prove,
			object: func() runtime.Object { return &subresources.BottleProof{} }},
		"bottles/restart":  action(verbRestart, v1alpha1.AnnotationRestartedAt),
		"bottles/recreate": action(verbRecreate, v1alpha1.AnnotationRecreatedAt),
	}
	if environments != nil {
		all["bottleenvironments"] = environments
	}
	return all
}
