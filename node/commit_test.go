package node

import (
	"fmt"
	"strings"
	"testing"

	"github.com/p2pfs/p2pfs/volume"
)

// added gives a home of its own that has a volume by its link.
func (m *memNet) added(t *testing.T, seed byte, link, name string) *Node {
	t.Helper()
	n := m.home(t, seed)
	if _, err := n.VolumeAdd(t.Context(), link, name); err != nil {
		t.Fatal(err)
	}
	return n
}

// created gives a home with a volume, and the links to it.
func (m *memNet) created(t *testing.T, seed byte, name string) (n *Node, write, read string) {
	t.Helper()
	n = m.home(t, seed)
	if _, err := n.VolumeCreate(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	return n, rightTo(t, n, name, "write"), rightTo(t, n, name, "read")
}

func rightTo(t *testing.T, n *Node, name, right string) string {
	t.Helper()
	link, err := n.VolumeLink(t.Context(), name, right)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// begun begins a commit to a volume: that of the head that is there now.
func begun(t *testing.T, n *Node, name string) *commit {
	t.Helper()
	v, err := n.vol(name)
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.begin(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// put ends a commit with a file put into the volume.
func (c *commit) put(t *testing.T, name, content string) error {
	t.Helper()
	defer c.end()
	p := c.n.engine.newPutter(t.Context(), c.keys.Owner, nil, 0)
	defer p.end()
	ref, e, packs, err := volume.WriteFile(t.Context(), p, c.keys, volume.Info{Name: name, Size: int64(len(content))}, strings.NewReader(content), volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := volume.NewDraft(c.w.root)
	if err := d.Put(t.Context(), name, volume.Made(c.w.src, ref, e), c.now); err != nil {
		t.Fatal(err)
	}
	return c.commitBy(t.Context(), p, d, true, &change{packs: packs})
}

func TestManyWritersAtOnceLoseNothing(t *testing.T) {
	const writers = 5
	m := newMemNet(t, 501, 5, 0)
	a, write, _ := m.created(t, 1, "v")
	into(t, a, "v:", "base", "0")
	var homes []*Node
	var commits []*commit
	for i := range writers {
		homes = append(homes, m.added(t, byte(10+i), write, "v"))
		commits = append(commits, begun(t, homes[i], "v"))
	}
	want := "base"
	for i, c := range commits {
		name := fmt.Sprintf("f%d", i)
		if err := c.put(t, name, strings.Repeat(name, 1000)); err != nil {
			t.Fatal(err)
		}
		want += " " + name
	}
	if got := names(t, a, "v:"); got != want {
		t.Errorf("before they are merged: got %q, want %q", got, want)
	}
	into(t, homes[2], "v:", "later", "x") // which merges them first
	want += " later"
	for _, n := range append(homes, a) {
		if got := names(t, n, "v:"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for i := range writers {
		name := fmt.Sprintf("f%d", i)
		if got := text(t, a, "v:"+name); got != strings.Repeat(name, 1000) {
			t.Errorf("%s: got %d bytes", name, len(got))
		}
	}
	// The merges follow each other, and nothing is left to be merged.
	log, err := a.VolumeLog(t.Context(), "v")
	if err != nil || len(log) != 2+writers+(writers-1)+1 || !log[0].Current || log[1].Current {
		t.Errorf("log: %+v, %v", log, err)
	}
}
