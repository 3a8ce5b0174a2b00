package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/runnelhq/runnel/proof/oracle"
	"github.com/runnelhq/runnel/proof/patience"
	"github.com/runnelhq/runnel/wire"
)

var fullRounds = flag.Int("full-rounds", 1, "how often the disk of a server is filled")

const (
	diskBytes    = 640 << 20 // 256 MiB of it are kept free
	entryBytes   = 256 << 10
	streamBytes  = 16 << 20
	fillers      = 8
	fullPatience = 60 * time.Second
)

// TestAFullDiskLosesNothingAndEndsByItself fills a small file system through the server, makes space
// through the server, fills it once more from the outside while the server is written to, and kills it.
func TestAFullDiskLosesNothingAndEndsByItself(t *testing.T) {
	mount := smallDisk(t)
	s := newServer(t)
	s.data = filepath.Join(mount, "data")
	s.start()
	f := &filling{t: t, s: s, http: &http.Client{Timeout: 5 * time.Second}, live: make(map[string]int)}
	for round := range *fullRounds {
		// Refused, with the numbers; and readers and the readiness check are still answered.
		f.fill(fmt.Sprint("fill-", round))
		f.stillReads()
		f.check("while it is full")

		// Somebody makes space, and nobody restarts anything.
		f.deleteHalf()
		began := time.Now()
		f.untilTaken(fmt.Sprint("again-", round))
		t.Logf("round %d: writes were taken again after %v", round, time.Since(began).Round(time.Millisecond))
		f.kill()
		f.check("after a kill")

		// Somebody else fills what is kept free, under load.
		ballast := filepath.Join(mount, "ballast")
		stop := f.load(fmt.Sprint("load-", round))
		pause(200 * time.Millisecond)
		taken := ballastTo(t, ballast)
		pause(time.Second)
		stop()
		s.kill()
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		s.start()
		t.Logf("round %d: others took %d MiB", round, taken>>20)
		f.check("after others had filled the disk")
		f.deleteHalf()
		f.untilTaken(fmt.Sprint("more-", round))
		f.kill()
		f.check("at the end of a round")
	}
	t.Logf("%d rounds, %d acknowledged, %d refused, %d unknown", *fullRounds, f.acknowledged, f.refused, f.unknown)
}

// smallDisk mounts a small file system for the time of the test.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "mount")
	if err := os.Mkdir(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) error {
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
		}
		return nil
	}
	loop := func() error {
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			return err
		}
		if err := os.Truncate(image, diskBytes); err != nil {
			return err
		}
		if err := run("mkfs.ext4", "-q", "-m", "0", image); err != nil {
			return err
		}
		return run("mount", "-o", "loop", image, mount)
	}
	if err := loop(); err != nil {
		if tmp := run("mount", "-t", "tmpfs", "-o", fmt.Sprint("size=", diskBytes), "tmpfs", mount); tmp != nil {
			t.Skip("no small file system can be mounted here: ", errors.Join(err, tmp))
		}
		t.Log("on tmpfs: ", err)
	}
	t.Cleanup(func() {
		if run("umount", mount) == nil {
			return
		}
		if err := run("umount", "-l", mount); err != nil {
			t.Error(err)
		}
	})
	return mount
}

