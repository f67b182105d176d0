// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/kubectl/pkg/util/templates"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

func (p *plugin) newRun() *cobra.Command {
	flags := &runFlags{}
	cmd := &cobra.Command{
		Use:                   "run NAME|-f FILE [--image IMAGE] [-- COMMAND [ARGS…]]",
		DisableFlagsInUseLine: true,
		Short:                 "Run a command to its end in a new Bottle",
		Long: templates.LongDesc(`
			Creates a Bottle, shows the standard output and the standard error of its command
			separately, and returns the command's exit code. The exit code is 128 plus the number
			of the signal that ended the command, 124 if it ran for longer than --timeout, and 1 if
			it could not be run.

			The Bottle stays afterwards, with its disk, logs and files, unless --rm is used. Its
			machine is stopped, and what it booked on its node is released.

			The first Ctrl-C stops the command and its machine, and the second one ends run
			immediately. With --rm, the first Ctrl-C deletes the Bottle. With a terminal (-it), Ctrl-C
			goes to the command.

			Without a COMMAND, the image's own command runs.

			With -f, the Bottle is the one in the file, and the flags and COMMAND change it. NAME,
			if there is one, replaces its name.`),
		Example: templates.Examples(`
			# Run a coding agent and copy its work back
			kubectl bottle run fix-1 --image ghcr.io/example/agent:1 --env-from-secret llm:API_KEY \
			  --allow api.example.com --copy-in .:/work --copy-out /work:./fixed -- agent --print "fix the tests"

			# Try something, and leave nothing behind
			kubectl bottle run try --rm -it -- sh

			# Run the Bottle in a file, with another value of a variable
			kubectl bottle run -f job.yaml --env LEVEL=2`),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, command := "", args
			if flags.filename == "" || len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
				var err error
				if name, command, err = splitCommand(cmd, args); err != nil {
					return err
				}
			}
			r, err := p.newRunner(cmd.Context(), flags, name, command)
			if err != nil {
				return err
			}
			return r.createAndRun(cmd.Context())
		},
	}
	flags.addFlags(cmd)
	return cmd
}

// createAndRun does what run does.
func (r *runner) createAndRun(ctx context.Context) error {
	created, err := r.client.create(ctx, r.bottle)
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("%w: choose another name, or delete it with kubectl delete bottle %s -n %s", err, r.name, r.client.namespace)
	}
	if err != nil {
		return err
	}
	r.bottle = created
	fmt.Fprintln(r.notes, sentence(r.name, "created"))
	return r.run(ctx)
}

// runner runs one Bottle to its end.
type runner struct {
	*transfer
	flags    *runFlags
	bottle   *v1alpha1.Bottle // the newest state
	ins      []copySpec
	outs     []copySpec
	notes    io.Writer // what is shown besides the command's output
	progress *progress
	stop     *stopper
	terminal *session // the session of -i, if any
}

// newRunner checks the flags and prepares what needs no Bottle.
func (p *plugin) newRunner(ctx context.Context, flags *runFlags, name string, command []string) (*runner, error) {
	c, err := p.client()
	if err != nil {
		return nil, err
	}
	if flags.stdin && flags.filename == "-" {
		return nil, errors.New("-i needs the standard input, so the Bottle must be in a file: -f FILE")
	}
	bottle, err := p.base(flags.filename, name)
	if err != nil {
		return nil, err
	}
	c.namespace = bottle.Namespace
	r := &runner{transfer: p.transfer(c, bottle.Name), flags: flags, bottle: bottle, notes: p.ErrOut}
	if flags.quiet {
		r.notes = io.Discard
	}
	r.progress = newProgress(r.notes)
	if r.ins, err = flags.copyInSpecs(); err != nil {
		return nil, err
	}
	if r.outs, err = flags.copyOutSpecs(); err != nil {
		return nil, err
	}
	if flags.tty && !flags.stdin {
		return nil, errors.New("-t needs -i")
	}
	if flags.stdin {
		r.terminal = p.session(r.name, flags.interactive)
		flags.tty = r.terminal.terminal != nil
	}
	if err = flags.apply(r.bottle, command); err != nil {
		return nil, err
	}
	secrets, err := p.secretEnv(ctx, c.namespace, flags.fromSecrets)
	if err != nil {
		return nil, err
	}
	setEnv(r.bottle, secrets)
	return r, nil
}

// run waits for the machine, shows the output and copies the files, in this order.
func (r *runner) run(parent context.Context) error {
	ctx, stop := r.watchSignals(parent)
	defer stop.end()
	r.stop = stop
	err := r.untilEnd(ctx)
	if r.flags.remove {
		if rerr := r.delete(parent); rerr != nil {
			fmt.Fprintf(r.ErrOut, "The Bottle could not be deleted: %s\n", clean(rerr.Error()))
		}
	}
	if interrupted := stop.interrupted(); interrupted != nil {
		return interrupted
	}
	return err
}

func (r *runner) untilEnd(ctx context.Context) error {
	if err := r.untilStarted(ctx); err != nil {
		return err
	}
	if err := r.fill(ctx); err != nil {
		return err
	}
	if err := r.show(ctx); err != nil {
		return err
	}
	end := result(r.bottle)
	for _, spec := range r.outs {
		if err := r.pull(ctx, spec.guest, r.unpackTo(spec.local)); err != nil {
			return errors.Join(fmt.Errorf("--copy-out %s: %w", spec.guest, err), end)
		}
		fmt.Fprintf(r.notes, "copied %s to %s\n", spec.guest, spec.local)
	}
	return end
}

// fill copies files into the machine and then lets the command start.
func (r *runner) fill(ctx context.Context) error {
	for _, spec := range r.ins {
		if err := r.push(ctx, spec.guest, r.packContents(spec.local)); err != nil {
			return fmt.Errorf("--copy-in %s: %w", spec.local, err)
		}
		fmt.Fprintf(r.notes, "copied %s to %s\n", spec.local, spec.guest)
	}
	if len(r.ins) == 0 {
		return nil
	}
	return r.client.patch(ctx, r.name, map[string]any{"metadata": map[string]any{"annotations": map[string]any{v1alpha1.AnnotationHold: nil}}})
}
