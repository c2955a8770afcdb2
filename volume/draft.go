package volume

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

var (
	// ErrExists is wrapped where something is to come to a path that has
	// something already.
	ErrExists = errors.New("it exists")
	// ErrInto is wrapped where a directory is to be moved into itself.
	ErrInto = errors.New("a directory into itself")
)

// Draft is a tree in the making: another tree, and what is to be otherwise in
// it. Of directories in which nothing changes nothing is read, and their lists
// are not written again. Only one goroutine may use it.
type Draft struct{ root *draft }

// draft is a directory in which something changes, or may.
type draft struct {
	entry Entry             // what is known of it beside what is in it
	was   *File             // what it is a change of; nil: it is new
	names map[string]change // what is otherwise
}

// change is what has come to a name: one of the two, or nothing.
type change struct {
	file *File  // as it is, but for its name
	dir  *draft // a directory in which something changes
	anew bool   // the content of file is stored again
}

func (c change) none() bool { return c.file == nil && c.dir == nil }

func (c change) isDir() bool {
	return c.dir != nil || c.file != nil && c.file.entry.Kind == DirEntry
}

// NewDraft begins to change the tree at root, a directory; nil: an empty one.
func NewDraft(root *File) *Draft {
	if root == nil {
		return &Draft{root: newDraft(Entry{Kind: DirEntry, Name: "root", Mode: 0o755, UID: NoOwner, GID: NoOwner, MTime: time.Unix(0, 0)}, nil)}
	}
	return &Draft{root: newDraft(root.entry, root)}
}

func newDraft(e Entry, was *File) *draft {
	e.Size, e.Files, e.Bytes = 0, 0, 0
	e.inline, e.parts, e.depth, e.inventory, e.list = nil, nil, 0, pack.Ref{}, nil
	return &draft{entry: e, was: was, names: make(map[string]change)}
}

// find gives what is at a name now.
func (d *draft) find(ctx context.Context, name string) (change, error) {
	if c, ok := d.names[name]; ok {
		return c, nil
	}
	if d.was == nil {
		return change{}, nil
	}
	f, err := d.was.child(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return change{}, nil
	}
	return change{file: f}, err
}

// findAll gives what is at names now, which all have nothing.
func (d *draft) findAll(ctx context.Context, names map[string]change) error {
	for name := range names {
		names[name] = d.names[name]
	}
	if d.was == nil {
		return nil
	}
	for l := newList(d.was.lean()); ; {
		f, err := l.next(ctx)
		if err != nil || f == nil {
			return err
		}
		name := f.entry.Name
		if _, wanted := names[name]; !wanted {
			continue
		}
		if _, ok := d.names[name]; !ok {
			names[name] = change{file: f}
		}
	}
}

// open gives the directory of a name, to change it; nil where there is nothing
// of that name.
func (d *draft) open(ctx context.Context, name string) (*draft, error) {
	c, err := d.find(ctx, name)
	if err != nil || c.none() {
		return nil, err
	}
	if c.dir != nil {
		return c.dir, nil
	}
	if c.file.entry.Kind != DirEntry {
		return nil, fmt.Errorf("%q: %w", name, ErrNotDir)
	}
	sub := newDraft(c.file.entry, c.file)
	sub.entry.Name = name
	d.names[name] = change{dir: sub}
	return sub, nil
}

// SplitPath gives the names of a path, which has slashes between them.
func SplitPath(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(n string) bool { return n == "" })
}

// at gives the directory at a path, making what is missing with the time now
// where create is set.
func (t *Draft) at(ctx context.Context, names []string, create bool, now time.Time) (*draft, error) {
	for _, name := range names {
		if err := CheckName(name); err != nil {
			return nil, err
		}
	}
	d := t.root
	for i, name := range names {
		sub, err := d.open(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", strings.Join(names[:i+1], "/"), err)
		}
		if sub == nil {
			if !create {
				return nil, fmt.Errorf("%q: %w", strings.Join(names[:i+1], "/"), ErrNotFound)
			}
			if err := checkDepth(names); err != nil { // before any is made
				return nil, err
			}
			sub = newDraft(Entry{Kind: DirEntry, Name: name, Mode: 0o755, UID: NoOwner, GID: NoOwner, MTime: now}, nil)
			d.names[name] = change{dir: sub}
			d.entry.MTime = now
		}
		d = sub
	}
	return d, nil
}

