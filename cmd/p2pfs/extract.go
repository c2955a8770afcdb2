package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// extraction is a sink that makes what a tree has, in a partial beside the
// target, which becomes the target when it is whole.
//
// Whoever wrote the tree is not trusted: every name is made in the directory
// that was made for it before, opened as an os.Root, and items that do not come
// in the order of a walk end it. So no name can be made twice, none below a
// symbolic link, none outside. In memory is a directory a level, and a path for
// every file that has several names.
//
// Where the partial is one that is gone on with, what is up to its mark has to be
// there as it should be, and what is behind it is made anew. Directories get what
// is known of them at their end in any case.
type extraction struct {
	t      *target
	asRoot bool // owners, setuid, setgid and devices are made too
	tell   func(path string, err error)

	at     mark     // where it begins
	look   bool     // what it is is to be known, nothing is to be made
	root   *os.Root // nil: nothing has been made
	lone   bool     // what is fetched is no directory; root is that of the target then
	begun  bool
	stack  []extractDir
	file   *extractFile      // that is being written
	last   string            // the last entry that is complete
	groups map[uint64]string // where the first name of a file with several is

	files, bytes int64
	leftOut      int
}

// itemCost is what an entry counts for, in bytes, until the next sync.
const itemCost = 512

// restart begins, or begins anew, where a partial ends. With look it is only to
// find out what that is.
func (x *extraction) restart(at mark, look bool) {
	x.close()
	*x = extraction{t: x.t, asRoot: x.asRoot, tell: x.tell, at: at, look: look}
}

// extractDir is a directory that is being filled.
type extractDir struct {
	at    *os.Root
	entry volume.Entry
	path  string // in the tree
	last  string // name in it
}

var _ node.TreeSink = (*extraction)(nil)

// errOrder is the error of a tree whose items are not those of a walk.
var errOrder = &node.Error{Code: node.Corrupt, Err: errors.New("the tree is not in order")}

