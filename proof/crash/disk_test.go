package crash

import (
	"bytes"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk is the file system that Pebble works on. Syncs of the log can be held, any change can fail, and
// what a loss of power would leave can be taken at any moment.
type disk struct {
	vfs.FS // of mem
	mem    *vfs.MemFS
	// lies lets syncs of directories do nothing, for the test of the machinery.
	lies bool

	// still is held shared by every change under way, and taken while an image is made.
	still sync.RWMutex

	mu      sync.Mutex
	synced  map[string][]byte // by name, what the last sync of a file has made durable
	now     map[string]int    // by name, which file it is
	kept    map[string]int    // the same, as the last sync of the directory has left it
	files   int
	holding bool
	held    []*heldSync
	changes int
	crashAt int // take the image before this change; 0 for never
	image   *image
	fault   func(op, name string) error
	slow    time.Duration // after which syncs of the log that are held go on by themselves; 0 for never
	onSlow  func()
	// onLog is called when a log file begins.
	onLog func()
}

// heldSync is a sync of the log that waits.
type heldSync struct {
	name string
	let  chan struct{}
}

func newDisk(mem *vfs.MemFS) *disk {
	return &disk{FS: mem, mem: mem, synced: make(map[string][]byte), now: make(map[string]int)}
}

// hold makes syncs of the log wait from now on, or lets all of them go.
func (d *disk) hold(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.holding = on
	if on {
		return
	}
	for _, h := range d.held {
		close(h.let)
	}
	d.held = nil
}

// waiting counts the syncs that are held.
func (d *disk) waiting() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.held)
}

// letSync lets one sync go.
func (d *disk) letSync() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.held[0].let)
	d.held = d.held[1:]
}

// setFault makes changes fail as f says; nil for no more.
func (d *disk) setFault(f func(op, name string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// setSlow lets syncs of the log that are held go on after a time.
func (d *disk) setSlow(t time.Duration, told func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slow, d.onSlow = t, told
}

// await waits until a sync is let go.
func (d *disk) await(h *heldSync) {
	d.mu.Lock()
	slow := d.slow
	d.mu.Unlock()
	if slow == 0 {
		<-h.let
		return
	}
	late := time.NewTimer(slow)
	defer late.Stop()
	select {
	case <-h.let:
	case <-late.C:
		d.mu.Lock()
		defer d.mu.Unlock()
		if i := slices.Index(d.held, h); i >= 0 {
			d.held = slices.Delete(d.held, i, i+1)
			d.onSlow()
		}
	}
}

// arm takes the image before the n-th change from now on.
func (d *disk) arm(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crashAt = d.changes + n
}

// taken returns the image that was armed for, if it has been taken.
func (d *disk) taken() *image {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.image
}

// snap takes what a loss of power could leave now.
func (d *disk) snap() *image {
	d.still.Lock()
	defer d.still.Unlock()
	d.mu.Lock()
	synced, replaced := maps.Clone(d.synced), make(map[string]bool)
	for name, file := range d.now {
		replaced[name] = d.kept[name] != file
	}
	d.mu.Unlock()
	return &image{
		kept:   d.mem.CrashClone(vfs.CrashCloneCfg{}),
		all:    d.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(0, 0))}),
		synced: synced, replaced: replaced,
	}
}

func (d *disk) change(op, name string, do func() error) error {
	d.mu.Lock()
	d.changes++
	hit := d.crashAt == d.changes && d.image == nil
	fault := d.fault
	var wait *heldSync
	if d.holding && op == "sync" && path.Ext(name) == ".log" {
		wait = &heldSync{name: name, let: make(chan struct{})}
		d.held = append(d.held, wait)
	}
	d.mu.Unlock()
	if hit {
		i := d.snap()
		d.mu.Lock()
		d.image = i
		d.mu.Unlock()
	}
	if wait != nil {
		d.await(wait)
		d.mu.Lock()
		fault = d.fault
		d.mu.Unlock()
	}
	if fault != nil {
		if err := fault(op, name); err != nil {
			return err
		}
	}
	d.still.RLock()
	defer d.still.RUnlock()
	return do()
}

