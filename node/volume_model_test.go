package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/volume"
)

// drawn is the testing.TB of a check of rapid's: what it opens ends with the
// check.
type drawn struct {
	testing.TB

	t *rapid.T
}

func (d drawn) Helper()                        {}
func (d drawn) Context() context.Context       { return d.t.Context() }
func (d drawn) Cleanup(f func())               { d.t.Cleanup(f) }
func (d drawn) Logf(format string, a ...any)   { d.t.Logf(format, a...) }
func (d drawn) Errorf(format string, a ...any) { d.t.Errorf(format, a...) }
func (d drawn) Fatalf(format string, a ...any) { d.t.Fatalf(format, a...) }
func (d drawn) Fatal(a ...any)                 { d.t.Fatal(a...) }

// netClock is ahead as its network is.
type netClock struct {
	realClock

	net *memNet
}

func (c netClock) Now() time.Time { return time.Now().Add(time.Duration(c.net.ahead.Load())) }

// A modelTree is what is in a volume, by path: the digest of a file, "/" of a
// directory. Of each path those above it are in it too.
type modelTree map[string]string

// under gives what is at a path, "" of nothing; the root is a directory.
func (m modelTree) under(p string) string {
	if p == "" {
		return "/"
	}
	return m[p]
}

// above tells why there can be nothing at a path, if all above it has to be there;
// with create only what is no directory is in the way.
func (m modelTree) above(p string, create bool) error {
	for i, c := range p {
		if c != '/' {
			continue
		}
		switch m[p[:i]] {
		case "/":
		case "":
			if !create {
				return volume.ErrNotFound
			}
		default:
			return volume.ErrNotDir
		}
	}
	return nil
}

func (m modelTree) drop(p string) {
	maps.DeleteFunc(m, func(q, _ string) bool { return q == p || strings.HasPrefix(q, p+"/") })
}

func (m modelTree) dirs(p string) {
	for i, c := range p {
		if c == '/' {
			m[p[:i]] = "/"
		}
	}
}

// put is a put, mkdir, move or rm a change as the node is to make it: it changes
// nothing where it gives an error, or false.
func (m modelTree) put(p, text string) (bool, error) {
	if err := m.above(p, true); err != nil {
		return false, err
	}
	m.drop(p)
	m.dirs(p)
	m[p] = text
	return true, nil
}

func (m modelTree) mkdir(p string, parents bool) (bool, error) {
	if err := m.above(p, parents); err != nil {
		return false, err
	}
	switch {
	case m[p] == "/" && parents:
		return false, nil
	case m[p] != "":
		return false, volume.ErrExists
	}
	m.dirs(p)
	m[p] = "/"
	return true, nil
}

func (m modelTree) rm(p string) (bool, error) {
	if err := m.above(p, false); err != nil {
		return false, err
	}
	if m[p] == "" {
		return false, volume.ErrNotFound
	}
	m.drop(p)
	return true, nil
}

func (m modelTree) move(from, to string) (bool, error) {
	if err := m.above(from, false); err != nil {
		return false, err
	}
	if m[from] == "" {
		return false, volume.ErrNotFound
	}
	if m.under(to) == "/" {
		to = path.Join(to, path.Base(from))
	}
	isDir := m[from] == "/"
	switch {
	case from == to:
		return false, nil
	case isDir && strings.HasPrefix(to, from+"/"):
		return false, volume.ErrInto
	case m[to] == "/", m[to] != "" && isDir:
		return false, volume.ErrExists
	}
	if err := m.above(to, false); err != nil {
		return false, err
	}
	moved := m.at(from)
	m.drop(from)
	m[to] = moved[""]
	for p, text := range moved {
		m[path.Join(to, p)] = text
	}
	return true, nil
}

// at gives what is at a path and below it, by the path below that.
func (m modelTree) at(p string) modelTree {
	out := make(modelTree)
	for q, text := range m {
		if q == p {
			out[""] = text
		} else if below, ok := strings.CutPrefix(q, p+"/"); ok {
			out[below] = text
		} else if p == "" {
			out[q] = text
		}
	}
	return out
}

// A modelHead is a head of the model's volume.
type modelHead struct {
	HeadInfo

	tree modelTree
}

