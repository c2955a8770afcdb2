package volume

import (
	"context"
	"fmt"

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
}

// place32 is where a chunk is.
type place32 struct {
	id  pack.ID
	off uint32
}

// NewMark begins to gather.
func NewMark(src Source) *Mark {
	return &Mark{Packs: make(map[pack.ID]bool), Meta: make(map[pack.ID]bool), src: src, seen: make(map[place32]bool)}
}

// Root adds the tree whose root's entry is at ref.
func (m *Mark) Root(ctx context.Context, ref pack.Ref) error {
	if m.gone(ref.Pack) {
		return nil
	}
	f, err := OpenEntry(ctx, m.src, ref)
	if err != nil {
		return err
	}
	m.Packs[ref.Pack], m.Meta[ref.Pack] = true, true
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

func (m *Mark) file(ctx context.Context, f *File, depth int) error {
	if depth > MaxDepth {
		return fmt.Errorf("%w: more than %d directories deep", ErrCorrupt, MaxDepth)
	}
	if m.Skip != nil && m.Skip(f) {
		return nil
	}
	if err := m.parts(ctx, f, f.entry.parts, f.entry.depth, depth); err != nil {
		return err
	}
	if f.entry.Kind != DirEntry || len(f.entry.parts) > 0 {
		return nil
	}
	return m.list(ctx, f, f.entry.inline, f.root, depth)
}

func (m *Mark) gone(id pack.ID) bool { return m.Gone != nil && m.Gone(id) }

// list adds what is in a part of the list of f, which stands in the chunk at.
func (m *Mark) list(ctx context.Context, f *File, b []byte, at pack.Ref, depth int) error {
	l := lister{dir: f}
	var failed error
	_, err := l.chunk(b, at, func(c *File) bool {
		failed = m.file(ctx, c, depth+1)
		return failed == nil
	})
	return first(failed, err)
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// parts adds what parts refer to.
func (m *Mark) parts(ctx context.Context, f *File, parts []part, level, depth int) error {
	for _, p := range parts {
		if m.gone(p.Pack) {
			continue
		}
		m.Packs[p.Pack] = true
		if level == 0 && f.entry.Kind != DirEntry {
			m.count(f, p)
			continue
		}
		m.Meta[p.Pack] = true
		at := place32{p.Pack, p.Off}
		if m.seen[at] {
			continue
		}
		if level == 0 {
			plain, err := readChunk(ctx, f.src, p.Ref, maxListed)
			if err != nil {
				return err
			}
			if err := m.list(ctx, f, plain, p.Ref, depth); err != nil {
				return err
			}
		} else {
			sub, err := f.node(ctx, p, level-1)
			if err != nil {
				return err
			}
			if err := m.parts(ctx, f, sub, level-1, depth); err != nil {
				return err
			}
		}
		m.seen[at] = true
	}
	return nil
}

// count adds a chunk of content to what is live in its pack.
func (m *Mark) count(f *File, p part) {
	if !m.Count || f.entry.Kind == DirEntry {
		return
	}
	if m.counted == nil {
		m.counted, m.Live = make(map[place32]struct{}), make(map[pack.ID]int64)
	}
	at := place32{p.Pack, p.Off}
	if _, again := m.counted[at]; !again {
		m.counted[at] = struct{}{}
		m.Live[p.Pack] += int64(p.Len)
	}
}

// Draft adds what a draft needs that is not yet written.
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
