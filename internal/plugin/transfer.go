// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/exec"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/internal/plugin/archive"
	"botbottle.dev/bottle-operator/internal/supervise"
)

const (
	// maxGuestWords is how many bytes of the messages of the program in the guest are kept.
	maxGuestWords = 4096
	// maxStart is how long a copy waits for the machine.
	maxStart = 15 * time.Minute
)

// guestProgram is the program in the guest that reads and writes tar streams.
const guestProgram = supervise.In + "/" + supervise.Program

// transfer copies files to and from one Bottle.
type transfer struct {
	*plugin
	client *client
	name   string // of the Bottle
}

func (p *plugin) transfer(c *client, name string) *transfer {
	return &transfer{plugin: p, client: c, name: name}
}

// sink reads the tar stream of a guest; source writes one for a guest.
type (
	sink   func(ctx context.Context, r io.Reader) error
	source func(ctx context.Context, w io.Writer, top string) error
)

// copyTo passes the stream on as it is.
func copyTo(w io.Writer) sink {
	return func(_ context.Context, r io.Reader) error {
		_, err := io.Copy(w, r)
		return err
	}
}

// copyFrom passes a stream on as it is.
func copyFrom(r io.Reader) source {
	return func(_ context.Context, w io.Writer, _ string) error {
		_, err := io.Copy(w, r)
		return err
	}
}

// unpackTo unpacks the stream to a local file or folder.
func (t *transfer) unpackTo(target string) sink {
	return func(ctx context.Context, r io.Reader) error {
		result, err := archive.Unpack(ctx, r, filepath.Clean(target), archive.DefaultLimits, t.leftOut)
		if err != nil {
			return fmt.Errorf("copying to %s: %w", target, err)
		}
		if result.Entries == 0 {
			return errors.New("the guest sent no file")
		}
		if n := result.LinksOutside; n > 0 {
			fmt.Fprintf(t.ErrOut, "warning: %d symbolic links lead out of %s: look at them before you use them\n", n, target)
		}
		return nil
	}
}

// packFrom packs a local file or folder. Its name in the archive is base, unless push
// asks for another one.
func (t *transfer) packFrom(file, base string) source {
	return func(ctx context.Context, w io.Writer, top string) error {
		if top == "" {
			top = base
		}
		return archive.Pack(ctx, w, file, top, t.leftOut)
	}
}

// packContents packs what is in a local folder.
func (t *transfer) packContents(folder string) source {
	return func(ctx context.Context, w io.Writer, _ string) error {
		return archive.Pack(ctx, w, folder, "", t.leftOut)
	}
}

func (t *transfer) leftOut(name, why string) {
	fmt.Fprintf(t.ErrOut, "left out: %s: %s\n", clean(name), why)
}

// pull reads the guest's file or folder from into a sink.
func (t *transfer) pull(ctx context.Context, from string, to sink) error {
	err := t.whenStarted(ctx, func() error { return t.pullBy(ctx, []string{guestProgram, "tar-out", from}, to) })
	if !absent(err) {
		return err
	}
	folder, base := path.Split(strings.TrimRight(from, "/"))
	if base == "" {
		base = "."
	}
	if folder == "" {
		folder = "."
	}
	return noTar(t.pullBy(ctx, []string{"tar", "-C", folder, "-c", "-f", "-", base}, to))
}

// push writes a source into the guest, by the rule of tar-in. The tar of a guest without
// our program knows no such rule: there, a target that does not end with "/" is always
// the new name.
func (t *transfer) push(ctx context.Context, to string, from source) error {
	err := t.whenStarted(ctx, func() error { return t.pushBy(ctx, []string{guestProgram, "tar-in", to}, "", from) })
	if !absent(err) {
		return err
	}
	folder, base := path.Split(to)
	if folder == "" {
		folder = "."
	}
	return noTar(t.pushBy(ctx, []string{"tar", "-C", folder, "-x", "-p", "-f", "-"}, base, from))
}

// noTar explains that a guest has no program for the copy.
func noTar(err error) error {
	if absent(err) {
		return errors.New("the guest has no program for copying: its machine was made with smolvm before 1.9 or by an earlier release of the operator, and its image has no tar. " +
			"Recreate the Bottle (its disk is lost), or use an image that has tar")
	}
	return err
}

// pullBy runs a command in the guest that writes a tar stream.
func (t *transfer) pullBy(parent context.Context, command []string, to sink) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	reader, writer := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		err := to(ctx, reader)
		reader.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		if err != nil {
			cancel() // the guest need not send the rest
		}
		unpacked <- err
	}()
	words := &bounded{}
	err := t.client.stream(ctx, &session{name: t.name, command: command, purpose: subresources.PurposeFiles, out: writer, errOut: words})
	if err != nil && ctx.Err() == nil {
		writer.CloseWithError(errors.New("the stream from the guest is incomplete"))
		<-unpacked //nolint:errcheck // the end of the guest's program says more
		return t.failed(err, words)
	}
	writer.CloseWithError(context.Cause(parent)) // nil is the end of the stream
	local := <-unpacked
	if cause := context.Cause(parent); cause != nil {
		return cause
	}
	t.show(words)
	return local
}

// pushBy runs a command in the guest that reads a tar stream.
func (t *transfer) pushBy(parent context.Context, command []string, top string, from source) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	reader, writer := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := from(ctx, writer, top)
		if err != nil {
			cancel() // an end of the stream would look like success to the guest
		}
		_ = writer.Close() // never fails
		packed <- err
	}()
	words := &bounded{}
	err := t.client.stream(ctx, &session{name: t.name, command: command, purpose: subresources.PurposeFiles, in: reader, errOut: words})
	broken := ctx.Err() != nil
	reader.CloseWithError(io.ErrClosedPipe)
	local := <-packed
	switch {
	case context.Cause(parent) != nil:
		return context.Cause(parent)
	case err != nil && !broken:
		return t.failed(err, words)
	case local != nil && !errors.Is(local, io.ErrClosedPipe):
		return local
	}
	t.show(words)
	return nil
}

// failed describes a failed command in the guest in its own words.
func (t *transfer) failed(err error, words *bounded) error {
	var exit exec.CodeExitError
	if errors.As(err, &exit) && !absent(err) {
		return fmt.Errorf("the copy failed in the guest: %s", clean(strings.TrimSpace(words.String())))
	}
	return explainSession(err)
}

// show shows what the program in the guest has reported.
func (t *transfer) show(words *bounded) {
	if text := strings.TrimSpace(words.String()); text != "" {
		fmt.Fprintln(t.ErrOut, cleanLines(text))
	}
}

// whenStarted calls do again while the machine is being started for the copy. The API
// server says so before any byte is copied.
func (t *transfer) whenStarted(ctx context.Context, do func() error) error {
	deadline := time.Now().Add(maxStart)
	said := false
	for {
		err := do()
		if !starting(err) || time.Now().After(deadline) {
			return err
		}
		if !said {
			fmt.Fprintf(t.ErrOut, "Waiting for the machine: %s\n", clean(err.Error()))
			said = true
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.client.pause():
		}
	}
}

// starting reports whether the API server refused a session because the machine is not
// up yet, or too many sessions are open.
func starting(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsTooManyRequests(err)
}

// bounded keeps the beginning of what is written to it.
type bounded struct {
	mu   sync.Mutex // a session that was broken off may still write
	text []byte
}

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p[:min(len(p), maxGuestWords-len(b.text))]...)
	return len(p), nil
}

func (b *bounded) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}