func (d *disk) create(op, name string, open func() (vfs.File, error)) (vfs.File, error) {
	if path.Ext(name) == ".log" && d.onLog != nil {
		d.onLog()
	}
	var file vfs.File
	err := d.change(op, name, func() (err error) {
		file, err = open()
		return err
	})
	if err != nil {
		return nil, err
	}
	return &diskFile{File: file, disk: d, name: name}, nil
}

func (d *disk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.create("create", name, func() (vfs.File, error) {
		d.mu.Lock()
		d.begin(name)
		d.mu.Unlock()
		return d.mem.Create(name, c)
	})
}

func (d *disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.create("open", name, func() (vfs.File, error) { return d.mem.OpenReadWrite(name, c, opts...) })
}

func (d *disk) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.create("create", newname, func() (vfs.File, error) {
		f, err := d.mem.ReuseForWrite(oldname, newname, c)
		if err == nil {
			d.rename(oldname, newname)
		}
		return f, err
	})
}

func (d *disk) OpenDir(name string) (vfs.File, error) {
	f, err := d.mem.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &diskFile{File: f, disk: d, name: name, dir: true}, nil
}

func (d *disk) Rename(oldname, newname string) error {
	return d.change("rename", newname, func() error {
		if err := d.mem.Rename(oldname, newname); err != nil {
			return err
		}
		d.rename(oldname, newname)
		return nil
	})
}

func (d *disk) Link(oldname, newname string) error {
	return d.change("link", newname, func() error { return d.mem.Link(oldname, newname) })
}

func (d *disk) MkdirAll(dir string, perm os.FileMode) error {
	return d.change("mkdir", dir, func() error { return d.mem.MkdirAll(dir, perm) })
}

func (d *disk) Remove(name string) error {
	return d.change("remove", name, func() error {
		d.rename(name, "")
		return d.mem.Remove(name)
	})
}

// begin notes that a name stands for another file from now on.
func (d *disk) begin(name string) {
	d.files++
	d.now[name] = d.files
	delete(d.synced, name)
}

// rename lets what is known of a file follow its name. An empty new name forgets it.
func (d *disk) rename(oldname, newname string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.synced[oldname]
	delete(d.synced, oldname)
	if newname == "" {
		return
	}
	d.begin(newname)
	if ok {
		d.synced[newname] = b
	}
}

func (d *disk) Unwrap() vfs.FS { return d.mem }

// diskFile is a file that was opened to be changed, or a directory to be synced.
type diskFile struct {
	vfs.File
	disk *disk
	name string
	dir  bool
}

func (f *diskFile) Write(p []byte) (n int, err error) {
	err = f.disk.change("write", f.name, func() (err error) {
		n, err = f.File.Write(p)
		return err
	})
	return n, err
}

