// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"botbottle.dev/bottle-operator/internal/host"
)

// What smolvm gives a machine that asks for nothing, on every release.
const (
	defaultCPUs      = 4
	defaultMemoryMiB = 8192
)

// object is a JSON object of smolvm: a machine in its list, or its record.
type object map[string]any

// widening matches the keys of what no Bottle asks for: devices of the node, its
// sockets and folders, credentials, and ways to share or copy a running machine.
// It matches parts of names, so that it also finds keys of future releases.
var widening = regexp.MustCompile(`gpu|cuda|graph|rosetta|nested|ssh|docker|socket|forkable|branchable|parent|disks|volume|staged|` +
	`credential|health_cmd|interceptor|mediated|video|display|vnc|usb|publish|expose|ephemeral|^init$`)

// counted are keys of the list that hold a number, and what the number counts.
var counted = []string{"mounts", "ports"}

// removeIfOther compares the machine that was just created with what was asked
// for. If it differs, or if that cannot be found out, it removes the machine and
// returns an error: ErrInvalid if it differs. An artifact's author chooses what
// smolvm gives the machine, unless a flag says otherwise, and some releases ignore
// a flag whose value is their default.
func (d *Driver) removeIfOther(ctx context.Context, c capabilities, spec host.MachineSpec) error {
	name := spec.Owner.ID()
	err := d.checkCreated(ctx, c, spec)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("create machine %s: %w", name, err)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	removed := d.remove(ctx, c, host.Machine{Name: name, State: host.MachineCreated})
	if errors.Is(removed, host.ErrNotFound) {
		removed = nil
	}
	return errors.Join(err, removed, d.sweep(ctx, name))
}

func (d *Driver) checkCreated(ctx context.Context, c capabilities, spec host.MachineSpec) error {
	release, err := d.exclusive(ctx) // so that the database does not change meanwhile
	if err != nil {
		return err
	}
	defer release()
	_, view, err := d.inspect(ctx, c, spec.Owner.ID())
	if err != nil {
		return err
	}
	record, err := d.recordObject(ctx, c, spec.Owner.ID())
	if err != nil {
		return err
	}
	what, help := smolvmMade, ""
	if spec.Artifact != "" {
		what, help = artifactMakes, packAnew
	}
	return refuse(differences(view, record, spec), what, help)
}

// differences describes what differs from what was asked for.
func differences(view, record object, spec host.MachineSpec) []string {
	mounts := len(spec.Mounts)
	return slices.Concat(otherSizes(view, spec), unasked(view, mounts), unasked(record, mounts), otherSecrets(record, spec.Secrets))
}

// checkDevices returns an error if the machine has what no Bottle asks for. An
// agent that ended right after it had created the machine has not checked it, nor
// did earlier agents. The number of mounts is not known here.
func checkDevices(name string, view object) error {
	view = maps.Clone(view)
	delete(view, "mounts")
	if err := refuse(unasked(view, 0), smolvmMade, ""); err != nil {
		return fmt.Errorf("start machine %s: %w: recreate the machine", name, err)
	}
	return nil
}

const (
	smolvmMade    = "smolvm made a machine"
	artifactMakes = "the artifact makes a machine"
	packAnew      = ": pack it without that, or use spec.image"
)

// refuse returns the error for a machine that differs from what was asked for: what made
// the machine, and how to get another.
func refuse(other []string, what, help string) error {
	if len(other) == 0 {
		return nil
	}
	slices.Sort(other)
	return fmt.Errorf("%w: %s that the Bottle does not ask for (%s)%s", host.ErrInvalid, what, strings.Join(slices.Compact(other), ", "), help)
}

// recordObject returns the machine's record. It is empty for a release newer than
// Reference that has no such database: then the list alone counts.
func (d *Driver) recordObject(ctx context.Context, c capabilities, name string) (object, error) {
	data, err := d.stored(ctx, name)
	if c.Newer && (errors.Is(err, host.ErrUnsupported) || errors.Is(err, host.ErrNotFound)) {
		return object{}, nil
	}
	if err != nil {
		return nil, err
	}
	var record object
	if err := json.Unmarshal(data, &record); err != nil {
		return nil, fmt.Errorf("smolvm's record is not a JSON object: %w", host.ErrUnsupported)
	}
	return record, nil
}

// otherSizes describes the sizes that differ from what was asked for. Where
// nothing was asked, the machine may have at most smolvm's default, and disks of
// the default size, which smolvm shows as null.
func otherSizes(view object, spec host.MachineSpec) []string {
	var other []string
	for _, size := range []struct {
		key          string
		asked, limit int64
	}{
		{"cpus", int64(spec.CPUs), defaultCPUs}, {"memory_mib", spec.MemoryMiB, defaultMemoryMiB},
		{"storage_gb", spec.StorageGiB, 0}, {"overlay_gb", spec.OverlayGiB, 0},
	} {
		n, isNumber := view[size.key].(float64)
		switch {
		case size.asked > 0 && (!isNumber || n != float64(size.asked)):
			other = append(other, fmt.Sprintf("%s: got %s, want %d", size.key, valueText(view[size.key]), size.asked))
		case size.asked == 0 && n > float64(size.limit):
			other = append(other, fmt.Sprintf("%s: got %s, want at most smolvm's default", size.key, valueText(view[size.key])))
		}
	}
	return other
}

// unasked describes what the machine has that no Bottle asks for.
func unasked(o object, mounts int) []string {
	var other []string
	for key, value := range o {
		if widening.MatchString(key) && isSet(key, value) {
			other = append(other, fmt.Sprintf("%s: %s", clean(key), valueText(value)))
		}
	}
	for _, key := range counted {
		want := 0
		if key == "mounts" {
			want = mounts
		}
		if _, shown := o[key]; !shown {
			continue
		}
		if n := count(o[key]); n != want {
			other = append(other, fmt.Sprintf("%s: got %d, want %d", key, n, want))
		}
	}
	if policy, ok := o["restart_policy"].(string); ok && policy != "never" {
		other = append(other, "restart_policy: "+clean(policy))
	}
	return other
}

// otherSecrets describes the references to secrets that differ from those that
// were given: the machine would get the content of any file of the node.
func otherSecrets(record object, given []host.SecretFile) []string {
	refs, _ := record["secret_refs"].(map[string]any)
	want := map[string]string{}
	for _, s := range given {
		want[s.Name] = s.Path
	}
	var other []string
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		ref, _ := refs[name].(map[string]any)
		path, isFile := ref["from_file"].(string)
		for source, value := range ref {
			isFile = isFile && (source == "from_file" || !isSet(source, value))
		}
		if asked, ok := want[name]; !ok || !isFile || path != asked {
			other = append(other, "secret_refs")
		}
	}
	return other
}

// count returns how many things the value lists: smolvm's list has a number, and
// its record has the things.
func count(value any) int {
	switch v := value.(type) {
	case float64:
		return int(v)
	case []any:
		return len(v)
	}
	return 0
}

// valueText shows numbers and booleans. It does not show texts, which may be an
// artifact's.
func valueText(value any) string {
	switch v := value.(type) {
	case nil:
		return "none"
	case bool:
		return fmt.Sprint(v)
	case float64:
		return fmt.Sprintf("%.0f", v)
	}
	return "set"
}
