package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/peer"
	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/pack"
)

// partDirectory knows of some only of those that keep a volume's heads.
type partDirectory struct {
	memDirectory

	owner pack.Owner
	part  *[]*memNode // nil: it knows all
}

func (d partDirectory) Closest(ctx context.Context, id [32]byte, n int) ([]peer.ID, error) {
	if *d.part == nil || id != d.owner {
		return d.memDirectory.Closest(ctx, id, n)
	}
	var out []peer.ID
	for _, n := range *d.part {
		out = append(out, n.self)
	}
	return out, nil
}

// parted is a volume whose writers know of some only of those that keep its
// heads, other ones at every moment, so that each sees what some of the others
// have done.
type parted struct {
	m       *memNet
	owner   pack.Owner
	writers []*Node
	parts   []*[]*memNode
}

func newParted(tb testing.TB, m *memNet, homes []*Node) *parted {
	p := &parted{m: m, writers: homes}
	if _, err := homes[0].VolumeCreate(tb.Context(), "v"); err != nil {
		tb.Fatal(err)
	}
	link, err := homes[0].VolumeLink(tb.Context(), "v", "write")
	if err != nil {
		tb.Fatal(err)
	}
	p.owner = must(homes[0].vol("v")).owner
	for i, n := range homes {
		if i > 0 {
			if _, err := n.VolumeAdd(tb.Context(), link, "v"); err != nil {
				tb.Fatal(err)
			}
		}
		p.parts = append(p.parts, new([]*memNode))
		n.engine.dir = partDirectory{n.engine.dir.(memDirectory), p.owner, p.parts[i]}
	}
	return p
}

// together has every keeper and writer know of all, and all of them have all heads.
func (p *parted) together(ctx context.Context) {
	for _, part := range p.parts {
		*part = nil
	}
	p.m.passAround(ctx, p.owner, 0)
}

// What each of two has removed stays removed, though each has merged what both
// had done for itself.
func TestWhatIsRemovedDoesNotComeBack(t *testing.T) {
	m := newMemNet(t, 581, 4, 0)
	p := newParted(t, m, []*Node{m.home(t, 1), m.home(t, 2)})
	a, b := p.writers[0], p.writers[1]
	apart := func() { *p.parts[0], *p.parts[1] = m.nodes[:2], m.nodes[2:4] }
	apart()
	into(t, a, "v:", "of a", "1")
	into(t, b, "v:", "of b", "2")
	p.together(t.Context())
	apart()
	for i, name := range []string{"of b", "of a"} {
		if _, err := p.writers[i].Remove(t.Context(), "v:"+name); err != nil {
			t.Fatal(err)
		}
		into(t, p.writers[i], "v:", fmt.Sprint("later ", i), "3")
	}
	p.together(t.Context())
	for _, n := range p.writers {
		if got := names(t, n, "v:"); got != "later 0 later 1" {
			t.Errorf("got %q", got)
		}
	}
	into(t, a, "v:", "last", "4")
	if got := names(t, b, "v:"); got != "last later 0 later 1" {
		t.Errorf("merged: got %q", got)
	}
}

// Each of three homes changes files of its own, and sees now and then what some of
// the others have done: in the end all is as each of them has left it, and nothing
// conflicts.
func TestWritersWhoSeeSomeOfEachOther(t *testing.T) {
	setChecks(t, "30", "300")
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		m := newMemNet(drawn{t, rt}, 582, 3, 0)
		var homes []*Node
		for i := range 3 {
			homes = append(homes, homeIn(rt, m, dir, byte(i)))
		}
		p := newParted(drawn{t, rt}, m, homes)
		files := make([]map[string]string, len(homes))
		for i := range files {
			files[i] = make(map[string]string)
		}
		for step := range rapid.IntRange(1, 20).Draw(rt, "steps") {
			who := rapid.IntRange(0, len(homes)-1).Draw(rt, "home")
			part := rapid.SliceOfNDistinct(rapid.SampledFrom([]int{0, 1, 2}), 1, 2, rapid.ID[int]).Draw(rt, "keepers")
			*p.parts[who] = nil
			for _, i := range part {
				*p.parts[who] = append(*p.parts[who], m.nodes[i])
			}
			n, own := homes[who], files[who]
			name := fmt.Sprintf("%s%d.%d", []string{"", "dir/", "dir/sub/"}[rapid.IntRange(0, 2).Draw(rt, "dir")], who, rapid.IntRange(0, 2).Draw(rt, "file"))
			var err error
			switch do := rapid.SampledFrom([]string{"put", "put", "rm", "mv"}).Draw(rt, "do"); {
			case do == "put":
				text := fmt.Sprint(who, step)
				at := strings.LastIndexByte(name, '/') + 1
				_, err = n.Put(rt.Context(), PutRequest{Name: name[at:], Mode: 0o644, Size: -1, Target: "v:" + name[:at]}, strings.NewReader(text), nil)
				own[name] = sum([]byte(text))
			case len(own) == 0:
			case do == "rm":
				old := rapid.SampledFrom(slices.Sorted(maps.Keys(own))).Draw(rt, "old")
				_, err = n.Remove(rt.Context(), "v:"+old)
				delete(own, old)
			case do == "mv":
				old := rapid.SampledFrom(slices.Sorted(maps.Keys(own))).Draw(rt, "old")
				if at := strings.LastIndexByte(name, '/'); at > 0 {
					err = n.Mkdir(rt.Context(), "v:"+name[:at], true)
				}
				if err == nil {
					err = n.Move(rt.Context(), "v:"+old, "v:"+name)
				}
				text := own[old]
				delete(own, old)
				own[name] = text
			}
			if err != nil {
				rt.Fatal(err)
			}
		}
		p.together(rt.Context())
		want := make(map[string]string)
		for _, own := range files {
			maps.Copy(want, own)
		}
		check := func(when string) {
			for _, n := range homes {
				got, err := content(rt.Context(), n, "v:")
				if err != nil {
					rt.Fatal(err)
				}
				maps.DeleteFunc(got, func(_, text string) bool { return text == "/" })
				if diff := cmp.Diff(want, got); diff != "" {
					rt.Fatalf("%s: another tree (-want +got):\n%s", when, diff)
				}
			}
		}
		check("as they are")
		if err := homes[0].Mkdir(rt.Context(), "v:end", true); err != nil {
			rt.Fatal(err)
		}
		check("merged")
	})
}
