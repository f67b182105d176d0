// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// runFlags are the flags of run.
type runFlags struct {
	interactive
	filename                     string
	image, slug, memory, restart string
	env, fromSecrets, allow      []string
	copyIn, copyOut              []string
	pullSecrets                  []string
	cpus                         int32
	timeout, startTimeout        time.Duration
	remove, quiet                bool
}

func (f *runFlags) addFlags(cmd *cobra.Command) {
	f.interactive.addFlags(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&f.filename, "filename", "f", "", "A file with a Bottle, which the other flags and COMMAND change; - is the standard input")
	flags.StringVar(&f.image, "image", "", "The guest's image; the node's default image if absent")
	flags.StringArrayVar(&f.pullSecrets, "image-pull-secret", nil, "A Secret with the credentials of the image's registry")
	flags.StringVar(&f.slug, "slug", "", "The Bottle's short name on its node; made from NAME if absent")
	flags.StringArrayVar(&f.env, "env", nil, "NAME=VALUE, or NAME to pass on the value from your environment")
	flags.StringArrayVar(&f.fromSecrets, "env-from-secret", nil, "SECRET:KEY=VAR, SECRET:KEY for a variable of the key's name, or SECRET for all of its keys")
	flags.StringArrayVar(&f.allow, "allow", nil, "A destination that the guest may reach: HOST[:PORT]")
	flags.StringArrayVar(&f.copyIn, "copy-in", nil, "FOLDER[:PATH]: copy what is in the local folder to PATH before the command starts; without PATH, to /NAME-OF-THE-FOLDER")
	flags.StringArrayVar(&f.copyOut, "copy-out", nil, "PATH[:LOCAL]: copy the guest's file or folder back after the command has ended, also if it failed; without LOCAL, into the current folder")
	flags.DurationVar(&f.timeout, "timeout", 0, "How long the command may run; the exit code is 124 if it takes longer")
	flags.DurationVar(&f.startTimeout, "start-timeout", 15*time.Minute, "How long to wait until the machine runs")
	flags.Int32Var(&f.cpus, "cpus", 0, "The number of virtual CPUs")
	flags.StringVar(&f.memory, "memory", "", "The memory of the guest, such as 2Gi")
	flags.StringVar(&f.restart, "restart", "", "When the command is started again: Never, OnFailure or Always; Never if absent")
	flags.BoolVar(&f.remove, "rm", false, "Delete the Bottle afterwards, also after Ctrl-C")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "Show only what the command prints")
	registerValues(cmd, "restart", []string{"Never", "OnFailure", "Always"})
}

// apply makes the Bottle the one that the flags and the command describe. What they do not
// mention stays as it is.
func (f *runFlags) apply(b *v1alpha1.Bottle, command []string) error {
	b.Spec.Slug = cmp.Or(f.slug, b.Spec.Slug, slugFor(b.Name))
	b.Spec.RestartPolicy = cmp.Or(v1alpha1.RestartPolicy(f.restart), b.Spec.RestartPolicy, v1alpha1.RestartNever)
	b.Spec.Stdin = cmp.Or(f.stdinMode(), b.Spec.Stdin, v1alpha1.StdinClosed)
	if len(command) > 0 {
		b.Spec.Command = command
	}
	if f.image != "" {
		b.Spec.Image = &f.image
	}
	for _, secret := range f.pullSecrets {
		b.Spec.ImagePullSecrets = append(b.Spec.ImagePullSecrets, v1alpha1.LocalObjectReference{Name: secret})
	}
	if len(f.allow) > 0 && b.Spec.Egress == nil {
		b.Spec.Egress = &v1alpha1.Egress{}
	}
	for _, rule := range f.allow {
		b.Spec.Egress.Allow = append(b.Spec.Egress.Allow, v1alpha1.EgressRule(rule))
	}
	if len(f.copyIn) > 0 {
		metav1.SetMetaDataAnnotation(&b.ObjectMeta, v1alpha1.AnnotationHold, "")
	}
	if f.timeout < 0 {
		return errors.New("--timeout must be greater than 0")
	}
	if f.timeout > 0 {
		if b.Spec.Lifetime == nil {
			b.Spec.Lifetime = &v1alpha1.Lifetime{}
		}
		b.Spec.Lifetime.ActiveDeadlineSeconds = ptr.To(int64(math.Ceil(f.timeout.Seconds())))
	}
	if err := f.setSize(b); err != nil {
		return err
	}
	env, err := f.plainEnv()
	setEnv(b, env)
	return err
}

// setEnv adds variables, in the place of those of the same names.
func setEnv(b *v1alpha1.Bottle, env []v1alpha1.EnvVar) {
	b.Spec.Env = append(slices.DeleteFunc(b.Spec.Env, func(old v1alpha1.EnvVar) bool {
		return slices.ContainsFunc(env, func(v v1alpha1.EnvVar) bool { return v.Name == old.Name })
	}), env...)
}

