package volume

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Merge gives the tree that two have become which were changed apart from each
// other, after base; nil: nothing is known of what they were. It goes path by
// path: what only one of them has changed, or taken away, is as in that one.
// Where both have changed the same path, that of ours keeps it and the other's
// comes beside it, under the name that beside gives for it, with a number where
// something else has that, so that nothing is lost; a directory that both have
// changed is merged itself, and what one has taken away and the other changed stays.
// conflicts are the paths that have come beside others by this merge, ascending.
//
// Times and owners of directories are those that were changed last.
func Merge(ctx context.Context, base, ours, theirs *File, beside func(name string) string) (merged *Draft, conflicts []string, err error) {
	merged = NewDraft(ours)
	m := merger{ctx: ctx, beside: beside, down: newDescent(math.MaxInt64)}
	for _, f := range []*File{base, ours, theirs} {
		if f != nil && f.entry.Kind != DirEntry {
			return nil, nil, fmt.Errorf("merge: %w: %q: %w", ErrCorrupt, f.entry.Name, ErrNotDir)
		}
		if f != nil && f == ours {
			m.down.left = maxDirs(f.entry.Files)
		}
	}
	if err := m.dir("", merged.root, base, theirs, 0); err != nil {
		return nil, nil, fmt.Errorf("merge: %w", err)
	}
	slices.Sort(m.conflicts)
	return merged, m.conflicts, nil
}

// merger is one Merge.
type merger struct {
	ctx       context.Context
	beside    func(name string) string
	conflicts []string
	down      descent
	memory
}

// memory is how many bytes a draft takes, more or less.
type memory struct{ kept int }

// maxKept is how many that may be where others say what is in the draft: of about a
// million entries.
const maxKept = 512 << 20

// keep notes that an entry stays in memory.
func (m *memory) keep(e *Entry) error {
	if m.kept += e.weight(); m.kept > maxKept {
		return fmt.Errorf("%w: more has changed than fits memory", ErrTooLarge)
	}
	return nil
}

// rows are directories side by side; nil: there is none.
type rows [3]*list

func newRows(dirs ...*File) (r rows) {
	for i, d := range dirs {
		if d != nil && d.entry.Kind == DirEntry {
			r[i] = newList(d.lean())
		}
	}
	return r
}

// next gives the entries of the next name, nil of those that have nothing of it;
// all nil: that was all.
func (r *rows) next(ctx context.Context) (row [3]*File, err error) {
	var first *string
	for i, l := range r {
		if l == nil {
			continue
		}
		if row[i], err = l.peek(ctx); err != nil {
			return row, err
		}
		if f := row[i]; f != nil && (first == nil || f.entry.Name < *first) {
			first = &f.entry.Name
		}
	}
	for i, f := range row {
		if f == nil {
			continue
		}
		if f.entry.Name != *first {
			row[i] = nil
		} else if _, err := r[i].next(ctx); err != nil {
			return row, err
		}
	}
	return row, nil
}

// dir merges theirs into d, which is a change of our directory.
func (m *merger) dir(at string, d *draft, base, theirs *File, depth int) error {
	if depth >= MaxDepth {
		return fmt.Errorf("%q: %w: more than %d directories deep", at, ErrCorrupt, MaxDepth)
	}
	mergeOwn(&d.entry, base, theirs)
	r := newRows(base, d.was, theirs)
	lists := slices.DeleteFunc(slices.Clone(r[:]), func(l *list) bool { return l == nil })
	if err := m.down.enter(lists...); err != nil {
		return err
	}
	defer m.down.leave(len(lists))
	var both []*File // theirs, where ours has changed too
	for {
		row, err := r.next(m.ctx)
		if err != nil {
			return err
		}
		if row == [3]*File{} {
			return m.conflict(at, d, both)
		}
		c, err := m.name(at, d, row[0], row[1], row[2], depth)
		if err != nil {
			return err
		}
		if c {
			both = append(both, row[2])
		}
	}
}

// mergeOwn merges what is known of a directory beside what is in it.
func mergeOwn(e *Entry, base, theirs *File) {
	if theirs == nil || sameOwn(e, &theirs.entry) {
		return
	}
	if base != nil && base.entry.Kind == DirEntry && sameOwn(&base.entry, &theirs.entry) {
		return // only we have changed it
	}
	if base != nil && sameOwn(&base.entry, e) || theirs.entry.MTime.After(e.MTime) {
		t := theirs.entry
		e.Mode, e.UID, e.GID, e.MTime, e.Xattrs = t.Mode, t.UID, t.GID, t.MTime, t.Xattrs
	}
}

// name merges what is at one name, and tells whether theirs is to come beside ours.
func (m *merger) name(at string, d *draft, base, ours, theirs *File, depth int) (conflict bool, err error) {
	take := func(f *File) (bool, error) {
		d.names[f.entry.Name] = change{file: f}
		return false, m.keep(&f.entry)
	}
	switch {
	case alike(ours, theirs), alike(base, theirs):
		return false, nil
	case theirs == nil && alike(base, ours):
		d.names[ours.entry.Name] = change{}
		return false, m.keep(&Entry{Name: ours.entry.Name})
	case theirs == nil: // taken away there, changed here
		return false, nil
	case ours == nil, alike(base, ours):
		return take(theirs)
	}
	if ours.entry.Kind == DirEntry && theirs.entry.Kind == DirEntry {
		return false, m.sub(path.Join(at, ours.entry.Name), d, base, ours, theirs, depth)
	}
	if ours.entry.Kind == theirs.entry.Kind && sameContent(ours, theirs) {
		if theirs.entry.MTime.After(ours.entry.MTime) {
			return take(theirs)
		}
		return false, nil
	}
	return true, m.keep(&theirs.entry)
}

