package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// walker gives a directory, and all that is below it, as a tree. In memory are
// the names of one directory a level. No symbolic link is followed, not even
// one that takes a directory's place meanwhile: every directory is opened in
// the one above it.
type walker struct {
	exclude *excludes
	tell    func(path string, err error) // of what is left out; path is that on this machine
	say     func(path, what string)      // of what cannot be part of a tree

	was *was // an earlier tree; nil: there is none

	root  walkDir // before its item is given
	rest  []walkDir
	file  *os.File // that is being read
	begun bool

	mu      sync.Mutex // guards leftOut
	leftOut int
}

// walkDir is a directory on the way, with what is left of it.
type walkDir struct {
	at    *os.Root
	info  fs.FileInfo
	path  string // in the tree
	full  string // on this machine
	names []string
}

var _ node.TreeSource = (*walker)(nil)

// newWalker opens the directory at path; of a symbolic link it is the directory
// it leads to. The caller calls close.
func newWalker(path string, exclude *excludes) (*walker, error) {
	at, err := os.OpenRoot(path)
	if err != nil {
		return nil, bare(err, path)
	}
	w := &walker{exclude: exclude, root: walkDir{at: at, full: path}, tell: func(string, error) {}, say: func(string, string) {}}
	if w.root.info, err = at.Stat("."); err == nil {
		err = w.root.read()
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// read reads the names in a directory.
func (d *walkDir) read() error {
	f, err := d.at.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	if d.names, err = f.Readdirnames(-1); err != nil {
		return err
	}
	slices.Sort(d.names)
	return nil
}

// close ends the walk.
func (w *walker) close() {
	w.closeFile()
	for _, d := range w.rest {
		_ = d.at.Close()
	}
	w.rest = nil
	_ = w.root.at.Close()
}

func (w *walker) closeFile() {
	if w.file != nil {
		_ = w.file.Close()
		w.file = nil
	}
}

// partial is how many files and directories were left out.
func (w *walker) partial() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leftOut
}

func (w *walker) leave(path string, err error) {
	w.mu.Lock()
	w.leftOut++
	w.mu.Unlock()
	w.tell(path, err)
}

// Next gives the next item of the walk.
func (w *walker) Next(ctx context.Context) (node.Item, io.Reader, error) {
	w.closeFile()
	if !w.begun {
		w.begun = true
		w.rest = append(w.rest, w.root)
		e, err := w.entry(&w.root, w.root.info, "")
		if err != nil {
			return node.Item{}, nil, err
		}
		e.Name = rootName(w.root.full)
		return node.Item{Entry: e}, nil, nil
	}
	for len(w.rest) > 0 {
		if ctx.Err() != nil {
			return node.Item{}, nil, context.Cause(ctx)
		}
		d := &w.rest[len(w.rest)-1]
		if len(d.names) == 0 {
			if len(w.rest) > 1 { // the root's own is closed at the end
				_ = d.at.Close()
			}
			w.rest = w.rest[:len(w.rest)-1]
			continue
		}
		name := d.names[0]
		d.names = d.names[1:]
		item, r, err := w.take(d, name)
		if err != nil {
			w.leave(filepath.Join(d.full, name), bareAny(err))
			continue
		}
		if item.Entry.Kind != 0 {
			return item, r, nil
		}
	}
	return node.Item{}, nil, io.EOF
}

// take gives what has a name in d; the zero Item where it is excluded or nothing
// that a tree can have.
func (w *walker) take(d *walkDir, name string) (node.Item, io.Reader, error) {
	path := name
	if d.path != "" {
		path = d.path + "/" + name
	}
	info, err := d.at.Lstat(name)
	if err != nil {
		return node.Item{}, nil, err
	}
	if w.exclude != nil && w.exclude.match(path, info.IsDir()) {
		return node.Item{}, nil, nil
	}
	if info.Mode().Type() == fs.ModeSocket {
		w.say(filepath.Join(d.full, name), "a socket is left out")
		return node.Item{}, nil, nil
	}
	if err := volume.CheckName(name); err != nil {
		return node.Item{}, nil, err
	}
	var r io.Reader
	switch {
	case info.Mode().IsRegular() && w.was != nil && w.was.same(path, wasEntry(info)): // not even opened
	case info.Mode().IsRegular():
		if info, r, err = w.open(d, name, info); err != nil {
			return node.Item{}, nil, err
		}
	case info.IsDir():
		sub := walkDir{info: info, path: path, full: filepath.Join(d.full, name)}
		if sub.at, err = d.at.OpenRoot(name); err != nil {
			return node.Item{}, nil, err
		}
		now, err := sub.at.Stat(".")
		if err == nil && !os.SameFile(info, now) {
			err = errChanged
		}
		if err == nil {
			err = sub.read()
		}
		var e volume.Entry
		if err == nil {
			e, err = w.entry(d, info, name)
		}
		if err != nil {
			_ = sub.at.Close()
			return node.Item{}, nil, err
		}
		w.rest = append(w.rest, sub)
		return node.Item{Path: path, Entry: e}, nil, nil
	}
	e, err := w.entry(d, info, name)
	if err != nil {
		w.closeFile()
		return node.Item{}, nil, err
	}
	return node.Item{Path: path, Entry: e}, r, nil
}

// wasEntry is what tells whether a file is as it was.
func wasEntry(info fs.FileInfo) *volume.Entry {
	e := volume.Entry{Kind: volume.FileEntry, Size: info.Size(), MTime: info.ModTime()}
	fillEntry(&e, info)
	return &e
}

// open opens a file, which must still be the one that was seen.
func (w *walker) open(d *walkDir, name string, seen fs.FileInfo) (fs.FileInfo, io.Reader, error) {
	f, err := d.at.OpenFile(name, os.O_RDONLY|noBlock, 0)
	if err != nil {
		return nil, nil, err
	}
	opened, err := f.Stat()
	if err == nil && (!os.SameFile(seen, opened) || !opened.Mode().IsRegular()) {
		err = errChanged
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	w.file = f
	return opened, &walkFile{w: w, f: stableFile{f: f, begun: opened}, full: filepath.Join(d.full, name)}, nil
}

// walkFile reads a file of the tree; what fails takes the file out of the put,
// and nothing else.
type walkFile struct {
	w    *walker
	f    stableFile
	full string
	err  error // it has failed
}

func (f *walkFile) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.f.Read(p)
	if err == nil || err == io.EOF { // not wrapped: that would be an error like others
		return n, err
	}
	err = bareAny(err)
	f.w.leave(f.full, err)
	f.err = fmt.Errorf("%w: %w", node.ErrLeftOut, err)
	return 0, f.err
}

// entry says what is known of a name in d; with "" of d itself.
func (w *walker) entry(d *walkDir, info fs.FileInfo, name string) (volume.Entry, error) {
	full := d.full
	if name != "" {
		full = filepath.Join(full, name)
	}
	m := info.Mode()
	e := volume.Entry{Name: name, Mode: unixMode(m), UID: volume.NoOwner, GID: volume.NoOwner, MTime: info.ModTime()}
	switch m.Type() {
	case 0:
		e.Kind, e.Size = volume.FileEntry, info.Size()
	case fs.ModeDir:
		e.Kind = volume.DirEntry
	case fs.ModeSymlink:
		e.Kind = volume.SymlinkEntry
		target, err := d.at.Readlink(name)
		if err != nil {
			return e, err
		}
		e.Target = target
	case fs.ModeNamedPipe:
		e.Kind = volume.FifoEntry
	case fs.ModeDevice:
		e.Kind = volume.BlockEntry
	case fs.ModeDevice | fs.ModeCharDevice:
		e.Kind = volume.CharEntry
	default:
		return e, errors.New("it is neither file nor anything else that is known")
	}
	fillEntry(&e, info)
	xattrs, err := xattrsOf(full)
	if err == nil {
		err = checkXattrs(xattrs)
	}
	if err != nil { // the rest of it is worth more
		w.leave(full, fmt.Errorf("extended attributes: %w", err))
		return e, nil
	}
	e.Xattrs = xattrs
	return e, nil
}

func checkXattrs(xattrs []volume.Xattr) error {
	total := 0
	for _, x := range xattrs {
		total += len(x.Name) + len(x.Value)
	}
	if len(xattrs) > volume.MaxXattrs || total > volume.MaxXattrBytes {
		return fmt.Errorf("%d with %d bytes, at most %d with %d are allowed", len(xattrs), total, volume.MaxXattrs, volume.MaxXattrBytes)
	}
	return nil
}

// unixMode gives the mode as Unix writes it: permissions, setuid, setgid, sticky.
func unixMode(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for _, s := range specialBits {
		if m&s.flag != 0 {
			bits |= s.bit
		}
	}
	return bits
}

// specialBits are those of a mode beyond permissions, as Unix and as Go has them.
var specialBits = []struct {
	bit  uint32
	flag fs.FileMode
}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}}

// rootName is the name of a tree: the last of its path, also of . and ..
func rootName(path string) string {
	name := filepath.Base(path)
	if name == "." || name == ".." {
		if abs, err := filepath.Abs(path); err == nil {
			name = filepath.Base(abs)
		}
	}
	if volume.CheckName(name) != nil || name == string(filepath.Separator) {
		return "root" // of a file system
	}
	return name
}

// bareAny takes the path out of an error that is told with a path of ours.
func bareAny(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}