// stdinMode returns what the command reads as its standard input, by the flags; "" if they
// do not say.
func (f *runFlags) stdinMode() v1alpha1.Stdin {
	switch {
	case f.stdin && f.tty:
		return v1alpha1.StdinTerminal
	case f.stdin:
		return v1alpha1.StdinOpen
	}
	return ""
}

func (f *runFlags) setSize(b *v1alpha1.Bottle) error {
	if f.cpus == 0 && f.memory == "" {
		return nil
	}
	if b.Spec.Machine == nil {
		b.Spec.Machine = &v1alpha1.Machine{}
	}
	if f.cpus != 0 {
		b.Spec.Machine.CPUs = &f.cpus
	}
	if f.memory != "" {
		memory, err := resource.ParseQuantity(f.memory)
		if err != nil {
			return fmt.Errorf("--memory %s: %w", f.memory, err)
		}
		b.Spec.Machine.Memory = &memory
	}
	return nil
}

// plainEnv returns the variables of --env.
func (f *runFlags) plainEnv() ([]v1alpha1.EnvVar, error) {
	var out []v1alpha1.EnvVar
	for _, text := range f.env {
		name, value, found := strings.Cut(text, "=")
		if !found {
			if value, found = os.LookupEnv(name); !found {
				continue // as docker run does
			}
		}
		if name == "" {
			return nil, fmt.Errorf("--env %q: the name is missing", text)
		}
		out = append(out, v1alpha1.EnvVar{Name: name, Value: &value})
	}
	return out, nil
}

// secretEnv returns the variables of --env-from-secret. It reads the names of a Secret's
// keys, and thus the Secret, only if no key is named.
func (p *plugin) secretEnv(ctx context.Context, namespace string, refs []string) ([]v1alpha1.EnvVar, error) {
	var out []v1alpha1.EnvVar
	add := func(secret, key, variable string) {
		out = append(out, v1alpha1.EnvVar{Name: variable, ValueFrom: &v1alpha1.EnvVarSource{SecretKeyRef: &v1alpha1.KeySelector{Name: secret, Key: key}}})
	}
	for _, ref := range refs {
		secret, key, named := strings.Cut(ref, ":")
		if named {
			key, variable, other := strings.Cut(key, "=")
			if !other {
				variable = key
			}
			if secret == "" || key == "" || variable == "" {
				return nil, fmt.Errorf("--env-from-secret %q: want SECRET[:KEY[=VAR]]", ref)
			}
			add(secret, key, variable)
			continue
		}
		set, err := p.factory.KubernetesClientSet()
		if err != nil {
			return nil, err
		}
		s, err := set.CoreV1().Secrets(namespace).Get(ctx, secret, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("--env-from-secret %s: %w (name the keys if you may not read the Secret: %s:KEY)", ref, err, secret)
		}
		for _, key := range slices.Sorted(maps.Keys(s.Data)) {
			if !variableName.MatchString(key) {
				return nil, fmt.Errorf("--env-from-secret %s: the key %q is not a valid name of a variable: use %s:KEY=VAR", ref, clean(key), secret)
			}
			add(secret, key, key)
		}
	}
	return out, nil
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// maxSlug is how long a slug may be.
const maxSlug = 40

var notInSlug = regexp.MustCompile(`[^a-z0-9]+`)

// slugFor makes a slug from the name of a Bottle. Slugs need not be unique.
func slugFor(name string) string {
	slug := strings.Trim(notInSlug.ReplaceAllString(strings.ToLower(name), "-"), "-")
	return strings.TrimRight(slug[:min(len(slug), maxSlug)], "-")
}

// copySpec is a value of --copy-in or --copy-out.
type copySpec struct{ local, guest string }

// copyInSpecs returns the copies of --copy-in. The folders must exist.
func (f *runFlags) copyInSpecs() ([]copySpec, error) {
	var out []copySpec
	for _, text := range f.copyIn {
		local, guest := text, ""
		if i := strings.LastIndex(text, ":"); i > 0 && strings.HasPrefix(text[i+1:], "/") {
			local, guest = text[:i], text[i+1:]
		}
		info, err := os.Stat(local)
		if err == nil && !info.IsDir() {
			err = errors.New("it is not a folder")
		}
		if err != nil {
			return nil, fmt.Errorf("--copy-in %s: %w", text, err)
		}
		if guest == "" {
			whole, err := filepath.Abs(local)
			if err != nil {
				return nil, err
			}
			guest = "/" + filepath.Base(whole)
		}
		out = append(out, copySpec{local, strings.TrimRight(guest, "/") + "/"})
	}
	return out, nil
}

// copyOutSpecs returns the copies of --copy-out.
func (f *runFlags) copyOutSpecs() ([]copySpec, error) {
	var out []copySpec
	for _, text := range f.copyOut {
		guest, local, _ := strings.Cut(text, ":")
		base := path.Base(path.Clean(guest))
		if local == "" {
			local = base
		}
		if guest == "" || local == "/" || local == ".." {
			return nil, fmt.Errorf("--copy-out %q: want PATH[:LOCAL]", text)
		}
		out = append(out, copySpec{local, guest})
	}
	return out, nil
}
