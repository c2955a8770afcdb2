package volume

import (
	"context"
	"fmt"
	"math"

	"github.com/p2pfs/p2pfs/pack"
)

// Mark gathers the packs that trees need. What several trees share is looked at
// once, so that the states of a volume over time cost little more than one of
// them.
type Mark struct {
	Packs map[pack.ID]bool
	Live  map[pack.ID]int64 // bytes in them of content that is needed, sealed; once Count was set
	Count bool
	Meta  map[pack.ID]bool   // those of them that are needed for more than content
	Skip  func(f *File) bool // of what it tells nothing is needed; may be nil
	Gone  func(pack.ID) bool // packs that were given up and are not to be read: nothing is needed of what is in them; may be nil

	src     Source
	seen    map[place32]bool // lists and nodes that have been looked through
	counted map[place32]struct{}
	each    func(pack.Ref) error // is told the chunks of files; may be nil
	down    descent
}

// place32 is where a chunk is.
type place32 struct {
	id  pack.ID
	off uint32
}

// NewMark begins to gather.
func NewMark(src Source) *Mark {
	return &Mark{Packs: make(map[pack.ID]bool), Meta: make(map[pack.ID]bool), src: src, seen: make(map[place32]bool), down: newDescent(math.MaxInt64)}
}

func placeOf(r pack.Ref) place32 { return place32{r.Pack, r.Off} }

// Root adds the tree whose root's entry is at ref.
func (m *Mark) Root(ctx context.Context, ref pack.Ref) error {
	if m.gone(ref.Pack) {
		return nil
	}
	f, err := OpenEntry(ctx, m.src, ref)
	if err != nil {
		return err
	}
	m.add(ref.Pack, true)
	return m.Tree(ctx, f)
}

// Tree adds f with all below it. The pack that its entry stands in is not among
// them.
func (m *Mark) Tree(ctx context.Context, f *File) error {
	if err := m.file(ctx, f, 0); err != nil {
		return fmt.Errorf("packs of %q: %w", f.entry.Name, err)
	}
	return nil
}

func (m *Mark) gone(id pack.ID) bool { return m.Gone != nil && m.Gone(id) }

func (m *Mark) file(ctx context.Context, f *File, depth int) error {
	if m.Skip != nil && m.Skip(f) {
		return nil
	}
	if f.entry.Kind != DirEntry {
		return m.parts(ctx, f, f.entry.parts, f.entry.depth)
	}
	if depth >= MaxDepth {
		return fmt.Errorf("%w: more than %d directories deep", ErrCorrupt, MaxDepth)
	}
	f = f.lean()
	if len(f.entry.parts) == 0 {
		return m.list(ctx, newList(f), depth)
	}
	var pos int64
	for _, p := range f.entry.parts {
		if err := m.listPart(ctx, f, p, f.entry.depth, pos, depth); err != nil {
			return err
		}
		pos += int64(p.under)
	}
	return nil
}

// listPart adds what a part of a directory's list refers to, which begins at pos.
func (m *Mark) listPart(ctx context.Context, f *File, p part, level int, pos int64, depth int) error {
	if m.gone(p.Pack) {
		return nil
	}
	m.add(p.Pack, true)
	at := placeOf(p.Ref)
	if m.seen[at] {
		return nil
	}
	if level == 0 {
		if err := m.list(ctx, &list{dir: f, pos: pos, end: pos + int64(p.under), some: true}, depth); err != nil {
			return err
		}
	}
	for i := 0; level > 0; i++ {
		// It is f that keeps it, and may have to let go of it meanwhile.
		sub, err := f.node(ctx, p, level-1)
		if err != nil {
			return err
		}
		if i == len(sub) {
			break
		}
		next := pos + int64(sub[i].under)
		if err := m.listPart(ctx, f, sub[i], level-1, pos, depth); err != nil {
			return err
		}
		pos = next
	}
	m.seen[at] = true
	return nil
}

// list adds what is listed.
func (m *Mark) list(ctx context.Context, l *list, depth int) error {
	if err := m.down.enter(l); err != nil {
		return err
	}
	defer m.down.leave(1)
	for {
		c, err := l.next(ctx)
		if err != nil || c == nil {
			return err
		}
		if err := m.file(ctx, c, depth+1); err != nil {
			return err
		}
	}
}

func (m *Mark) add(id pack.ID, meta bool) {
	m.Packs[id] = true
	if meta {
		m.Meta[id] = true
	}
}

// parts adds what the parts of a file refer to.
func (m *Mark) parts(ctx context.Context, f *File, parts []part, level int) error {
	for _, p := range parts {
		if m.gone(p.Pack) {
			continue
		}
		m.add(p.Pack, level > 0)
		if level == 0 {
			if err := m.chunk(p.Ref); err != nil {
				return err
			}
			continue
		}
		if m.seen[placeOf(p.Ref)] {
			continue
		}
		sub, err := f.node(ctx, p, level-1)
		if err != nil {
			return err
		}
		if err := m.parts(ctx, f, sub, level-1); err != nil {
			return err
		}
		m.seen[placeOf(p.Ref)] = true
	}
	return nil
}

// chunk adds a chunk of content to what is live in its pack.
func (m *Mark) chunk(r pack.Ref) error {
	if m.Count {
		if m.counted == nil {
			m.counted, m.Live = make(map[place32]struct{}), make(map[pack.ID]int64)
		}
		at := placeOf(r)
		if _, again := m.counted[at]; !again {
			m.counted[at] = struct{}{}
			m.Live[r.Pack] += int64(r.Len)
		}
	}
	if m.each == nil {
		return nil
	}
	return m.each(r)
}

// Draft adds what a draft needs of what is there already. The lists of directories in
// which something changes are not among it: they will be written.
func (m *Mark) Draft(ctx context.Context, t *Draft) error { return m.draft(ctx, t.root) }

func (m *Mark) draft(ctx context.Context, d *draft) error {
	if d.was != nil {
		for f, err := range d.was.List(ctx) {
			if err != nil {
				return err
			}
			if _, ok := d.names[f.entry.Name]; ok {
				continue
			}
			if err := m.Tree(ctx, f); err != nil {
				return err
			}
		}
	}
	for _, c := range d.names {
		var err error
		switch {
		case c.dir != nil:
			err = m.draft(ctx, c.dir)
		case c.file != nil:
			err = m.Tree(ctx, c.file)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
