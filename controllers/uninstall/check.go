// SPDX-License-Identifier: Apache-2.0

package uninstall

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// mostNamed is how many Bottles an error names.
const mostNamed = 5

// Check returns an error that says what to do if Bottles exist. If none exist, it removes
// the mark and releases the policies, so that the operator can be removed even if no
// manager runs. c must not read from a cache.
func Check(ctx context.Context, c client.Client) error {
	m := mark{live: c, writer: c}
	list, err := m.bottles(ctx, mostNamed+1)
	if err != nil && !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) { // without the CRD there are no Bottles
		return err
	}
	if list != nil && len(list.Items) > 0 {
		var names []string
		for _, b := range list.Items[:min(len(list.Items), mostNamed)] {
			names = append(names, b.Namespace+"/"+b.Name)
		}
		if len(list.Items) > mostNamed {
			names = append(names, "and others")
		}
		return fmt.Errorf("there are Bottles (%s), and without the operator nobody would stop their machines; delete them first: "+
			"kubectl delete bottles --all --all-namespaces; wait until they are gone, and then uninstall again", strings.Join(names, ", "))
	}
	cleared, err := m.clear(ctx)
	if err == nil && !cleared {
		err = errors.New("a Bottle was created meanwhile: delete it first: kubectl delete bottles --all --all-namespaces")
	}
	return err
}
