package node

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/volume"
	"github.com/p2pfs/p2pfs/wire"
)

// putSome puts a file of size bytes, or a tree of some files.
func putSome(ctx context.Context, n *Node, size int, tree bool, s *erasure.Scheme, progress func(Progress)) (PutResult, error) {
	if !tree {
		return n.Put(ctx, PutRequest{Name: "f", Size: int64(size), Redundancy: s}, bytes.NewReader(random(1, size)), progress)
	}
	all := new(items)
	all.add("", volume.DirEntry, nil)
	data := random(2, size)
	for i := 0; len(data) > 0; i++ {
		n := min(len(data), 1+i%7*900_000)
		all.add(fmt.Sprintf("%06d", i), volume.FileEntry, data[:n])
		data = data[n:]
	}
	return n.PutTree(ctx, PutRequest{Size: int64(size), Redundancy: s}, all, progress)
}

// crammed is a holder that has space for nothing more.
type crammed struct{ wire.Handler }

func (c crammed) Facts(ctx context.Context, from string) (wire.Facts, error) {
	f, err := c.Handler.Facts(ctx, from)
	f.Free, f.Capacity = 1, 1<<30
	return f, err
}

// fast is a clock that is almost a day ahead.
type fast struct{ realClock }

func (fast) Now() time.Time { return time.Now().Add(23 * time.Hour) }

// Of a put that ends anywhere no more than what was under way is sent twice by
// the same put, whoever makes it and whatever has become of the peers.
func TestAnInterruptedPutGoesOn(t *testing.T) {
	const holders = 11
	given := &erasure.Scheme{K: 4, M: 6}
	interrupt := func(_ *memNode, cancel func()) { cancel() }
	kill := func(c *memNode, _ func()) { c.kill() }
	fresh := func(m *memNet, _ *memNode) *memNode { return m.client() }
	more := func(n int) func(*memNet) {
		return func(m *memNet) {
			for range n {
				m.add(true, 0, "")
			}
		}
	}
	for _, c := range []struct {
		name      string
		long      bool // only where there is time
		real      bool // in size
		tree      bool
		scheme    *erasure.Scheme
		before    func(m *memNet)
		first     func(*memNode) // who puts
		end       func(client *memNode, cancel func())
		meanwhile func(m *memNet)
		again     func(m *memNet, old *memNode) *memNode // who repeats it
	}{
		{name: "a file, by the same node", end: interrupt, again: func(_ *memNet, old *memNode) *memNode { return old }},
		{name: "a file of given redundancy", long: true, scheme: given, end: interrupt, again: fresh},
		{name: "a tree", long: true, tree: true, end: interrupt, again: fresh},
		{name: "a file, killed", end: kill, again: fresh},
		{name: "a tree, killed", tree: true, end: kill, again: fresh},
		{name: "one holder has gone", long: true, end: interrupt, again: fresh, meanwhile: func(m *memNet) { m.holders()[3].down.Store(true) }},
		{name: "two holders have gone", long: true, end: interrupt, again: fresh, meanwhile: func(m *memNet) {
			m.holders()[3].down.Store(true)
			m.holders()[4].down.Store(true)
		}},
		{
			name: "one holder has come back", end: kill, again: fresh,
			before:    func(m *memNet) { m.holders()[3].down.Store(true) },
			meanwhile: func(m *memNet) { m.holders()[3].down.Store(false) },
		},
		{name: "more holders have come", long: true, scheme: given, end: kill, again: fresh, meanwhile: more(8)},
		{name: "holders have become full", end: kill, again: fresh, meanwhile: func(m *memNet) {
			for _, h := range m.holders() {
				h.wrap = func(h wire.Handler) wire.Handler { return crammed{h} }
			}
			more(10)(m)
		}},
		{name: "200 MiB, killed", long: true, real: true, end: kill, again: fresh},
		{name: "a tree of 200 MiB", long: true, real: true, tree: true, end: interrupt, again: fresh},
		{name: "the clock was ahead", end: kill, again: fresh, meanwhile: more(8), first: func(c *memNode) { c.clock = fast{} }},
	} {
		if c.long && testing.Short() {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			size, packLen := 24<<20, 4<<20+64<<10
			if c.real {
				size, packLen = 200<<20, pack.MaxLen
			}
			m := newMemNet(t, 612, holders, 0)
			if c.before != nil {
				c.before(m)
			}
			first := m.client()
			if c.first != nil {
				c.first(first)
			}
			home := first.node()
			home.packLen = packLen
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := false
			res, err := putSome(ctx, home, size, c.tree, c.scheme, func(p Progress) {
				if !ended && p.Done > int64(size)*5/6 {
					ended = true
					c.end(first, cancel)
				}
			})
			if err == nil {
				t.Fatalf("got %+v of an interrupted put, want an error", res)
			}
			if c.meanwhile != nil {
				c.meanwhile(m)
			}
			second, sent := c.again(m, first), first.sent.Load()
			if second != first {
				home = second.alsoOf(home)
				home.packLen = packLen
			}
			if res, err = putSome(t.Context(), home, size, c.tree, c.scheme, nil); err != nil || res.Partial {
				t.Fatalf("again: got %+v, %v", res, err)
			}
			if second != first {
				sent += second.sent.Load()
			} else {
				sent = second.sent.Load()
			}
			// All of it, as one put sends it: 10 shards any 4 of which restore
			// it, and what else is said, of which there is little.
			whole := int64(size) * 10 / 4
			bound := packsInFlight * int64(packLen) * 10 / 4
			twice := sent - whole
			t.Logf("%.1f MiB of %.1f sent twice, %.1f are allowed", float64(twice)/(1<<20), float64(whole)/(1<<20), float64(bound)/(1<<20))
			if twice > bound {
				t.Errorf("got %d bytes sent twice, want at most %d", twice, bound)
			}
		})
	}
}