// sub merges a directory that is in d.
func (m *merger) sub(at string, d *draft, base, ours, theirs *File, depth int) error {
	if base != nil && base.entry.Kind != DirEntry {
		base = nil
	}
	before := m.memory
	if err := m.keep(&ours.entry); err != nil {
		return err
	}
	sub := newDraft(ours.entry, ours)
	if err := m.dir(at, sub, base, theirs, depth+1); err != nil {
		return err
	}
	if sub.changed() {
		d.names[ours.entry.Name] = change{dir: sub}
	} else {
		m.memory = before
	}
	return nil
}

// conflict puts what is to come beside others into d, in which all else is done:
// what comes there from them may have such a name already.
func (m *merger) conflict(at string, d *draft, files []*File) error {
	for try := 1; len(files) > 0; try++ {
		others := make(map[string]change, len(files))
		for _, f := range files {
			others[numbered(m.beside(f.entry.Name), try)] = change{}
		}
		if err := d.findAll(m.ctx, others); err != nil {
			return err
		}
		again := files[:0]
		for _, f := range files {
			name := numbered(m.beside(f.entry.Name), try)
			switch c := others[name]; {
			case c.none():
				if err := CheckName(name); err != nil {
					return err
				}
				d.names[name] = change{file: f}
				others[name] = change{dir: d} // another with the same name to be has to try again
				m.conflicts = append(m.conflicts, path.Join(at, name))
			case c.file == nil || !alike(c.file, f):
				again = append(again, f)
			}
		}
		files = again
	}
	return nil
}

// numbered gives the try-th name to try for what is to come beside a name.
func numbered(name string, try int) string {
	if try == 1 {
		return name
	}
	stem, ext := cutExt(name)
	return fmt.Sprintf("%s %d%s", clip(stem, MaxName-len(ext)-8), try, ext)
}

// cutExt cuts the extension off a name; that of a name that only begins with a
// dot is none.
func cutExt(name string) (stem, ext string) {
	i := strings.LastIndexByte(name, '.')
	if i <= 0 || len(name)-i > 32 {
		return name, ""
	}
	return name[:i], name[i:]
}

// clip shortens s to at most n bytes, and where it can between characters.
func clip(s string, n int) string {
	n = max(n, 0)
	if len(s) <= n {
		return s
	}
	for i := n; i > 0 && i > n-utf8.UTFMax; i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i]
		}
	}
	return s[:n]
}

// ConflictName gives the name beside name of what a peer wrote there at the
// same time: "name (conflict PEER DATE).ext".
func ConflictName(name, peer string, at time.Time) string {
	stem, ext := cutExt(name)
	mark := fmt.Sprintf(" (conflict %s %s)", peer, at.UTC().Format("2006-01-02"))
	return clip(stem, MaxName-len(mark)-len(ext)) + mark + ext
}

// alike tells whether two entries of one name are the same, all below them
// included. It may miss it where the same was written twice. Both may be nil.
func alike(a, b *File) bool {
	if a == nil || b == nil {
		return a == b
	}
	return sameOwn(&a.entry, &b.entry) && a.entry.Group == b.entry.Group && sameContent(a, b)
}

// sameOwn compares all but name and content. Where they were read does not
// count.
func sameOwn(a, b *Entry) bool {
	if a.Kind != b.Kind || a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || !a.MTime.Equal(b.MTime) || len(a.Xattrs) != len(b.Xattrs) {
		return false
	}
	for i := range a.Xattrs {
		if !bytes.Equal(a.Xattrs[i].Name, b.Xattrs[i].Name) || !bytes.Equal(a.Xattrs[i].Value, b.Xattrs[i].Value) {
			return false
		}
	}
	return true
}

// sameContent compares what two entries of a kind have in them.
func sameContent(a, b *File) bool {
	x, y := &a.entry, &b.entry
	if x.Kind != y.Kind || x.Size != y.Size || x.Target != y.Target || x.Device != y.Device || x.Sparse != y.Sparse ||
		x.Files != y.Files || x.Bytes != y.Bytes || x.depth != y.depth || len(x.parts) != len(y.parts) {
		return false
	}
	if x.Kind == DirEntry && len(x.parts) == 0 {
		return a.sameList(b)
	}
	for i := range x.parts {
		p, q := x.parts[i], y.parts[i]
		// Of content equal keys are equal bytes, wherever they are; a list says
		// more with the pack that it is in.
		if p.Key != q.Key || p.Size != q.Size || p.under != q.under ||
			(x.Kind == DirEntry || x.depth > 0) && p.Ref != q.Ref {
			return false
		}
	}
	return bytes.Equal(x.inline, y.inline)
}

// sameList compares lists that stand in their entries.
func (f *File) sameList(g *File) bool {
	a, err := f.graft(f.entry.Name)
	if err != nil {
		return false
	}
	b, err := g.graft(g.entry.Name)
	if err != nil || a.bake() != nil || b.bake() != nil {
		return false
	}
	return bytes.Equal(a.inline, b.inline)
}