func (f *diskFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.disk.change("write", f.name, func() (err error) {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f *diskFile) Sync() error {
	op := "sync"
	if f.dir {
		op = "sync directory"
	}
	return f.disk.change(op, f.name, f.sync)
}

func (f *diskFile) SyncData() error { return f.Sync() }

func (f *diskFile) sync() error {
	if f.dir {
		if f.disk.lies {
			return nil
		}
		f.disk.mu.Lock()
		f.disk.kept = maps.Clone(f.disk.now) // there is only one directory
		f.disk.mu.Unlock()
		return f.File.Sync()
	}
	if err := f.File.Sync(); err != nil {
		return err
	}
	all, err := content(f.disk.mem, f.name)
	if err != nil {
		return nil // removed while it was open
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.synced[f.name] = all
	return nil
}

func (f *diskFile) Close() error { return f.disk.change("close", f.name, f.File.Close) }

func content(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// image is a disk at the moment of a crash: what it has promised to keep, and what it was told.
type image struct {
	kept, all *vfs.MemFS
	synced    map[string][]byte
	replaced  map[string]bool // names that stood for another file when the directory was synced
}

// loss says what a crash leaves of what was not synced.
type loss int

const (
	loseAll loss = iota
	loseNothing
	loseBlocks // each block and each directory entry is kept or not
	loseTail   // each file is kept up to some byte, and cut or zeroed behind it
	losses
)

func (l loss) String() string {
	return [...]string{"all that was not synced is lost", "nothing is lost", "blocks are lost", "ends are torn"}[l]
}

// disk returns what is left after the crash, and what became of logs that were neither kept nor lost whole.
func (i *image) disk(r *rand.Rand, l loss) (left *vfs.MemFS, torn []string) {
	left = vfs.NewCrashableMem()
	var walk func(dir string)
	walk = func(dir string) {
		kept, _ := i.kept.List(dir) // what is not there has no names
		all, _ := i.all.List(dir)
		names := append(slices.Clone(kept), all...)
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			full := strings.TrimPrefix(path.Join(dir, name), "/")
			synced := slices.Contains(kept, name)
			if !synced && (l == loseAll || l != loseNothing && r.IntN(2) == 0) {
				continue
			}
			from := i.all
			if !slices.Contains(all, name) {
				from = i.kept // its removal was not synced
			}
			info, err := from.Stat(full)
			must(err)
			if info.IsDir() {
				must(left.MkdirAll(full, 0o755))
				walk(full)
				continue
			}
			now, err := content(from, full)
			must(err)
			if from == i.kept {
				write(left, full, now)
				continue
			}
			was := i.synced[full]
			if synced {
				old, err := content(i.kept, full)
				must(err)
				switch {
				case !i.replaced[full]:
					was = old
				case l == loseAll || l != loseNothing && r.IntN(2) == 0:
					write(left, full, old)
					continue
				}
			}
			data, how := lose(r, l, was, now)
			if isLog(name) && how != "" && !bytes.Equal(data, was) && !bytes.Equal(data, now) {
				torn = append(torn, how)
			}
			write(left, full, data)
		}
		d, err := left.OpenDir(dir)
		must(err)
		must(d.Sync())
		must(d.Close())
	}
	walk("/")
	return left, torn
}

func write(fs vfs.FS, name string, data []byte) {
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	must(err)
	_, err = f.Write(data)
	must(err)
	must(f.Sync())
	must(f.Close())
}

// lose returns what is left of a file that holds now, and held was when it was synced last, and what that is
// called, empty if it is one of the two.
func lose(r *rand.Rand, l loss, was, now []byte) (left []byte, how string) {
	switch {
	case bytes.Equal(was, now) || l == loseAll:
		return was, ""
	case l == loseNothing:
		return now, ""
	}
	if l == loseBlocks {
		left, how = slices.Clone(was), "some blocks missing"
		lost := false
		const block = 512
		for i := 0; i < len(now); i += block {
			end := min(i+block, len(now))
			if r.IntN(2) == 0 {
				lost = lost || i < len(was) && !bytes.Equal(was[i:min(end, len(was))], now[i:end]) || i >= len(was)
				continue
			}
			if lost {
				how = "a later block and without an earlier one"
			}
			if end > len(left) {
				left = append(left, make([]byte, end-len(left))...)
			}
			copy(left[i:], now[i:end])
		}
		return left, how
	}
	same := 0
	for same < min(len(was), len(now)) && was[same] == now[same] {
		same++
	}
	if same == len(now) {
		return now, "" // it was only cut
	}
	cut := same + r.IntN(len(now)-same+1)
	left = slices.Clone(now[:cut])
	if cut < len(was) {
		return append(left, was[cut:]...), "an old end behind the new one"
	}
	if r.IntN(2) == 0 {
		return append(left, make([]byte, r.IntN(len(now)-cut+1))...), "a zeroed end"
	}
	return left, "a torn end"
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
