// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"cmp"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/resource"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// base returns the Bottle that the flags change: the one in the file of --filename, or an
// empty one. name replaces the name in the file, unless it is empty.
func (p *plugin) base(file, name string) (*v1alpha1.Bottle, error) {
	namespace, enforce, err := p.factory.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, err
	}
	b := &v1alpha1.Bottle{ObjectMeta: metav1.ObjectMeta{Namespace: namespace}}
	if file != "" {
		builder := p.factory.NewBuilder().Unstructured().NamespaceParam(namespace).DefaultNamespace().Flatten()
		if enforce {
			builder.RequireNamespace()
		}
		if file == "-" {
			builder.Stream(p.In, "standard input")
		} else {
			builder.FilenameParam(enforce, &resource.FilenameOptions{Filenames: []string{file}})
		}
		infos, err := builder.Do().Infos()
		if err == nil {
			b, err = onlyBottle(infos)
		}
		if err != nil {
			return nil, fmt.Errorf("--filename %s: %w", file, err)
		}
	}
	b.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Bottle"}
	b.Name = cmp.Or(name, b.Name)
	if b.Name == "" {
		return nil, fmt.Errorf("--filename %s: the Bottle in it has no name: put a name on the command line", file)
	}
	return b, nil
}

// onlyBottle returns the Bottle in a file with no other object. A field that Bottles do not
// have is an error, as it is for kubectl create.
func onlyBottle(infos []*resource.Info) (*v1alpha1.Bottle, error) {
	if len(infos) != 1 {
		return nil, fmt.Errorf("got %d objects, want one Bottle: create the others with kubectl apply", len(infos))
	}
	object, ok := infos[0].Object.(*unstructured.Unstructured)
	if !ok || object.GroupVersionKind() != v1alpha1.GroupVersion.WithKind("Bottle") {
		return nil, fmt.Errorf("got %s, want a Bottle of %s", infos[0].Object.GetObjectKind().GroupVersionKind(), v1alpha1.GroupVersion)
	}
	b := &v1alpha1.Bottle{}
	return b, runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, b, true)
}
