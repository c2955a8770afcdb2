package volume

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"path"
	"strings"
	"time"
)

// Merge gives the tree that two have become which were changed apart from each
// other, after base; nil: nothing is known of what they were. It goes path by
// path: what only one of them has changed, or taken away, is as in that one.
// Where both have changed the same path, that of ours keeps it and the other's
// comes beside it, under the name that beside gives for it, so that nothing is
// lost; a directory that both have changed is merged itself, and what one has
// taken away and the other changed stays. conflicts are the paths that are beside.
//
// Times and owners of directories are those that were changed last.
func Merge(ctx context.Context, base, ours, theirs *File, beside func(name string) string) (merged *Draft, conflicts []string, err error) {
	merged = NewDraft(ours)
	m := merger{ctx: ctx, beside: beside}
	if err := m.dir("", merged.root, base, theirs, 0); err != nil {
		return nil, nil, fmt.Errorf("merge: %w", err)
	}
	return merged, m.conflicts, nil
}

// merger is one Merge.
type merger struct {
	ctx       context.Context
	beside    func(name string) string
	conflicts []string
}

// names gives the entries of directories side by side, in the order of their
// names; nil for one that has nothing of a name, or is nil.
func (m *merger) names(dirs ...*File) iter.Seq2[[]*File, error] {
	return func(yield func([]*File, error) bool) {
		at := make([]*File, len(dirs))
		next := make([]func() (*File, error, bool), len(dirs))
		step := func(i int) error {
			f, err, ok := next[i]()
			if at[i] = f; !ok {
				at[i] = nil
			}
			return err
		}
		for i, d := range dirs {
			if d == nil || d.entry.Kind != DirEntry {
				continue
			}
			var stop func()
			next[i], stop = iter.Pull2(d.List(m.ctx))
			defer stop()
			if err := step(i); err != nil {
				yield(nil, err)
				return
			}
		}
		for {
			var first *File
			for _, f := range at {
				if f != nil && (first == nil || f.entry.Name < first.entry.Name) {
					first = f
				}
			}
			if first == nil {
				return
			}
			row := make([]*File, len(dirs))
			for i, f := range at {
				if f == nil || f.entry.Name != first.entry.Name {
					continue
				}
				row[i] = f
				if err := step(i); err != nil {
					yield(nil, err)
					return
				}
			}
			if !yield(row, nil) {
				return
			}
		}
	}
}

// dir merges theirs into d, which is a change of our directory.
func (m *merger) dir(at string, d *draft, base, theirs *File, depth int) error {
	if depth >= MaxDepth {
		return fmt.Errorf("%q: %w: more than %d directories deep", at, ErrCorrupt, MaxDepth)
	}
	mergeOwn(&d.entry, base, theirs)
	for row, err := range m.names(base, d.was, theirs) {
		if err != nil {
			return err
		}
		if err := m.name(at, d, row[0], row[1], row[2], depth); err != nil {
			return err
		}
	}
	return nil
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

// name merges what is at one name.
func (m *merger) name(at string, d *draft, base, ours, theirs *File, depth int) error {
	switch {
	case alike(ours, theirs), alike(base, theirs):
		return nil
	case alike(base, ours):
		f := theirs
		if f == nil {
			d.names[ours.entry.Name] = change{}
			return nil
		}
		d.names[f.entry.Name] = change{file: f}
		return nil
	case theirs == nil: // taken away there, changed here
		return nil
	case ours == nil:
		d.names[theirs.entry.Name] = change{file: theirs}
		return nil
	}
	name := ours.entry.Name
	if ours.entry.Kind == DirEntry && theirs.entry.Kind == DirEntry {
		sub := newDraft(ours.entry, ours)
		if base != nil && base.entry.Kind != DirEntry {
			base = nil
		}
		if err := m.dir(path.Join(at, name), sub, base, theirs, depth+1); err != nil {
			return err
		}
		d.names[name] = change{dir: sub}
		return nil
	}
	if sameContent(ours, theirs) && ours.entry.Kind == theirs.entry.Kind {
		if theirs.entry.MTime.After(ours.entry.MTime) {
			d.names[name] = change{file: theirs}
		}
		return nil
	}
	for try := 1; ; try++ {
		other := m.beside(numbered(name, try))
		c, err := d.find(m.ctx, other)
		if err != nil {
			return err
		}
		if !c.none() && !alike(c.file, theirs) {
			continue
		}
		d.names[other] = change{file: theirs}
		m.conflicts = append(m.conflicts, path.Join(at, other))
		return nil
	}
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

// clip shortens s to at most n bytes.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
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
	return sameOwn(&a.entry, &b.entry) && sameContent(a, b)
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