// volumeRun is a volume that homes change at random, and its model.
type volumeRun struct {
	t       *rapid.T
	net     *memNet
	writers []*Node
	reader  *Node
	heads   []*modelHead         // newest first
	pins    map[string]modelTree // by link
	seen    uint64               // number of the head that the reader saw last
	write   string               // link
}

var modelPaths = rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 3), func(s []string) string { return strings.Join(s, "/") })

func modelText(i int) string {
	return strings.Repeat(fmt.Sprintf("text %d ", i), []int{0, 3, 300, 2000, 9000}[i])
}

func newVolumeRun(t *rapid.T, tb testing.TB, dir string) *volumeRun {
	r := &volumeRun{t: t, pins: make(map[string]modelTree)}
	r.net = newMemNet(drawn{tb, t}, 551, rapid.IntRange(3, 6).Draw(t, "holders"), 0)
	for _, n := range r.net.nodes {
		n.clock = netClock{net: r.net}
	}
	r.writers = []*Node{r.home(dir, 1), r.home(dir, 2)}
	r.reader = r.home(dir, 3)
	_, err := r.writers[0].VolumeCreate(t.Context(), "v")
	r.must(err)
	r.write, err = r.writers[0].VolumeLink(t.Context(), "v", "write")
	r.must(err)
	read, err := r.writers[0].VolumeLink(t.Context(), "v", "read")
	r.must(err)
	_, err = r.writers[1].VolumeAdd(t.Context(), r.write, "v")
	r.must(err)
	_, err = r.reader.VolumeAdd(t.Context(), read, "v")
	r.must(err)
	r.made(make(modelTree), true)
	return r
}

func (r *volumeRun) home(dir string, seed byte) *Node {
	n := homeIn(r.t, r.net, dir, seed)
	n.engine.clock = netClock{net: r.net}
	return n
}