// What was taken of a file or a tree is not fetched again, and both say what they
// are: the same whatever they are called, something else where they differ.
func TestAGetGoesOn(t *testing.T) {
	m := newMemNet(t, 621, 5, 0)
	tree := aTree(3, 3)
	tree.add("largest", volume.FileEntry, random(8, 6<<20))
	res, err := m.client().node().PutTree(t.Context(), PutRequest{Size: -1}, tree, nil)
	if err != nil {
		t.Fatal(err)
	}
	large := len(tree.list) - 2
	for _, c := range []struct {
		after string
		off   int64
		first int // item of which there is content
	}{{"", 0, 1}, {"", 100, 2}, {"001/001", 0, 8}, {"001/002", 0, 9}, {"002/002", 1 << 20, large}, {"large", 0, large + 1}, {"large", 5 << 20, large + 1}, {"largest", 0, large + 2}} {
		who, got := m.client(), new(items)
		var last Progress
		if err := who.node().GetTree(t.Context(), GetRequest{Source: res.Link, After: c.after, Offset: c.off}, got, func(p Progress) { last = p }); err != nil {
			t.Fatal(err)
		}
		off, want := c.off, 0
		for i, item := range got.list {
			size := int64(len(tree.data[i]))
			from := size
			if i >= c.first && item.Entry.Kind == volume.FileEntry {
				from, off = min(off, size), 0
			}
			if item.Path != tree.list[i].Path || item.From != from || !bytes.Equal(got.data[i], tree.data[i][from:]) {
				t.Errorf("after %q and %d: got %q from %d with %d bytes, want %q from %d", c.after, c.off, item.Path, item.From, len(got.data[i]), tree.list[i].Path, from)
			}
			want += int(size - from)
		}
		if len(got.list) != len(tree.list) || got.list[0].ID == "" || got.list[1].ID != "" || want > 0 && last.Done != last.Total {
			t.Errorf("after %q and %d: got %d items, ID %q, progress %+v; want %d", c.after, c.off, len(got.list), got.list[0].ID, last, len(tree.list))
		}
		if n := who.got.Load(); n > int64(want)+2<<20 {
			t.Errorf("after %q and %d: %d bytes were received for %d", c.after, c.off, n, want)
		}
	}
	if err := m.client().node().GetTree(t.Context(), GetRequest{Source: res.Link, Offset: -1}, new(items), nil); CodeOf(err) != Usage {
		t.Errorf("negative offset: got %v, want code %d", err, Usage)
	}

	id := func(source string) string {
		t.Helper()
		_, info, err := get(t.Context(), m.client().node(), source)
		if err != nil || len(info.ID) != 64 {
			t.Errorf("got ID %q, %v", info.ID, err)
		}
		one := new(items)
		if err := m.client().node().GetTree(t.Context(), GetRequest{Source: source}, one, nil); err != nil || one.list[0].ID != info.ID {
			t.Errorf("got ID %q as a file, %q as a tree, %v", info.ID, one.list[0].ID, err)
		}
		return info.ID
	}
	n := m.client().node()
	a, b := put(t, n, "a", random(1, 100<<10), nil), put(t, n, "b", random(1, 100<<10), nil)
	other := put(t, n, "a", random(2, 100<<10), nil)
	if id(a.Link) != id(b.Link) {
		t.Error("another name is another content")
	}
	if id(a.Link) == id(other.Link) {
		t.Error("another content has the same ID")
	}
}
