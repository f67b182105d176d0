// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"botbottle.dev/bottle-operator/internal/bundlelog"
	"botbottle.dev/bottle-operator/internal/host"
)

// logTest is a running container with a log.
type logTest struct {
	fake    *fakeRuntime
	bundles *Bundles
	dir     string
}

func newLogTest(t *testing.T) logTest {
	t.Helper()
	f, r := startFake(t)
	useFakeNS(r)
	f.put(sandboxOf(testOwner, testOwner.ID(), "a"), "/run/netns/a")
	dir := t.TempDir()
	f.containers = []*cri.ContainerStatus{{Id: "c", State: cri.ContainerState_CONTAINER_RUNNING, CreatedAt: 1, LogPath: filepath.Join(dir, "1.log")}}
	return logTest{f, r.Bundles(), dir}
}

// end ends the container.
func (l logTest) end() {
	l.fake.mu.Lock()
	defer l.fake.mu.Unlock()
	l.fake.containers[0] = &cri.ContainerStatus{Id: "c", State: cri.ContainerState_CONTAINER_EXITED, CreatedAt: 1, LogPath: filepath.Join(l.dir, "1.log")}
	go l.bundles.r.changed(testOwner.UID)
}

// append appends text to a file of the log.
func (l logTest) append(t *testing.T, name, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(l.dir, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (l logTest) rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(filepath.Join(l.dir, from), filepath.Join(l.dir, to)); err != nil {
		t.Fatal(err)
	}
}

// pack does what the kubelet does with a file that it rotated earlier.
func (l logTest) pack(t *testing.T, name string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(l.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(l.dir, name+".tmp"))
	if err != nil {
		t.Fatal(err)
	}
	w := gzip.NewWriter(out)
	_, err = w.Write(data)
	if err := errors.Join(err, w.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
	l.rename(t, name+".tmp", name+".gz")
	if err := os.Remove(filepath.Join(l.dir, name)); err != nil {
		t.Fatal(err)
	}
}

func stamp(second int) string {
	return time.Date(2026, 1, 2, 3, 4, second, 5, time.UTC).Format(time.RFC3339Nano)
}

func denied(second int, host string) string {
	return fmt.Sprintf(`%s stdout F {"decision":"deny","host":%q,"port":443}`+"\n", stamp(second), host)
}

// read returns the lines of the log as ReadLog passes them on.
func (l logTest) read(t *testing.T, req host.BundleLogRequest) (out []string) {
	t.Helper()
	err := l.bundles.ReadLog(t.Context(), testOwner, req, func(line host.BundleLogLine) error {
		text := string(line.Text)
		if line.Partial {
			text += "+"
		}
		if line.Stderr {
			text = "err:" + text
		}
		if line.Decision != nil {
			text = line.Decision.Host
		}
		out = append(out, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestReadLog(t *testing.T) {
	l := newLogTest(t)
	l.append(t, "0.log.20260102-030401", denied(1, "oldest"))
	l.pack(t, "0.log.20260102-030401")
	l.append(t, "0.log.20260102-030402", denied(2, "old"))
	l.append(t, "0.log", denied(3, "earlier")+"not a line of a log\n\n"+stamp(4)+" stdout F\n")
	l.append(t, "1.log.20260102-030405", stamp(5)+" stdout P {\"decision\":\"deny\",\n"+stamp(5)+" stderr F between\n"+stamp(6)+" stdout F \"host\":\"joined\"}\n")
	l.append(t, "1.log", denied(7, "newest"))
	for _, other := range []string{"2.txt", "log", "1.log.tmp", "1.log.20260102-030405.tmp", "a1.log"} {
		l.append(t, other, denied(9, "no log"))
	}
	// A link leads nowhere, wherever it leads.
	if err := os.Symlink(filepath.Join(l.dir, "2.txt"), filepath.Join(l.dir, "3.log")); err != nil {
		t.Fatal(err)
	}
	all := []string{"oldest", "old", "earlier", "", `{"decision":"deny",+`, "err:between", "joined", "newest"}
	for name, tt := range map[string]struct {
		req  host.BundleLogRequest
		want []string
	}{
		"all":   {host.BundleLogRequest{Tail: -1}, all},
		"none":  {host.BundleLogRequest{Tail: 0}, nil},
		"one":   {host.BundleLogRequest{Tail: 1}, all[7:]},
		"four":  {host.BundleLogRequest{Tail: 4}, all[4:]},
		"many":  {host.BundleLogRequest{Tail: 1000}, all},
		"since": {host.BundleLogRequest{Tail: -1, Since: time.Date(2026, 1, 2, 3, 4, 4, 5, time.UTC)}, all[3:]},
		"until": {host.BundleLogRequest{Tail: -1, Until: time.Date(2026, 1, 2, 3, 4, 2, 5, time.UTC)}, all[:2]},
	} {
		if got := l.read(t, tt.req); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
	err := l.bundles.ReadLog(t.Context(), testOwner, host.BundleLogRequest{Tail: -1}, func(host.BundleLogLine) error { return errTest })
	if !errors.Is(err, errTest) {
		t.Errorf("error of the caller: got %v, want it back", err)
	}
}

// TestReadLongLines checks that a line of any length comes in parts of a bounded length, and
// is a decision only if it is short.
func TestReadLongLines(t *testing.T) {
	l := newLogTest(t)
	long := strings.Repeat("x", 1<<20)
	fits := `{"decision":"deny","host":"fits","reason":"` + strings.Repeat("r", bundlelog.MaxLine-100) + `"}`
	tooLong := `{"decision":"deny","host":"long","reason":"` + strings.Repeat("r", bundlelog.MaxLine) + `"}`
	l.append(t, "1.log", stamp(1)+" stdout F "+long+"\n"+long+"\n"+stamp(2)+" stdout F "+fits+"\n"+stamp(3)+" stdout F "+tooLong+"\n"+
		stamp(4)+" stdout P "+strings.Repeat("p", 10_000)+"\n"+stamp(4)+` stdout F {"decision":"deny","host":"tail of a long line"}`+"\n")
	var whole strings.Builder
	var decisions []string
	err := l.bundles.ReadLog(t.Context(), testOwner, host.BundleLogRequest{Tail: -1}, func(line host.BundleLogLine) error {
		if len(line.Text) > maxPart {
			t.Fatalf("got a part of %d bytes, want at most %d", len(line.Text), maxPart)
		}
		if line.Time.Second() == 1 {
			whole.Write(line.Text)
		}
		if line.Decision != nil {
			decisions = append(decisions, line.Decision.Host)
		}
		return nil
	})
	if err != nil || whole.String() != long || !slices.Equal(decisions, []string{"fits"}) {
		t.Errorf("got %d bytes, decisions %q, %v, want %d bytes and the decision that fits", whole.Len(), decisions, err, len(long))
	}
}

func TestFollowDecisions(t *testing.T) {
	l := newLogTest(t)
	l.append(t, "0.log", denied(1, "one"))
	l.append(t, "1.log", denied(2, "two"))
	hosts := make(chan string, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- l.bundles.FollowDecisions(t.Context(), testOwner, time.Time{}, func(d host.Decision) { hosts <- d.Host })
	}()
	want := func(names ...string) {
		t.Helper()
		for _, name := range names {
			select {
			case got := <-hosts:
				if got != name {
					t.Fatalf("got a decision about %q, want %q", got, name)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("got no decision within 10 s, want %q", name)
			}
		}
	}
	want("one", "two")
	l.append(t, "1.log", denied(3, "three")[:20])
	l.append(t, "1.log", denied(3, "three")[20:])
	want("three")
	// A rotation: the runtime writes to the old file until the kubelet tells it about the new
	// one.
	l.rename(t, "1.log", "1.log.20260102-030403")
	l.append(t, "1.log.20260102-030403", denied(4, "four"))
	l.append(t, "1.log", denied(5, "five"))
	want("four", "five")
	// Two rotations between two reads, and the old file is packed.
	l.append(t, "1.log", denied(6, "six"))
	l.rename(t, "1.log", "1.log.20260102-030406")
	l.append(t, "1.log", denied(7, "seven"))
	l.rename(t, "1.log", "1.log.20260102-030407")
	l.append(t, "1.log", denied(8, "eight"))
	l.pack(t, "1.log.20260102-030403")
	want("six", "seven", "eight")
	// The file that is read is packed before the next read.
	l.rename(t, "1.log", "1.log.20260102-030408")
	l.pack(t, "1.log.20260102-030408")
	l.append(t, "1.log", denied(9, "nine"))
	want("nine")
	l.append(t, "1.log", denied(10, "last"))
	l.end()
	want("last")
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("after the container's end: got %v, want nil", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("does not end within 10 s after the container")
	}
	select {
	case host := <-hosts:
		t.Errorf("got another decision about %q, want none", host)
	default:
	}
}

func TestFollowErrors(t *testing.T) {
	l := newLogTest(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.bundles.FollowDecisions(ctx, testOwner, time.Time{}, nil); err != nil {
		t.Errorf("context ended: got %v, want nil", err)
	}
	for name, path := range map[string]string{"none": "", "relative": "1.log", "other name": "/etc/passwd", "no folder": "/nowhere/0.log"} {
		l.fake.containers[0].LogPath = path
		err := l.bundles.FollowDecisions(t.Context(), testOwner, time.Time{}, nil)
		if !errors.Is(err, host.ErrUnavailable) {
			t.Errorf("%s: got %v, want ErrUnavailable", name, err)
		}
	}
}

func FuzzLogLines(f *testing.F) {
	f.Add([]byte(denied(1, "a")+"x\n"+stamp(2)+" stderr P x\n"), 7)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		if size <= 0 {
			return
		}
		read := func(size int) (out []string) {
			l := &logLines{line: func(line host.BundleLogLine) error {
				if len(line.Text) > maxPart {
					t.Fatalf("got a part of %d bytes", len(line.Text))
				}
				out = append(out, fmt.Sprint(line.Time, line.Stderr, line.Partial, string(line.Text)))
				return nil
			}}
			for chunk := range slices.Chunk(data, size) {
				if err := l.write(chunk); err != nil {
					t.Fatal(err)
				}
				if cap(l.held) > 64<<10 || cap(l.stdout.text) > 64<<10 {
					t.Fatal("holds too much")
				}
			}
			return out
		}
		if len(data) == 0 {
			return
		}
		if in, whole := read(size), read(len(data)); !slices.Equal(in, whole) {
			t.Errorf("in pieces of %d: got %q, want %q", size, in, whole)
		}
	})
}