// checkDepth refuses the path of a directory that is too deep for one, the root being
// one too.
func checkDepth(names []string) error {
	if len(names)+1 > MaxDepth {
		return fmt.Errorf("more than %d directories deep", MaxDepth)
	}
	return nil
}

// cut gives the directory that a path is in, and its name there.
func (t *Draft) cut(ctx context.Context, path string, create bool, now time.Time) (*draft, string, error) {
	names := SplitPath(path)
	if len(names) == 0 {
		return nil, "", errors.New("it is the root")
	}
	last := names[len(names)-1]
	if err := CheckName(last); err != nil {
		return nil, "", err
	}
	d, err := t.at(ctx, names[:len(names)-1], create, now)
	return d, last, err
}

// Put makes f what is at a path, with all below it, in the place of what was
// there. Directories that are missing are made. The tree that f is of must be
// of the same volume.
func (t *Draft) Put(ctx context.Context, path string, f *File, now time.Time) error {
	if f.entry.Kind == DirEntry {
		if err := checkDepth(SplitPath(path)); err != nil {
			return err
		}
	}
	d, name, err := t.cut(ctx, path, true, now)
	if err != nil {
		return err
	}
	d.names[name] = change{file: f}
	d.entry.MTime = now
	return nil
}

// Remove takes away what is at a path, with all below it.
func (t *Draft) Remove(ctx context.Context, path string, now time.Time) error {
	d, name, err := t.cut(ctx, path, false, now)
	if err != nil {
		return err
	}
	c, err := d.find(ctx, name)
	if err != nil {
		return err
	}
	if c.none() {
		return fmt.Errorf("%q: %w", path, ErrNotFound)
	}
	d.names[name] = change{}
	d.entry.MTime = now
	return nil
}

// Mkdir makes a directory. What is there already is ErrExists, but that with
// parents a directory is none, and missing ones above it are made.
func (t *Draft) Mkdir(ctx context.Context, path string, parents bool, now time.Time) error {
	names := SplitPath(path)
	if len(names) == 0 {
		if parents {
			return nil
		}
		return ErrExists
	}
	there, err := t.look(ctx, names)
	switch {
	case err != nil:
		return err
	case there.none():
	case !parents || !there.isDir():
		return fmt.Errorf("%q: %w", path, ErrExists)
	}
	if !parents {
		if _, err := t.at(ctx, names[:len(names)-1], false, now); err != nil {
			return err
		}
	}
	_, err = t.at(ctx, names, true, now)
	return err
}

// Move gives what is at a path another path, with all below it: into a
// directory where that is one, over what is no directory else.
func (t *Draft) Move(ctx context.Context, from, to string, now time.Time) error {
	src, name, err := t.cut(ctx, from, false, now)
	if err != nil {
		return err
	}
	c, err := src.find(ctx, name)
	if err != nil {
		return err
	}
	if c.none() {
		return fmt.Errorf("%q: %w", from, ErrNotFound)
	}
	target := SplitPath(to)
	there, err := t.look(ctx, target)
	if err != nil {
		return err
	}
	if there.isDir() {
		target = append(target, name)
		if there, err = t.look(ctx, target); err != nil {
			return err
		}
	}
	source := SplitPath(from)
	switch {
	case slices.Equal(source, target):
		return nil
	case c.isDir() && len(target) > len(source) && slices.Equal(source, target[:len(source)]):
		return fmt.Errorf("%q: %w", from, ErrInto)
	case there.isDir() || there.file != nil && c.isDir():
		return fmt.Errorf("%q: %w", strings.Join(target, "/"), ErrExists)
	}
	if c.isDir() {
		if err := checkDepth(target); err != nil {
			return err
		}
	}
	dst, last, err := t.cut(ctx, strings.Join(target, "/"), false, now)
	if err != nil {
		return err
	}
	if c.dir != nil {
		c.dir.entry.Name = last
	}
	dst.names[last] = c
	src.names[name] = change{}
	src.entry.MTime, dst.entry.MTime = now, now
	return nil
}