// homeIn gives a client with a home of its own, in a directory below dir.
func homeIn(t *rapid.T, m *memNet, dir string, seed byte) *Node {
	n := m.client().homeOf(volume.Seed{seed, 9})
	dir, err := os.MkdirTemp(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	n.home = HomeAt(dir)
	return n
}

func (r *volumeRun) must(err error) {
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *volumeRun) writer() *Node { return r.writers[rapid.IntRange(0, 1).Draw(r.t, "home")] }

// tree gives a copy of the tree as it is.
func (r *volumeRun) tree() modelTree { return maps.Clone(r.heads[0].tree) }

// made notes the head that a change is to have made.
func (r *volumeRun) made(tree modelTree, snapshot bool) {
	log, err := r.reader.VolumeLog(r.t.Context(), "v")
	r.must(err)
	number := uint64(1)
	if len(r.heads) > 0 {
		number = r.heads[0].Number + 1
	}
	if log[0].Number != number || log[0].Snapshot != snapshot {
		r.t.Fatalf("got head %+v, want number %d, a snapshot: %v", log[0], number, snapshot)
	}
	for _, h := range r.heads {
		h.Current = false
	}
	r.heads = append([]*modelHead{{log[0], tree}}, r.heads...)
	r.thinned()
}

// thinned drops what goes by itself from the model.
func (r *volumeRun) thinned() {
	log, err := r.reader.VolumeLog(r.t.Context(), "v")
	r.must(err)
	r.heads = slices.DeleteFunc(r.heads, func(h *modelHead) bool { return !h.Snapshot && !slices.Contains(log, h.HeadInfo) })
}

// change makes a change to the volume and its model.
func (r *volumeRun) change(do error, model func(modelTree) (bool, error)) {
	tree := r.tree()
	changed, err := model(tree)
	if !errors.Is(do, err) || err == nil && do != nil {
		r.t.Fatalf("got %v, want %v", do, err)
	}
	if err == nil && changed {
		r.made(tree, true)
	}
}

func (r *volumeRun) actions() map[string]func(*rapid.T) {
	place := func(label string) string { return modelPaths.Draw(r.t, label) }
	return map[string]func(*rapid.T){
		"put": func(t *rapid.T) {
			n, at, i := r.writer(), place("path"), rapid.IntRange(0, 4).Draw(t, "text")
			dir, name := path.Split(at)
			_, err := n.Put(t.Context(), PutRequest{Name: name, Mode: 0o644, Size: -1, Target: "v:" + dir}, strings.NewReader(modelText(i)), nil)
			r.change(err, func(m modelTree) (bool, error) { return m.put(at, sum([]byte(modelText(i)))) })
		},
		"mkdir": func(t *rapid.T) {
			n, at, parents := r.writer(), place("path"), rapid.Bool().Draw(t, "parents")
			r.change(n.Mkdir(t.Context(), "v:"+at, parents), func(m modelTree) (bool, error) { return m.mkdir(at, parents) })
		},
		"mv": func(t *rapid.T) {
			n, from, to := r.writer(), place("from"), rapid.OneOf(modelPaths, rapid.Just("")).Draw(t, "to")
			r.change(n.Move(t.Context(), "v:"+from, "v:"+to), func(m modelTree) (bool, error) { return m.move(from, to) })
		},
		"rm": func(t *rapid.T) {
			n, at := r.writer(), place("path")
			_, err := n.Remove(t.Context(), "v:"+at)
			r.change(err, func(m modelTree) (bool, error) { return m.rm(at) })
		},
		"link": r.link,
		"prune": func(t *rapid.T) {
			r.prune(r.writer(), rapid.Custom(func(t *rapid.T) PruneRequest {
				few := rapid.IntRange(0, 3)
				return PruneRequest{Now: rapid.Bool().Draw(t, "now"), Policy: volume.Policy{
					Last: few.Draw(t, "last"), Hourly: few.Draw(t, "hourly"), Daily: few.Draw(t, "daily"),
					Within: time.Duration(few.Draw(t, "within")) * time.Hour,
				}}
			}).Draw(t, "request"))
		},
		"wait": func(t *rapid.T) {
			hours := rapid.SampledFrom([]int{1, 20, 50}).Draw(t, "hours")
			r.net.ahead.Add(int64(time.Duration(hours) * time.Hour))
			r.net.sweep()
			before := r.heads[0].Number
			r.must(r.writer().tidy(t.Context()))
			if log, err := r.reader.VolumeLog(t.Context(), "v"); err != nil || log[0].Number > before {
				r.must(err)
				r.made(r.tree(), false)
			}
		},
		"": func(t *rapid.T) { r.check() },
	}
}

// link gives out a link to what is at a place, now or in the past.
func (r *volumeRun) link(t *rapid.T) {
	n, h := r.writer(), r.heads[0]
	at := rapid.OneOf(modelPaths, rapid.Just("")).Draw(t, "path")
	place := "v:" + at
	if rapid.Bool().Draw(t, "past") {
		h = rapid.SampledFrom(r.heads).Draw(t, "head")
		place = fmt.Sprintf("v@%d:%s", h.Number, at)
	}
	link, err := n.Link(t.Context(), place, false)
	if h.tree.above(at, false) != nil || h.tree.under(at) == "" {
		if CodeOf(err) != NotFound {
			t.Fatalf("link to nothing: got %v", err)
		}
		return
	}
	r.must(err)
	_, again := r.pins[link]
	r.pins[link] = h.tree.at(at)
	if log, err := r.reader.VolumeLog(t.Context(), "v"); err != nil || log[0].Number != r.heads[0].Number {
		r.must(err)
		if again {
			t.Fatal("a link that was there is made again")
		}
		r.made(r.tree(), false)
	}
}

func (r *volumeRun) prune(n *Node, q PruneRequest) {
	past := make([]volume.Past, len(r.heads))
	for i, h := range r.heads {
		past[i] = volume.Past{Number: h.Number, Time: h.Time, Snapshot: h.Snapshot}
	}
	keep := q.Policy.Keep(past, n.engine.clock.Now())
	var kept []*modelHead
	snapshots, removed := 0, 0
	for i, h := range r.heads {
		switch {
		case !h.Snapshot || keep[i]:
			kept = append(kept, h)
			if h.Snapshot {
				snapshots++
			}
		default:
			removed++
		}
	}
	res, err := n.VolumePrune(r.t.Context(), "v", q)
	r.must(err)
	if res.Kept != snapshots || res.Removed != removed || res.Untold > 0 || res.Partial || q.Now && res.Dying > 0 || !q.Now && res.Dropped > 0 && r.net.ahead.Load() == 0 {
		r.t.Fatalf("prune: got %+v, want %d snapshots kept and %d removed", res, snapshots, removed)
	}
	tree := r.tree()
	number := r.heads[0].Number
	r.heads = kept
	log, err := r.reader.VolumeLog(r.t.Context(), "v")
	r.must(err)
	if log[0].Number != number+1 || log[0].Snapshot {
		r.t.Fatalf("prune: got head %+v, want number %d", log[0], number+1)
	}
	for _, h := range r.heads {
		h.Current = false
	}
	r.heads = append([]*modelHead{{log[0], tree}}, r.heads...)
	r.thinned()
	r.whole()
	if q.Now {
		r.lean()
	}
}

// check compares the volume with its model.
func (r *volumeRun) check() {
	log, err := r.reader.VolumeLog(r.t.Context(), "v")
	r.must(err)
	var want []HeadInfo
	for _, h := range r.heads {
		want = append(want, h.HeadInfo)
	}
	if diff := cmp.Diff(want, log); diff != "" {
		r.t.Fatalf("another log than the model's (-want +got):\n%s", diff)
	}
	if log[0].Number < r.seen {
		r.t.Fatalf("the reader went back from head %d to head %d", r.seen, log[0].Number)
	}
	r.seen = log[0].Number
	for _, n := range append(r.writers, r.reader) {
		r.same(n, "v:", r.heads[0].tree)
	}
}

// same compares what is at a source with what is to be.
func (r *volumeRun) same(n *Node, source string, want modelTree) {
	got, err := content(r.t.Context(), n, source)
	if err != nil {
		r.t.Fatalf("%s: %v", source, err)
	}
	want = maps.Clone(want)
	if want[""] == "/" {
		delete(want, "")
	}
	if diff := cmp.Diff(want, modelTree(got)); diff != "" {
		r.t.Fatalf("%s: another tree than the model's (-want +got):\n%s", source, diff)
	}
}

// whole reads all of the past, and all that links lead to.
func (r *volumeRun) whole() {
	for _, h := range r.heads {
		r.same(r.reader, fmt.Sprintf("v@%d-%s:", h.Number, h.Hash), h.tree)
	}
	nobody := r.net.client().node()
	for link, tree := range r.pins {
		if tree[""] == "/" || tree[""] == "" {
			r.same(nobody, link, tree)
			continue
		}
		got, _, err := get(r.t.Context(), nobody, link)
		if err != nil || sum(got) != tree[""] {
			r.t.Fatalf("link: got %d bytes, %v", len(got), err)
		}
	}
}

// lean checks that holders keep nothing that the volume does not need.
func (r *volumeRun) lean() {
	ids, err := r.reader.packsOfVol(r.t.Context(), must(r.reader.vol("v")))
	r.must(err)
	needed := make(map[pack.ID]bool)
	for _, id := range ids {
		needed[id] = true
	}
	for _, h := range r.net.holders() {
		for p, err := range h.store.Packs(r.t.Context()) {
			r.must(err)
			if !p.Deleted && !needed[p.ID] {
				r.t.Fatalf("pack %s is kept, and the volume does not need it", p.ID.Short())
			}
		}
	}
}

// setChecks says how often rapid checks, for as long as the test runs, where the
// command line does not: in short tests, and else.
func setChecks(t *testing.T, short, long string) {
	t.Helper()
	f := flag.Lookup("rapid.checks")
	if f.Value.String() != f.DefValue {
		return
	}
	n := long
	if testing.Short() {
		n = strconv.Itoa(must(strconv.Atoi(short)) * 5) // of which rapid takes a fifth
	}
	if err := flag.Set("rapid.checks", n); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = flag.Set("rapid.checks", f.DefValue) })
}

func TestAVolumeDoesWhatAModelDoes(t *testing.T) {
	setChecks(t, "20", "100")
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		r := newVolumeRun(rt, t, dir)
		rt.Repeat(r.actions())
		r.whole()
		// Whoever has the write link has all of it.
		n := r.home(dir, 4)
		if res, err := n.VolumeAdd(rt.Context(), r.write, "w"); err != nil || res.Lost > 0 {
			rt.Fatalf("add: got %+v, %v", res, err)
		}
		r.same(n, "w:", r.heads[0].tree)
	})
}