// ballastTo takes all that is left of a disk, most of it at once, and returns how much that was.
func ballastTo(t *testing.T, path string) int64 {
	t.Helper()
	for size := int64(diskBytes); size >= 1<<20; size /= 2 {
		_ = exec.Command("fallocate", "-o", fmt.Sprint(sizeOf(path)), "-l", fmt.Sprint(size), path).Run() // as far as that goes
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for piece := make([]byte, 1<<20); len(piece) > 0; {
		switch _, err := file.Write(piece); {
		case errors.Is(err, syscall.ENOSPC):
			piece = piece[:len(piece)/2]
		case err != nil:
			t.Fatal(err)
		}
	}
	return sizeOf(path)
}

func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// filling is a client that fills a disk, and knows what it was told.
type filling struct {
	t      testing.TB
	s      *server
	http   *http.Client
	ledger oracle.Ledger

	mu                             sync.Mutex
	live                           map[string]int // bytes of the streams that were not deleted
	deleted                        []string
	acknowledged, refused, unknown int
}

// send returns the status, 0 if there is no answer, and the body.
func (f *filling) send(method, path string, body string) (int, []byte, http.Header) {
	req, err := http.NewRequestWithContext(context.Background(), method, f.s.url("/v1/stream/"+path), strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Content-Type", "text/plain")
	res, err := f.http.Do(req)
	if err != nil {
		return 0, nil, nil
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, nil, nil
	}
	return res.StatusCode, got, res.Header
}

// write sends a write and notes its outcome.
func (f *filling) write(op *oracle.Operation, method, path, body string) int {
	status, answer, header := f.send(method, path, body)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case status >= 200 && status < 300:
		op.Acknowledged()
		f.acknowledged++
		f.live[path] += len(body)
	case status == 0 || status == http.StatusInternalServerError:
		op.Unknown()
		f.unknown++
	default:
		op.Refused()
		f.refused++
	}
	if status == http.StatusInsufficientStorage {
		f.wantNumbers(answer, header)
	}
	return status
}

// wantNumbers looks at the answer to a write for which there is no space.
func (f *filling) wantNumbers(answer []byte, header http.Header) {
	var body wire.Body
	err := json.Unmarshal(answer, &body)
	e := body.Error
	if err != nil || e.Code != wire.CodeStorageFull || e.Free == nil || e.Keep == nil || e.RetryAfter == 0 || header.Get("Retry-After") == "" {
		f.t.Errorf("507 with %s, Retry-After %q", answer, header.Get("Retry-After"))
	}
}

// entry is an entry of a name that is told from its first word.
func entry(name string, size int) string {
	return name + " " + strings.Repeat(string('a'+name[len(name)-1]%26), size-len(name)-2) + "\n"
}

// append appends until that is refused, or as ctx says, in streams whose names begin with a prefix.
func (f *filling) append(ctx context.Context, prefix string, size int, untilFull bool) {
	refused := 0 // in a row
	for stream := 0; ctx.Err() == nil; stream++ {
		path := fmt.Sprintf("%s-%d", prefix, stream)
		f.mu.Lock()
		f.live[path] = 0
		f.mu.Unlock()
		status := f.write(f.ledger.BeginCreate(path), "PUT", path, "")
		for n := 0; n*size < streamBytes && ctx.Err() == nil; n++ {
			switch {
			case status == http.StatusInsufficientStorage && untilFull:
				// What the server does in the background gives some space back for a while.
				if refused++; refused == 10 {
					return
				}
				pause(200 * time.Millisecond)
			case status < 200 || status >= 300:
				pause(5 * time.Millisecond)
			default:
				refused = 0
			}
			name := fmt.Sprintf("%s/%d", path, n)
			status = f.write(f.ledger.Begin(path, name), "POST", path, entry(name, size))
		}
	}
}

// fill writes until every writer was refused.
func (f *filling) fill(prefix string) {
	f.t.Helper()
	ctx, cancel := patience.Context(f.t.Context(), fullPatience)
	defer cancel()
	began := time.Now()
	var work sync.WaitGroup
	for i := range fillers {
		work.Go(func() { f.append(ctx, fmt.Sprintf("%s-%d", prefix, i), entryBytes, true) })
	}
	work.Wait()
	if ctx.Err() != nil {
		f.t.Fatal("the disk was never full")
	}
	if status, _, _ := f.send("POST", prefix+"-0-0", entry("x", entryBytes)); status != http.StatusInsufficientStorage {
		f.t.Fatalf("a write to a full disk: %d", status)
	}
	f.t.Logf("full after %v and %d entries", time.Since(began).Round(time.Millisecond), f.acknowledged)
}

// load writes until the function that it returns is called.
func (f *filling) load(prefix string) (stop func()) {
	ctx, cancel := context.WithCancel(f.t.Context())
	var work sync.WaitGroup
	for i := range fillers {
		work.Go(func() { f.append(ctx, fmt.Sprintf("%s-%d", prefix, i), 16<<10, false) })
	}
	return func() {
		cancel()
		work.Wait()
	}
}

// untilTaken writes until a write is taken.
func (f *filling) untilTaken(path string) {
	f.t.Helper()
	f.live[path] = 0
	left := patience.For(fullPatience)
	for f.write(f.ledger.BeginCreate(path), "PUT", path, "") >= 300 {
		if !left.Wait(0) {
			f.t.Fatal("the disk stayed full, although half of the streams were deleted")
		}
	}
}

// stillReads looks at what must work although writes are refused.
func (f *filling) stillReads() {
	f.t.Helper()
	res, err := f.http.Get(f.s.url("/readyz"))
	if err != nil {
		f.t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK || !bytes.Contains(body, []byte(`"full"`)) {
		f.t.Errorf("readyz says %d %s, %v", res.StatusCode, body, err)
	}
}

// deleteHalf deletes the largest streams, until half of what there is has gone.
func (f *filling) deleteHalf() {
	f.t.Helper()
	all := 0
	for _, n := range f.live {
		all += n
	}
	paths := slices.SortedFunc(maps.Keys(f.live), func(a, b string) int { return f.live[b] - f.live[a] })
	for gone := 0; gone < all/2; paths = paths[1:] {
		gone += f.live[paths[0]]
		status := f.write(f.ledger.BeginDelete(paths[0]), "DELETE", paths[0], "")
		if status != http.StatusNoContent && status != http.StatusNotFound {
			f.t.Fatalf("deleting %s: %d", paths[0], status)
		}
		f.deleted = append(f.deleted, paths[0])
		delete(f.live, paths[0])
	}
}

func (f *filling) kill() {
	f.s.kill()
	f.s.start()
}

// check compares every stream with what is known of it.
func (f *filling) check(when string) {
	f.t.Helper()
	for _, path := range append(slices.Collect(maps.Keys(f.live)), f.deleted...) {
		names, exists := f.read(path)
		for _, v := range f.ledger.Check(path, names, false, exists) {
			f.t.Errorf("%s: %v", when, v)
		}
	}
	if f.t.Failed() {
		f.t.FailNow()
	}
}

// read returns the names of the entries of a stream.
func (f *filling) read(path string) (names []string, exists bool) {
	f.t.Helper()
	var all bytes.Buffer
	for offset := "-1"; ; {
		status, body, header := f.send("GET", path+"?offset="+offset, "")
		if status == http.StatusNotFound {
			return nil, false
		}
		if status != http.StatusOK {
			f.t.Fatalf("reading %s: %d %.200s", path, status, body)
		}
		all.Write(body)
		offset = header.Get("Stream-Next-Offset")
		if header.Get("Stream-Up-To-Date") == "true" {
			break
		}
	}
	for line := range strings.Lines(all.String()) {
		name, _, _ := strings.Cut(line, " ")
		if line != entry(name, len(line)) {
			f.t.Fatalf("%s holds a damaged entry: %.80q", path, line)
		}
		names = append(names, name)
	}
	return names, true
}
