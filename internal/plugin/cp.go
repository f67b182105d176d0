// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/templates"
)

// place is a source or target of cp.
type place struct {
	bottle string // "" for a local file
	path   string
}

// stream is the path that stands for standard input or output, as a tar stream.
const stream = "-"

// parsePlace parses PATH or NAME:PATH. A local path with a colon begins with "." or "/".
func parsePlace(text string) (place, error) {
	name, file, found := strings.Cut(text, ":")
	drive := runtime.GOOS == "windows" && len(name) == 1
	if !found || drive || strings.HasPrefix(text, ".") || strings.ContainsAny(name, `/\`) {
		if text == "" {
			return place{}, errors.New("the local path is empty")
		}
		return place{path: text}, nil
	}
	if why := validation.IsDNS1123Subdomain(name); len(why) > 0 {
		return place{}, fmt.Errorf("%q is not the name of a Bottle: %s", name, why[0])
	}
	if file == "" {
		return place{}, fmt.Errorf("the path after %s: is empty", name)
	}
	return place{name, file}, nil
}

func (p *plugin) newCp() *cobra.Command {
	cmd := &cobra.Command{
		Use:                   "cp (SOURCE NAME:PATH | NAME:PATH TARGET)",
		DisableFlagsInUseLine: true,
		Short:                 "Copy files and folders to and from a Bottle",
		Long: templates.LongDesc(`
			Copies a file or folder into a Bottle or out of it. Contents, modes, times, symbolic and
			hard links are kept; owners, setuid bits and devices are not. If the target is a folder
			that exists, or ends with "/", the source is put into it. Otherwise the target is
			the new name.

			"-" stands for a tar stream on standard input or output.

			The machine of a finished Bottle is started for the copy, without its command.`),
		Example: templates.Examples(`
			# Copy a folder into a Bottle, as /work/src
			kubectl bottle cp ./src fix-1:/work/

			# Copy what the agent made
			kubectl bottle cp fix-1:/work/out ./out

			# Look at an archive
			kubectl bottle cp fix-1:/work/out - | tar -tv`),
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: p.completePlace(),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := parsePlace(args[0])
			if err != nil {
				return err
			}
			to, err := parsePlace(args[1])
			if err != nil {
				return err
			}
			if (from.bottle == "") == (to.bottle == "") {
				return cmdutil.UsageErrorf(cmd, "exactly one of %s and %s must be NAME:PATH", args[0], args[1])
			}
			ctx, cancel := p.interruptible(cmd.Context())
			defer cancel()
			c, err := p.client()
			if err != nil {
				return err
			}
			t := p.transfer(c, from.bottle+to.bottle)
			if to.bottle == "" {
				return t.copyOut(ctx, from.path, to.path)
			}
			return t.copyIn(ctx, from.path, to.path)
		},
	}
	return cmd
}

// completePlace completes the names of Bottles, with a colon, and local files.
func (p *plugin) completePlace() cobra.CompletionFunc {
	names := p.completeNames()
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if strings.ContainsAny(prefix, "/.:") {
			return nil, cobra.ShellCompDirectiveDefault
		}
		found, _ := names(cmd, nil, prefix)
		for i := range found {
			found[i] += ":"
		}
		return found, cobra.ShellCompDirectiveNoSpace
	}
}

// copyOut copies the guest's file or folder to a local target, by the rule of cp.
func (t *transfer) copyOut(ctx context.Context, from, to string) error {
	if to == stream {
		return t.pull(ctx, from, copyTo(t.Out))
	}
	base := path.Base(path.Clean(from))
	info, err := os.Stat(to)
	into := strings.HasSuffix(to, "/") || strings.HasSuffix(to, string(filepath.Separator)) || err == nil && info.IsDir()
	if into && base != "." && base != "/" && base != ".." {
		to = filepath.Join(to, base)
	}
	return t.pull(ctx, from, t.unpackTo(to))
}

// copyIn copies a local file or folder to the guest's target, by the rule of cp, which
// the program in the guest follows.
func (t *transfer) copyIn(ctx context.Context, from, to string) error {
	if from == stream {
		return t.push(ctx, strings.TrimRight(to, "/")+"/", copyFrom(t.In))
	}
	whole, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	return t.push(ctx, to, t.packFrom(from, filepath.Base(whole)))
}