// look gives what is at a path; nothing is changed by it.
func (t *Draft) look(ctx context.Context, names []string) (change, error) {
	c := change{dir: t.root}
	for _, name := range names {
		var err error
		switch {
		case c.none():
			return c, nil
		case c.dir != nil:
			c, err = c.dir.find(ctx, name)
		default:
			var f *File
			f, err = c.file.child(ctx, name)
			if errors.Is(err, ErrNotFound) || errors.Is(err, ErrNotDir) {
				f, err = nil, nil
			}
			c = change{file: f}
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// Changed tells whether anything is to be otherwise than it was.
func (t *Draft) Changed() bool { return t.root.changed() }

func (d *draft) changed() bool {
	if d.was == nil || !sameOwn(&d.entry, &d.was.entry) {
		return true
	}
	for _, c := range d.names {
		if c.dir == nil || c.dir.changed() {
			return true
		}
	}
	return false
}

// steps gives the entries of the draft in the order of a walk, those that are
// taken over as they are whole.
func (t *Draft) steps(ctx context.Context) iter.Seq2[draftStep, error] {
	return func(yield func(draftStep, error) bool) {
		t.root.steps(ctx, "", yield)
	}
}

// draftStep is an entry of a draft: whole is what is below it too.
type draftStep struct {
	path    string
	entry   Entry
	whole   bool
	content io.Reader // of a file that is stored again
}

func (d *draft) steps(ctx context.Context, path string, yield func(draftStep, error) bool) bool {
	if !yield(draftStep{path: path, entry: d.entry}, nil) {
		return false
	}
	below := path
	if below != "" {
		below += "/"
	}
	give := func(name string, c change) bool {
		switch {
		case c.dir != nil:
			return c.dir.steps(ctx, below+name, yield)
		case c.anew:
			e := c.file.entry
			e.Name, e.inline, e.parts, e.depth, e.inventory = name, nil, nil, 0, pack.Ref{}
			r := bufio.NewReaderSize(&fileReader{ctx: ctx, f: c.file}, anewBuffer)
			return yield(draftStep{path: below + name, entry: e, content: r}, nil)
		case c.file != nil:
			e, err := c.file.graft(name)
			return yield(draftStep{path: below + name, entry: e, whole: true}, err) && err == nil
		}
		return true
	}
	names := slices.Sorted(maps.Keys(d.names))
	if d.was != nil {
		for f, err := range d.was.List(ctx) {
			if err != nil {
				yield(draftStep{}, err)
				return false
			}
			for len(names) > 0 && names[0] < f.entry.Name {
				if !give(names[0], d.names[names[0]]) {
					return false
				}
				names = names[1:]
			}
			c := change{file: f}
			if len(names) > 0 && names[0] == f.entry.Name {
				c, names = d.names[names[0]], names[1:]
			}
			if !give(f.entry.Name, c) {
				return false
			}
		}
	}
	for _, name := range names {
		if !give(name, d.names[name]) {
			return false
		}
	}
	return true
}

// graft gives the entry of f as it stands in another list, under a name.
func (f *File) graft(name string) (Entry, error) {
	e := f.entry
	e.Name, e.inventory = name, pack.Ref{}
	e.parts = slices.Clone(e.parts)
	if e.Kind != DirEntry || len(e.inline) == 0 {
		return e, nil
	}
	// Refs in a list that stands in its entry are of the chunk that this is in.
	e.list = make([]Entry, 0, 8)
	for l := newList(f.lean()); ; {
		c, err := l.next(context.Background()) // it is all there
		if err != nil {
			return e, err
		}
		if c == nil {
			break
		}
		sub, err := c.graft(c.entry.Name)
		if err != nil {
			return e, err
		}
		e.list = append(e.list, sub)
	}
	e.inline = nil
	return e, nil
}

// Find gives what is at a path, or nil; of a directory in which something
// changes what it was, and of a new one one in which nothing is.
func (t *Draft) Find(ctx context.Context, path string) (*File, error) {
	c, err := t.look(ctx, SplitPath(path))
	if err != nil || c.none() {
		return nil, err
	}
	switch {
	case c.dir == nil:
		return c.file, nil
	case c.dir.was != nil:
		return c.dir.was, nil
	}
	return &File{entry: c.dir.entry}, nil
}

// Made gives the file, or other entry, that was just written to root and can be
// read from src.
func Made(src Source, root pack.Ref, e Entry) *File { return &File{src: src, root: root, entry: e} }

// Same tells whether two entries are the same but for their names, with all
// that is below them.
func Same(a, b *File) bool { return alike(a, b) }

// Numbered gives another name that tells of the same thing: "name 2.ext".
func Numbered(name string, n int) string { return numbered(name, n) }

// InventoryOf gives the ref of a root entry's inventory, zero where it is none.
func InventoryOf(e Entry) pack.Ref { return e.inventory }

// identityContext is that of the names of entries in histories.
const identityContext = "p2pfs 2026-11 link into a volume"

// Identity names f with all that is below it, under a name: the same always has
// the same.
func (f *File) Identity(name string) (HeadHash, error) {
	e, err := f.graft(name)
	if err != nil {
		return HeadHash{}, err
	}
	b, err := e.appendListed(nil)
	if err != nil {
		return HeadHash{}, err
	}
	return digest.Derive(identityContext, b), nil
}

// WriteRoot stores the entry of f by itself, under a name, with an inventory of
// the packs that it needs, so that a link can lead to it.
func WriteRoot(ctx context.Context, sink Sink, keys *Keys, f *File, name string, packs []pack.ID, opt Options) (root pack.Ref, e Entry, err error) {
	w := newWriter(sink, keys, Info{Size: 0}, opt)
	defer w.close()
	if w.entry, err = f.graft(name); err != nil {
		return root, e, err
	}
	for _, id := range packs {
		w.keep(id)
	}
	err = w.finishRoot(ctx)
	if err == nil {
		err = sink.Wait(ctx)
	}
	if err != nil {
		return root, e, fmt.Errorf("write root: %w", err)
	}
	return w.root, w.entry, nil
}

// anewBuffer is how much of a file is read at one go where it is stored again:
// some chunks, which are fetched side by side.
const anewBuffer = 4 << 20

// fileReader reads a file from its beginning.
type fileReader struct {
	ctx context.Context
	f   *File
	off int64
}

func (r *fileReader) Read(p []byte) (int, error) {
	n, err := r.f.ReadAt(r.ctx, p, r.off)
	r.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// errGone tells of a list that was given up.
var errGone = errors.New("given up")

// Leave gives the tree at root with everything stored again of which some is in
// packs, so that nothing of it stays there; nil where nothing is, or where a list
// of it was given up, so that it cannot be written again. Lists count
// too. seen is for several trees that share lists.
func Leave(ctx context.Context, root *File, packs map[pack.ID]bool, seen *Leaving) (*Draft, error) {
	t := NewDraft(root)
	seen.packs, seen.down, seen.memory = packs, newDescent(maxDirs(root.entry.Files)), memory{}
	if seen.clear == nil {
		seen.clear, seen.nodes = make(map[place32]bool), make(map[place32]found)
	}
	in, err := seen.dir(ctx, t.root, 0)
	if errors.Is(err, errGone) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("leave packs: %w", err)
	}
	if !in {
		return nil, nil
	}
	return t, nil
}

// Leaving remembers what has nothing in certain packs.
type Leaving struct {
	Gone func(pack.ID) bool // packs that were given up and are not to be read; may be nil

	packs  map[pack.ID]bool
	clear  map[place32]bool  // lists, and nodes of them, with nothing below that is to be stored again; whether they are themselves
	nodes  map[place32]found // of files
	down   descent
	memory memory
}

// found is what some refs lead to: something in packs, something that was given up.
type found struct{ in, gone bool }

func (l *Leaving) gone(id pack.ID) bool { return l.Gone != nil && l.Gone(id) }

// dir notes in d what is to be stored again, and tells whether there is any.
func (l *Leaving) dir(ctx context.Context, d *draft, depth int) (any bool, err error) {
	if d.was.entry.Kind != DirEntry {
		return false, fmt.Errorf("%w: %q: %w", ErrCorrupt, d.was.entry.Name, ErrNotDir)
	}
	if depth >= MaxDepth {
		return false, fmt.Errorf("%w: more than %d directories deep", ErrCorrupt, MaxDepth)
	}
	f := d.was.lean()
	if len(f.entry.parts) == 0 {
		return l.list(ctx, d, newList(f), depth)
	}
	all := &list{dir: f, some: true}
	for _, p := range f.entry.parts {
		self, below, err := l.part(ctx, d, all, p, f.entry.depth, depth)
		if err != nil {
			return false, err
		}
		any = any || self || below
	}
	return any, nil
}

// part is dir for what a part of the list refers to, which is the next of all. It
// tells apart the list itself and what is below it.
func (l *Leaving) part(ctx context.Context, d *draft, all *list, p part, level, depth int) (self, below bool, err error) {
	if l.gone(p.Pack) {
		return false, false, errGone
	}
	at := placeOf(p.Ref)
	end := all.pos + int64(p.under)
	if self, clear := l.clear[at]; clear {
		all.pos = end
		return self, false, nil
	}
	self = l.packs[p.Pack]
	if level == 0 {
		all.end = end
		below, err = l.list(ctx, d, all, depth)
	}
	for i := 0; level > 0 && err == nil; i++ {
		// It is all's directory that keeps it, and may have to let go of it meanwhile.
		var sub []part
		if sub, err = all.dir.node(ctx, p, level-1); err != nil || i == len(sub) {
			break
		}
		var s, b bool
		s, b, err = l.part(ctx, d, all, sub[i], level-1, depth)
		self, below = self || s, below || b
	}
	if err == nil && !below {
		l.clear[at] = self
	}
	return self, below, err
}

// list is dir for what is listed.
func (l *Leaving) list(ctx context.Context, d *draft, of *list, depth int) (any bool, err error) {
	if err := l.down.enter(of); err != nil {
		return false, err
	}
	defer l.down.leave(1)
	for {
		c, err := of.next(ctx)
		if err != nil || c == nil {
			return any, err
		}
		in, before := false, l.memory
		if err := l.memory.keep(&c.entry); err != nil {
			return false, err
		}
		if c.entry.Kind == DirEntry {
			sub := newDraft(c.entry, c)
			if in, err = l.dir(ctx, sub, depth+1); in {
				d.names[c.entry.Name] = change{dir: sub}
			}
		} else {
			var x found
			x, err = l.file(ctx, c, c.entry.parts, c.entry.depth)
			if in = x.in && !x.gone; in {
				d.names[c.entry.Name] = change{file: c, anew: true}
			}
		}
		if err != nil {
			return false, err
		}
		if !in {
			l.memory = before
		}
		any = any || in
	}
}

// file tells what parts of f lead to.
func (l *Leaving) file(ctx context.Context, f *File, parts []part, level int) (x found, err error) {
	for _, p := range parts {
		x.in, x.gone = x.in || l.packs[p.Pack], x.gone || l.gone(p.Pack)
		if level == 0 || l.gone(p.Pack) {
			continue
		}
		at := placeOf(p.Ref)
		below, known := l.nodes[at]
		if !known {
			sub, err := f.node(ctx, p, level-1)
			if err != nil {
				return x, err
			}
			if below, err = l.file(ctx, f, sub, level-1); err != nil {
				return x, err
			}
			l.nodes[at] = below
		}
		x.in, x.gone = x.in || below.in, x.gone || below.gone
	}
	return x, nil
}
