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

// extraction is a sink that makes what a tree has, in a temporary directory
// beside the target, which becomes the target when it is whole.
//
// Whoever wrote the tree is not trusted: every name is made in the directory
// that was made for it before, opened as an os.Root, and items that do not come
// in the order of a walk end it. So no name can be made twice, none below a
// symbolic link, none outside. In memory is a directory a level, and a path for
// every file that has several names.
type extraction struct {
	t      *target
	asRoot bool // owners, setuid, setgid and devices are made too
	tell   func(path string, err error)

	tmp    string // empty: nothing has been made
	root   *os.Root
	forget func()
	lone   bool // what is fetched is no directory; it is called loneName in tmp
	begun  bool
	stack  []extractDir
	file   *extractFile      // that is being written
	groups map[uint64]string // where the first name of a file with several is

	files, bytes int64
	leftOut      int
}

// loneName is the name in the temporary directory of what is no directory.
const loneName = "item"

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
		return x.begin(item.Entry)
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
	return x.make(d.at, item.Path, name, item.Entry)
}

// begin makes the temporary directory.
func (x *extraction) begin(e volume.Entry) (io.Writer, error) {
	x.lone = e.Kind != volume.DirEntry
	if err := x.t.named(e.Name); err != nil {
		return nil, err
	}
	mayReplace := x.t.mayReplaceTree
	if x.lone {
		mayReplace = x.t.mayReplace
	}
	if err := mayReplace(); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(x.t.dir, ".p2pfs-get-*")
	if err != nil {
		return nil, err
	}
	x.tmp, x.forget = tmp, removeAtExit(tmp)
	if x.root, err = os.OpenRoot(tmp); err != nil {
		return nil, err
	}
	at, err := x.root.OpenRoot(".")
	if err != nil {
		return nil, err
	}
	x.stack = append(x.stack, extractDir{at: at, entry: e})
	if x.lone {
		return x.make(at, loneName, loneName, e)
	}
	return nil, nil
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
		sub, err := at.OpenRoot(name)
		if err != nil {
			return nil, err
		}
		x.stack = append(x.stack, extractDir{at: sub, entry: e, path: full})
		return nil, nil
	case volume.SymlinkEntry:
		x.files++
		return nil, x.makeLink(at, name, e)
	case volume.FifoEntry, volume.CharEntry, volume.BlockEntry:
		err := x.makeNode(at, name, e)
		if errors.Is(err, node.ErrLeftOut) {
			x.leftOut++
			x.tell(full, err)
			return nil, nil
		}
		x.files++
		return nil, err
	}
	return nil, fmt.Errorf("%s is of kind %d, which this version does not know", show(full), e.Kind)
}

// extractFile is a file that is being written.
type extractFile struct {
	f       *os.File
	at      *os.Root
	path    string // in the tree
	name    string
	entry   volume.Entry
	written int64 // bytes, holes included
	flush   flusher
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
	x.file = &extractFile{f: f, at: at, path: full, name: name, entry: e, flush: flusher{f: f}}
	if e.Group != 0 {
		if x.groups == nil {
			x.groups = make(map[uint64]string)
		}
		x.groups[e.Group] = filepath.FromSlash(full)
	}
	return x.file, nil
}

// holeLen is the length in bytes of the zeros that become a hole: a page, which
// is what file systems leave out.
const holeLen = 4 << 10

func (f *extractFile) Write(p []byte) (int, error) {
	if int64(len(p)) > f.entry.Size-f.written {
		return 0, fmt.Errorf("%s: there are more than its %d bytes", show(f.path), f.entry.Size)
	}
	if !f.entry.Sparse {
		n, err := f.f.Write(p)
		f.written += int64(n)
		f.flush.wrote(n)
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
			f.flush.wrote(n)
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
	err := f.flush.wait()
	if err == nil && f.written != f.entry.Size {
		err = fmt.Errorf("%s: the node sent %d bytes, the file has %d", show(f.path), f.written, f.entry.Size)
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
	if err == nil && !syncsAll {
		err = f.f.Sync()
	}
	if cerr := f.f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = f.at.Chtimes(f.name, time.Time{}, f.entry.MTime)
	}
	x.bytes += f.written
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
	for len(x.stack) > 0 {
		if len(x.stack) == 1 && syncsAll { // before its mode may forbid to open it
			if err := syncAll(x.root); err != nil {
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
		return nil // and discarded
	}
	if err := x.place(); err != nil {
		return err
	}
	return syncDir(x.t.dir)
}

// place renames what has been made. What it replaces is moved away first, and
// back if it fails.
func (x *extraction) place() error {
	made := x.tmp
	if x.lone {
		made = filepath.Join(x.tmp, loneName)
	}
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
		x.keep()
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
	x.keep()
	forget := removeAtExit(old)
	defer forget()
	if err := removeTree(old); err != nil {
		return fmt.Errorf("what was replaced is left in %s: %w", show(old), err)
	}
	return nil
}

// keep has discard leave the temporary directory, which is a tree now, alone.
func (x *extraction) keep() {
	if !x.lone {
		x.forget()
		x.tmp = ""
	}
}

// discard removes what has not become what was asked for.
func (x *extraction) discard() {
	if x.file != nil {
		_ = x.file.flush.wait()
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
	if x.tmp != "" {
		_ = removeTree(x.tmp)
		x.forget()
		x.tmp = ""
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