// Take makes what item says.
func (x *extraction) Take(item node.Item) (io.Writer, error) {
	if err := x.endFile(); err != nil {
		return nil, err
	}
	if !x.begun {
		x.begun = true
		if item.Path != "" {
			return nil, errOrder
		}
		return x.begin(item)
	}
	parent, name := path.Split(item.Path)
	parent = strings.TrimSuffix(parent, "/")
	if x.lone || item.Path == "" || strings.HasPrefix(item.Path, "/") || name != item.Entry.Name {
		return nil, errOrder
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	for x.stack[len(x.stack)-1].path != parent {
		if len(x.stack) == 1 {
			return nil, errOrder // its directory was not announced, or is over
		}
		if err := x.leaveDir(); err != nil {
			return nil, err
		}
	}
	d := &x.stack[len(x.stack)-1]
	if name <= d.last {
		return nil, errOrder
	}
	d.last = name
	if err := x.t.part.wrote(itemCost, x.point); err != nil {
		return nil, err
	}
	return x.item(d.at, item.Path, name, item)
}

// begin takes the partial into use.
func (x *extraction) begin(i node.Item) (io.Writer, error) {
	x.lone = i.Entry.Kind != volume.DirEntry
	if err := x.t.named(i.Entry.Name); err != nil {
		return nil, err
	}
	mayReplace := x.t.mayReplaceTree
	if x.lone {
		mayReplace = x.t.mayReplace
	}
	if err := mayReplace(); err != nil {
		return nil, err
	}
	if err := x.t.begin(i.ID, x.at, x.look); err != nil {
		return nil, err
	}
	made := x.t.part.path
	if x.lone {
		made = x.t.dir
	} else if err := x.rootDir(made); err != nil {
		return nil, err
	}
	var err error
	if x.root, err = os.OpenRoot(made); err != nil {
		return nil, err
	}
	at, err := x.root.OpenRoot(".")
	if err != nil {
		return nil, err
	}
	x.stack = append(x.stack, extractDir{at: at, entry: i.Entry})
	if x.lone {
		return x.item(at, "", filepath.Base(x.t.part.path), i)
	}
	return nil, nil
}

// rootDir makes the directory that is the root, or sees that it is there.
func (x *extraction) rootDir(made string) error {
	if x.at == (mark{}) {
		return os.Mkdir(made, 0o700)
	}
	i, err := os.Lstat(made)
	if err != nil || !i.IsDir() || !ours(i) || i.Mode().Perm()&0o022 != 0 { // others may have been in it
		return x.t.part.back(mark{})
	}
	if i.Mode().Perm()&0o700 == 0o700 {
		return nil
	}
	return os.Chmod(made, 0o700)
}

// item makes one item, or goes on with it, or sees that it is there.
func (x *extraction) item(at *os.Root, full, name string, i node.Item) (w io.Writer, err error) {
	e := i.Entry
	switch {
	case x.at.After != "" && volume.ComparePaths(full, x.at.After) <= 0:
		if ok, err := x.there(at, full, name, e); err != nil {
			return nil, err
		} else if ok {
			x.last = full
			return nil, nil
		}
		return nil, x.t.part.back(mark{After: x.last, Bytes: x.bytes})
	case e.Kind == volume.FileEntry && x.at.Offset > 0:
		w, err = x.goOn(at, full, name, i)
		x.at.Offset = 0
	default:
		if x.at != (mark{}) {
			if err := x.clear(at, full, name); err != nil {
				return nil, err
			}
		}
		w, err = x.make(at, full, name, e)
		if w != nil && i.From > 0 {
			return nil, fmt.Errorf("%s: the node sent it from byte %d on", show(x.called(full)), i.From)
		}
	}
	if x.file == nil {
		x.last = full
	}
	return w, err
}

// clear removes what is at a name: it was not synced.
func (x *extraction) clear(at *os.Root, full, name string) error {
	if x.lone {
		full = ""
	}
	if err := at.RemoveAll(name); err == nil {
		return nil
	}
	return removeTree(filepath.Join(x.t.part.path, filepath.FromSlash(full)))
}

// timeSlack is how far the time of a file may be from the one that it was given:
// FAT has every other second.
const timeSlack = 2 * time.Second

// there tells whether an item is there as it should be, and takes it in.
func (x *extraction) there(at *os.Root, full, name string, e volume.Entry) (bool, error) {
	i, err := at.Lstat(name)
	if err != nil {
		if e.Kind == volume.FileEntry || e.Kind == volume.DirEntry || e.Kind == volume.SymlinkEntry {
			return false, nil
		}
		_, err = x.make(at, full, name, e) // a device, that is left out perhaps
		return true, err
	}
	switch e.Kind {
	case volume.DirEntry:
		if !i.IsDir() {
			return false, nil
		}
		if i.Mode().Perm()&0o700 != 0o700 {
			if err := at.Chmod(name, 0o700); err != nil {
				return false, err
			}
		}
		return true, x.enter(at, full, name, e)
	case volume.FileEntry:
		first, linked := x.groups[e.Group]
		if !i.Mode().IsRegular() || i.Size() != e.Size || i.ModTime().Sub(e.MTime).Abs() >= timeSlack {
			return false, nil
		}
		if linked && e.Group != 0 {
			if f, err := x.root.Lstat(first); err == nil && os.SameFile(f, i) {
				x.files++
				return true, nil
			}
		}
		x.grouped(full, e)
		x.bytes += e.Size
	case volume.SymlinkEntry:
		if to, err := at.Readlink(name); err != nil || to != e.Target {
			return false, nil
		}
	default:
		if i.Mode().Type()&(fs.ModeDevice|fs.ModeNamedPipe) == 0 {
			return false, nil
		}
	}
	x.files++
	return true, nil
}

// goOn goes on with the file that was being written.
func (x *extraction) goOn(at *os.Root, full, name string, i node.Item) (io.Writer, error) {
	offset := x.at.Offset
	f, err := x.t.part.open(at, name, offset, x.lone)
	if errors.Is(err, errElsewhere) {
		return nil, x.t.part.back(mark{After: x.at.After, Bytes: x.bytes})
	}
	if err != nil {
		return nil, err
	}
	x.files++
	x.grouped(full, i.Entry)
	x.file = &extractFile{x: x, f: f, at: at, path: full, name: name, entry: i.Entry, written: offset}
	if i.From == offset {
		return x.file, nil
	}
	if i.From > 0 {
		return nil, fmt.Errorf("%s: the node sent it from byte %d on, not from %d", show(x.called(full)), i.From, offset)
	}
	return &skipping{w: x.file, n: offset}, nil // a node of an earlier version, that sends all of it
}

// skipping drops the first n bytes.
type skipping struct {
	w io.Writer
	n int64
}

func (s *skipping) Write(p []byte) (int, error) {
	drop := int(min(s.n, int64(len(p))))
	s.n -= int64(drop)
	n, err := s.w.Write(p[drop:])
	return drop + n, err
}

// make makes one item, at a name in at that is free.
func (x *extraction) make(at *os.Root, full, name string, e volume.Entry) (io.Writer, error) {
	switch e.Kind {
	case volume.FileEntry:
		x.files++
		return x.makeFile(at, full, name, e)
	case volume.DirEntry:
		if err := at.Mkdir(name, 0o700); err != nil {
			return nil, err
		}
		return nil, x.enter(at, full, name, e)
	case volume.SymlinkEntry:
		x.files++
		return nil, x.makeLink(at, name, e)
	case volume.FifoEntry, volume.CharEntry, volume.BlockEntry:
		err := x.makeNode(at, name, e)
		if errors.Is(err, node.ErrLeftOut) {
			x.leftOut++
			x.tell(x.called(full), err)
			return nil, nil
		}
		x.files++
		return nil, err
	}
	return nil, fmt.Errorf("%s is of kind %d, which this version does not know", show(x.called(full)), e.Kind)
}

// called is what an item is called in messages.
func (x *extraction) called(full string) string {
	if x.lone {
		return filepath.Base(x.t.path)
	}
	return full
}

// enter begins to fill a directory.
func (x *extraction) enter(at *os.Root, full, name string, e volume.Entry) error {
	sub, err := at.OpenRoot(name)
	if err != nil {
		return err
	}
	x.stack = append(x.stack, extractDir{at: sub, entry: e, path: full})
	return nil
}

// grouped notes where a file with several names is.
func (x *extraction) grouped(full string, e volume.Entry) {
	if e.Group == 0 {
		return
	}
	if x.groups == nil {
		x.groups = make(map[uint64]string)
	}
	x.groups[e.Group] = filepath.FromSlash(full)
}

// point is how far it is, and what makes that durable.
func (x *extraction) point() (mark, func() error) {
	if x.lone && x.file == nil {
		return x.t.part.mark, func() error { return nil }
	}
	m := mark{After: x.last, Bytes: x.bytes}
	if f := x.file; f != nil {
		if f.entry.Sparse { // it may end with a hole for now
			if err := f.f.Truncate(f.written); err != nil {
				return m, func() error { return err }
			}
		}
		m.Offset = f.written
		m.Bytes += f.written
	}
	switch {
	case x.lone:
		return m, x.file.f.Sync
	case syncsAll:
		root := x.root
		return m, func() error { return syncAll(root) }
	}
	err := x.syncNames()
	return m, func() error { return err }
}

// syncNames makes the names in the directories that are being filled durable,
// and what there is of the file that is being written. What is complete is.
func (x *extraction) syncNames() error {
	if x.file != nil {
		if err := x.file.f.Sync(); err != nil {
			return err
		}
	}
	for _, d := range x.stack {
		if runtime.GOOS == "windows" {
			break
		}
		f, err := d.at.Open(".")
		if err != nil {
			return err
		}
		err = f.Sync()
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// extractFile is a file that is being written.
type extractFile struct {
	x       *extraction
	f       *os.File
	at      *os.Root
	path    string // in the tree
	name    string
	entry   volume.Entry
	written int64 // bytes, holes included
}

func (x *extraction) makeFile(at *os.Root, full, name string, e volume.Entry) (io.Writer, error) {
	if first, ok := x.groups[e.Group]; ok && e.Group != 0 {
		// Where it cannot be, the file is made again.
		if err := x.root.Link(first, filepath.FromSlash(full)); err == nil {
			return nil, nil
		}
	}
	f, err := at.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	x.file = &extractFile{x: x, f: f, at: at, path: full, name: name, entry: e}
	x.grouped(full, e)
	return x.file, nil
}

// holeLen is the length in bytes of the zeros that become a hole: a page, which
// is what file systems leave out.
const holeLen = 4 << 10

func (f *extractFile) Write(p []byte) (int, error) {
	if int64(len(p)) > f.entry.Size-f.written {
		return 0, fmt.Errorf("%s: there are more than its %d bytes", show(f.x.called(f.path)), f.entry.Size)
	}
	n, err := f.write(p)
	if err == nil {
		err = f.x.t.part.wrote(n, f.x.point)
	}
	return n, err
}

func (f *extractFile) write(p []byte) (int, error) {
	if !f.entry.Sparse {
		n, err := f.f.Write(p)
		f.written += int64(n)
		return n, err
	}
	done := 0
	for done < len(p) {
		// Pages of the file, all zeros or not, of which runs go together.
		n, zero := 0, false
		for done+n < len(p) {
			at := f.written + int64(n)
			page := p[done+n:]
			page = page[:min(int64(len(page)), holeLen-at%holeLen)]
			if z := allZero(page); n == 0 {
				zero = z
			} else if z != zero {
				break
			}
			n += len(page)
		}
		if !zero {
			if _, err := f.f.WriteAt(p[done:done+n], f.written); err != nil {
				return done, err
			}
		}
		f.written += int64(n)
		done += n
	}
	return done, nil
}

func allZero(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}

// endFile ends the file that is being written.
func (x *extraction) endFile() error {
	f := x.file
	if f == nil {
		return nil
	}
	x.file = nil
	var err error
	if x.lone { // whose sync it is
		err = x.t.part.wait()
	}
	if err == nil && f.written != f.entry.Size {
		err = fmt.Errorf("%s: the node sent %d bytes, the file has %d", show(x.called(f.path)), f.written, f.entry.Size)
	}
	if err == nil && f.entry.Sparse {
		err = f.f.Truncate(f.written) // it may end with a hole
	}
	if err == nil {
		err = x.attributes(f.f, f.entry)
	}
	if err == nil {
		err = setMode(f.f, x.mode(f.entry))
	}
	if err == nil && (!syncsAll || x.lone) {
		err = f.f.Sync()
	}
	if err == nil && x.lone {
		err = x.t.part.record(mark{Offset: f.written, Bytes: f.written})
	}
	if cerr := f.f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = f.at.Chtimes(f.name, time.Time{}, f.entry.MTime)
	}
	if err == nil {
		x.last = f.path
		x.bytes += f.written
	}
	return err
}

// attributes gives what is open its owner and extended attributes.
func (x *extraction) attributes(f *os.File, e volume.Entry) error {
	if err := x.own(e, f.Chown); err != nil {
		return err
	}
	for _, a := range e.Xattrs { // after the owner, which takes some away
		if err := setXattr(f, a); err != nil {
			return fmt.Errorf("extended attribute %s: %w", show(string(a.Name)), err)
		}
	}
	return nil
}

// own gives what chown changes its owner, if that is known and we may.
func (x *extraction) own(e volume.Entry, chown func(uid, gid int) error) error {
	if !x.asRoot || e.UID == volume.NoOwner && e.GID == volume.NoOwner {
		return nil
	}
	return chown(id(e.UID), id(e.GID))
}

// ownName is own for what has a name in at, itself.
func (x *extraction) ownName(at *os.Root, name string, e volume.Entry) error {
	return x.own(e, func(uid, gid int) error { return at.Lchown(name, uid, gid) })
}

// id is an owner for chown, -1 where it is to stay.
func id(n uint32) int {
	if n == volume.NoOwner {
		return -1
	}
	return int(n)
}

// mode is what of an entry's mode is set here: rights of others only by root.
func (x *extraction) mode(e volume.Entry) fs.FileMode {
	m := fs.FileMode(e.Mode).Perm()
	for _, s := range specialBits {
		if e.Mode&s.bit != 0 && (x.asRoot || s.flag == fs.ModeSticky && e.Kind == volume.DirEntry) {
			m |= s.flag
		}
	}
	return m
}

func setMode(f *os.File, m fs.FileMode) error {
	if runtime.GOOS == "windows" { // which has none, but a flag that forbids all that comes next
		return nil
	}
	return f.Chmod(m)
}

// leaveDir gives the directory that is being filled what changes with its
// content, and goes up.
func (x *extraction) leaveDir() error {
	d := x.stack[len(x.stack)-1]
	x.stack = x.stack[:len(x.stack)-1]
	defer d.at.Close()
	if x.lone {
		return nil // it is ours
	}
	f, err := d.at.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := x.attributes(f, d.entry); err != nil {
		return err
	}
	if !syncsAll && runtime.GOOS != "windows" {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := d.at.Chtimes(".", time.Time{}, d.entry.MTime); err != nil && runtime.GOOS != "windows" {
		return err
	}
	return setMode(f, x.mode(d.entry)) // last: it may take our own rights
}

func (x *extraction) makeLink(at *os.Root, name string, e volume.Entry) error {
	if e.Target == "" || strings.IndexByte(e.Target, 0) >= 0 {
		return fmt.Errorf("%s is a symbolic link to %s, which cannot be", show(e.Name), show(e.Target))
	}
	if err := at.Symlink(e.Target, name); err != nil {
		return err
	}
	if err := x.ownName(at, name, e); err != nil {
		return err
	}
	return linkTime(at, name, e.MTime)
}

func (x *extraction) makeNode(at *os.Root, name string, e volume.Entry) error {
	if e.Kind != volume.FifoEntry && !x.asRoot {
		return fmt.Errorf("only root can make devices: %w", node.ErrLeftOut)
	}
	if err := makeNode(at, name, e); err != nil {
		return err
	}
	if err := x.ownName(at, name, e); err != nil {
		return err
	}
	if err := at.Chmod(name, x.mode(e)); err != nil {
		return err
	}
	return at.Chtimes(name, time.Time{}, e.MTime)
}

// finish gives what has been made its place.
func (x *extraction) finish() error {
	if !x.begun {
		return errors.New("the node sent nothing")
	}
	if err := x.endFile(); err != nil {
		return err
	}
	if err := x.t.part.wait(); err != nil {
		return err
	}
	for len(x.stack) > 0 {
		if len(x.stack) == 1 && syncsAll && !x.lone { // before its mode may forbid to open it
			if err := syncAll(x.root); err != nil {
				return err
			}
			if err := x.t.part.record(mark{After: x.last, Bytes: x.bytes}); err != nil {
				return err
			}
		}
		if err := x.leaveDir(); err != nil {
			return err
		}
	}
	_ = x.root.Close()
	x.root = nil
	if x.lone && x.leftOut > 0 {
		x.t.part.done()
		x.t.part = nil
		return nil
	}
	if err := x.place(); err != nil {
		return err
	}
	err := syncDir(x.t.dir)
	x.t.part.done()
	x.t.part = nil
	return err
}

// place renames what has been made. What it replaces is moved away first, and
// back if it fails.
func (x *extraction) place() error {
	made := x.t.part.path
	there, err := os.Lstat(x.t.path)
	switch {
	case err == nil && x.t.force && x.lone && !there.IsDir():
		return os.Rename(made, x.t.path)
	case err != nil || !x.t.force || x.lone || !there.IsDir():
		if err := renameNew(made, x.t.path); errors.Is(err, fs.ErrExist) {
			return x.t.errExists()
		} else if err != nil {
			return err
		}
		return nil
	}
	old, err := os.MkdirTemp(x.t.dir, ".p2pfs-get-*")
	if err != nil {
		return err
	}
	if err := os.Remove(old); err != nil { // Windows renames to free names only
		return err
	}
	if err := os.Rename(x.t.path, old); err != nil {
		return err
	}
	if err := os.Rename(made, x.t.path); err != nil {
		return errors.Join(err, os.Rename(old, x.t.path))
	}
	forget := removeAtExit(old)
	defer forget()
	if err := removeTree(old); err != nil {
		return fmt.Errorf("what was replaced is left in %s: %w", show(old), err)
	}
	return nil
}

// discard ends what is not whole; what there is of it is made durable.
func (x *extraction) discard() {
	if x.root != nil && x.t.part != nil && x.t.part.wait() == nil {
		m, sync := x.point()
		if m.beyond(x.t.part.mark) && sync() == nil {
			_ = x.t.part.record(m)
		}
	}
	x.close()
}

// close closes what is open.
func (x *extraction) close() {
	if x.t.part != nil {
		_ = x.t.part.wait()
	}
	if x.file != nil {
		_ = x.file.f.Close()
		x.file = nil
	}
	for _, d := range x.stack {
		_ = d.at.Close()
	}
	x.stack = nil
	if x.root != nil {
		_ = x.root.Close()
		x.root = nil
	}
}

// renameFree renames to a name that is free, as far as can be seen.
func renameFree(from, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return fs.ErrExist
	}
	return os.Rename(from, to)
}

// removeTree removes a directory of ours, whatever modes what is in it has.
func removeTree(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && err == nil {
			return os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
