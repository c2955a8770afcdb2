package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// pieceLen is how many bytes of content a shop writes at a time, and flushTest
// and keepTest stand for flushLen and keepLen.
const (
	pieceLen  = 1000
	flushTest = 6000
	keepTest  = 1
)

// shop is an API that gives a tree, or with one item a file, as a node does. What
// happens when it has written so much is for during to say.
type shop struct {
	control.API

	all    []treeItem
	id     string
	old    bool // it knows neither IDs nor where to begin
	during func(event int) error

	events int   // pieces written, and items given
	sent   int64 // bytes of content
}

func (s *shop) event() error {
	s.events++
	if s.during == nil {
		return nil
	}
	return s.during(s.events)
}

func (s *shop) Get(ctx context.Context, q node.GetRequest, begin func(node.FileInfo) (io.Writer, error), _ func(node.Progress)) error {
	i := s.all[0]
	info := node.FileInfo{Name: i.Entry.Name, Mode: i.Entry.Mode, ModTime: i.Entry.MTime, Size: i.Entry.Size, ID: s.id}
	if s.old {
		info.ID = ""
	}
	w, err := begin(info)
	if err != nil || q.Length == 0 {
		return err
	}
	return s.write(w, i.content[q.Offset:])
}

func (s *shop) GetTree(ctx context.Context, q node.GetRequest, sink node.TreeSink, _ func(node.Progress)) error {
	off := q.Offset
	for n, i := range s.all {
		if i.Entry.Kind == volume.FileEntry && !s.old {
			if q.After != "" && volume.ComparePaths(i.Path, q.After) <= 0 {
				i.From = i.Entry.Size
			} else {
				i.From, off = min(off, i.Entry.Size), 0
			}
		}
		if n == 0 && !s.old {
			i.ID = s.id
		}
		w, err := sink.Take(i.Item)
		if err != nil {
			return err
		}
		if err := s.event(); err != nil {
			return err
		}
		if i.Entry.Kind != volume.FileEntry {
			continue
		}
		if w == nil {
			w = io.Discard
		}
		if err := s.write(w, i.content[i.From:]); err != nil {
			return err
		}
	}
	return nil
}

func (s *shop) write(w io.Writer, content string) error {
	for len(content) > 0 {
		n := min(len(content), pieceLen)
		if _, err := io.WriteString(w, content[:n]); err != nil {
			return err
		}
		s.sent += int64(n)
		content = content[n:]
		if err := s.event(); err != nil {
			return err
		}
	}
	return nil
}

// getFrom gets what a shop has into dir, as the tree or file that it is.
func getFrom(s *shop, dir string, force bool, said io.Writer) error {
	t, err := newTarget(dir, force)
	if err != nil {
		return err
	}
	t.flushLen, t.keepLen = flushTest, keepTest
	a := &app{stdout: io.Discard, stderr: &errWriter{w: said}}
	q := node.GetRequest{Source: "x", Length: -1}
	if s.all[0].Entry.Kind == volume.DirEntry {
		return a.getTree(context.Background(), s, q, t)
	}
	_, err = a.fetch(context.Background(), s, q, t)
	return err
}

// getLone is getFrom by the way of a path in a tree.
func getLone(s *shop, dir string) error {
	t, err := newTarget(dir, false)
	if err != nil {
		return err
	}
	t.flushLen, t.keepLen = flushTest, keepTest
	a := &app{stdout: io.Discard, stderr: &errWriter{w: io.Discard}}
	return a.getTree(context.Background(), s, node.GetRequest{Source: "x", Length: -1}, t)
}

// noise gives n bytes that look like nothing else.
func noise(seed uint64, n int) string {
	var b strings.Builder
	r := rand.New(rand.NewPCG(seed, 1))
	for b.Len() < n {
		fmt.Fprintf(&b, "%016x", r.Uint64())
	}
	return b.String()[:n]
}

// goods is a tree with one of each, as a walk gives it.
func goods(t *testing.T) []treeItem {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("has no such links and modes")
	}
	all := []treeItem{rootItem()}
	add := func(i treeItem) { all = append(all, i) }
	add(dirItem("a"))
	add(dirItem("a/closed"))
	all[2].Entry.Mode = 0o500
	add(fileItem("a/closed/one", noise(1, 2500)))
	add(fileItem("a/closed/two", ""))
	add(fileItem("a/three", noise(2, 9000)))
	add(dirItem("b"))
	add(fileItem("b/big", noise(3, 20_000)))
	add(linkItem("b/link", "../a"))
	if runtime.GOOS == "linux" {
		add(item(volume.FifoEntry, "b/pipe", ""))
	}
	holes := fileItem("c", strings.Repeat("\x00", 8192)+noise(4, 5000)+strings.Repeat("\x00", 12_000))
	holes.Entry.Sparse = true
	add(holes)
	one, two := fileItem("d", noise(5, 4000)), fileItem("e", noise(5, 4000))
	one.Entry.Group, two.Entry.Group = 7, 7
	one.Entry.Mode = 0o400
	two.Entry.Mode = 0o400
	add(one)
	add(dirItem("empty"))
	i := len(all) - 1 // by name behind e
	all = slices.Insert(all, i, two)
	add(fileItem("z", noise(6, 3000)))
	for i := range all {
		if all[i].Entry.Kind == volume.DirEntry {
			all[i].Entry.MTime = fakeTime.Add(time.Duration(i) * time.Hour)
		}
		all[0].Entry.Bytes += all[i].Entry.Size
	}
	return all
}

// isWhole checks that dir has one name, which is what all is.
func isWhole(t *testing.T, what, dir string, all []treeItem) {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 || names[0].Name() != all[0].Entry.Name {
		t.Fatalf("%s: got %v, %v, want %s alone", what, names, err, all[0].Entry.Name)
	}
	if all[0].Entry.Kind != volume.DirEntry {
		b, err := os.ReadFile(filepath.Join(dir, names[0].Name()))
		if err != nil || string(b) != all[0].content {
			t.Errorf("%s: got %d bytes, %v, want %d, or others", what, len(b), err, len(all[0].content))
		}
		return
	}
	got, _ := walkAll(t, filepath.Join(dir, names[0].Name()), nil)
	if len(got) != len(all) {
		t.Fatalf("%s: got %d items, want %d", what, len(got), len(all))
	}
	groups := make(map[uint64]int)
	for i, g := range got {
		w := all[i]
		if g.Path != w.Path || g.Entry.Kind != w.Entry.Kind || g.content != w.content || g.Entry.Target != w.Entry.Target {
			t.Errorf("%s: %q is not as it should be: got %q with %d bytes, want %d", what, w.Path, g.Path, len(g.content), len(w.content))
		}
		if w.Entry.Kind != volume.SymlinkEntry && (g.Entry.Mode != w.Entry.Mode || !g.Entry.MTime.Equal(w.Entry.MTime)) {
			t.Errorf("%s: %q: got mode %o and time %v, want %o and %v", what, w.Path, g.Entry.Mode, g.Entry.MTime, w.Entry.Mode, w.Entry.MTime)
		}
		if g.Entry.Group != 0 {
			groups[g.Entry.Group]++
		}
	}
	if len(groups) != 1 {
		t.Errorf("%s: got %d files of several names, want 1", what, len(groups))
	}
}

// copyDir copies what is in a directory: what there would be if all had ended
// now.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	type later struct {
		path string
		info fs.FileInfo
	}
	var dirs []later
	links := make(map[string]string) // by inode
	must(t, filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, p)
		out := filepath.Join(to, rel)
		i, err := d.Info()
		if err != nil {
			return err
		}
		switch i.Mode().Type() {
		case fs.ModeDir:
			dirs = append(dirs, later{out, i})
			return os.MkdirAll(out, 0o700)
		case fs.ModeSymlink:
			target, err := os.Readlink(p)
			return errors.Join(err, os.Symlink(target, out))
		case fs.ModeNamedPipe:
			return nil // is made anew
		}
		var e volume.Entry
		fillEntry(&e, i)
		if first, ok := links[fmt.Sprint(e.Group)]; ok && e.Group != 0 {
			return os.Link(first, out)
		}
		links[fmt.Sprint(e.Group)] = out
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return errors.Join(os.WriteFile(out, b, 0o600), os.Chmod(out, i.Mode().Perm()), os.Chtimes(out, time.Time{}, i.ModTime()))
	}))
	for _, d := range slices.Backward(dirs) {
		must(t, os.Chtimes(d.path, time.Time{}, d.info.ModTime()), os.Chmod(d.path, d.info.Mode().Perm()))
	}
	t.Cleanup(func() { _ = removeTree(to) })
}

var errTorn = errors.New("torn")

// Whenever a get ends, the next one makes the same of it, and of what it takes no
// more is sent twice than what was not synced: nothing if the get could still do
// that.
func TestAGetGoesOnFromWhereverItEnded(t *testing.T) {
	t.Parallel()
	file := fileItem("f", noise(9, 40_500))
	file.Path = ""
	for _, c := range []struct {
		name string
		all  []treeItem
		get  func(s *shop, dir string) error
		step int // every how many events it ends
	}{
		{"file", []treeItem{file}, func(s *shop, dir string) error { return getFrom(s, dir, false, io.Discard) }, 3},
		{"file in a tree", []treeItem{file}, getLone, 5},
		{"tree", goods(t), func(s *shop, dir string) error { return getFrom(s, dir, false, io.Discard) }, 1},
	} {
		var total int64
		for _, i := range c.all {
			total += i.Entry.Size
		}
		for _, kill := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, killed %v", c.name, kill), func(t *testing.T) {
				t.Parallel()
				most := int64(0)
				for n := 1; ; n += c.step {
					what := fmt.Sprintf("event %d", n)
					first, again := t.TempDir(), t.TempDir()
					s := &shop{all: c.all, id: "1"}
					over := true
					s.during = func(event int) error {
						if event < n {
							return nil
						}
						over = false
						if kill {
							copyDir(t, first, again)
						}
						return errTorn
					}
					err := c.get(s, first)
					if over {
						_ = removeTree(first)
						break
					}
					if !errors.Is(err, errTorn) {
						t.Fatalf("%s: got %v, want that it ended", what, err)
					}
					if !kill {
						again = first
					}
					if names, _ := filepath.Glob(filepath.Join(again, "[^.]*")); len(names) > 0 {
						t.Fatalf("%s: got %v of what is not whole", what, names)
					}
					s.during = nil
					if err := c.get(s, again); err != nil {
						t.Fatalf("%s: again: got %v", what, err)
					}
					isWhole(t, what, again, c.all)
					twice := s.sent - total
					most = max(most, twice)
					bound := int64(0)
					if kill {
						bound = 2*flushTest + pieceLen
					}
					if twice > bound {
						t.Errorf("%s: %d of %d bytes were sent twice, want at most %d", what, twice, total, bound)
					}
					_ = removeTree(first)
					_ = removeTree(again)
				}
				t.Logf("at most %d of %d bytes were sent twice", most, total)
			})
		}
	}
}

// endedAt gives a directory in which a get of s ended at an event.
func endedAt(t *testing.T, s *shop, event int) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() { _ = removeTree(filepath.Join(dir, ".r"+partSuffix)); _ = removeTree(filepath.Join(dir, "r")) })
	s.during = func(n int) error {
		if n == event {
			return errTorn
		}
		return nil
	}
	var said strings.Builder
	if err := getFrom(s, dir, false, &said); !errors.Is(err, errTorn) {
		t.Fatalf("got %v, want that it ended", err)
	}
	if !strings.Contains(said.String(), "the same command goes on") {
		t.Errorf("got %q, want to be told how to go on", said.String())
	}
	s.during, s.sent, s.events = nil, 0, 0
	return dir
}

func TestWhatIsNotAsItWasIsMadeAnew(t *testing.T) {
	t.Parallel()
	file := fileItem("r", noise(9, 40_500))
	file.Path = ""
	tree := goods(t)
	const event = 30
	part, state := "."+"r"+partSuffix, "."+"r"+stateSuffix
	for _, c := range []struct {
		name string
		do   func(in func(string) string) error
		file bool // of a file too
		all  bool // all is sent again
	}{
		{name: "nothing", do: func(func(string) string) error { return nil }, file: true},
		{name: "state gone", do: func(in func(string) string) error { return os.Remove(in(state)) }, file: true, all: true},
		{name: "state empty", do: func(in func(string) string) error { return os.Truncate(in(state), 0) }, file: true, all: true},
		{name: "state is rubbish", do: func(in func(string) string) error { return os.WriteFile(in(state), []byte(noise(1, 9999)), 0o600) }, file: true, all: true},
		{name: "the last line of the state is torn", do: func(in func(string) string) error {
			b, err := os.ReadFile(in(state))
			return errors.Join(err, os.Truncate(in(state), int64(len(b)-9)))
		}, file: true},
		{name: "rubbish behind the state", do: func(in func(string) string) error {
			f, err := os.OpenFile(in(state), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("0123456789abcdef {\"offset\":99999}\n")
			return errors.Join(err, f.Close())
		}, file: true},
		{name: "partial gone", do: func(in func(string) string) error { return removeTree(in(part)) }, file: true, all: true},
		{name: "partial is something else", do: func(in func(string) string) error {
			return errors.Join(removeTree(in(part)), os.Symlink("..", in(part)))
		}, file: true, all: true},
		{name: "a file has another time", do: func(in func(string) string) error {
			return os.Chtimes(in(part+"/a/three"), time.Time{}, time.Now())
		}},
		{name: "a file has another size", do: func(in func(string) string) error { return os.Truncate(in(part+"/a/three"), 5) }},
		{name: "a file is a link", do: func(in func(string) string) error {
			return errors.Join(os.Remove(in(part+"/a/three")), os.Symlink("/etc/passwd", in(part+"/a/three")))
		}},
		{name: "a directory is a link", do: func(in func(string) string) error {
			return errors.Join(os.Rename(in(part+"/a"), in(part+"/x")), os.Symlink("x", in(part+"/a")), removeTree(in(part+"/x")))
		}, all: true},
		{name: "the file that was being written is shorter", do: func(in func(string) string) error { return os.Truncate(in(part+"/b/big"), 5) }},
		{name: "the file that was being written is gone", do: func(in func(string) string) error { return os.Remove(in(part + "/b/big")) }},
	} {
		for _, all := range [][]treeItem{tree, {file}} {
			if all[0].Entry.Kind == volume.FileEntry && !c.file {
				continue
			}
			t.Run(fmt.Sprintf("%s, of %d", c.name, len(all)), func(t *testing.T) {
				t.Parallel()
				s := &shop{all: all, id: "1"}
				dir := endedAt(t, s, event)
				must(t, c.do(func(name string) string { return filepath.Join(dir, name) }))
				must(t, getFrom(s, dir, false, io.Discard))
				isWhole(t, c.name, dir, all)
				var total int64
				for _, i := range all {
					total += i.Entry.Size
				}
				if (s.sent == total) != c.all {
					t.Errorf("got %d of %d bytes sent again", s.sent, total)
				}
			})
		}
	}
}

func TestAnotherContentBeginsAnew(t *testing.T) {
	t.Parallel()
	file := fileItem("r", noise(9, 40_500))
	file.Path = ""
	other := fileItem("r", noise(10, 30_000))
	other.Path = ""
	tree := goods(t)
	for _, c := range [][2][]treeItem{{{file}, {other}}, {{file}, tree}, {tree, {file}}, {tree, slices.Concat(tree[:2], tree[len(tree)-1:])}} {
		s := &shop{all: c[0], id: "1"}
		dir := endedAt(t, s, 25)
		t.Cleanup(func() { _ = removeTree(filepath.Join(dir, "r")) })
		n := &shop{all: c[1], id: "2"}
		if err := getFrom(n, dir, false, io.Discard); err != nil {
			t.Fatal(err)
		}
		if len(c[1]) == len(tree) || len(c[1]) == 1 {
			isWhole(t, "another content", dir, c[1])
		}
		if names, _ := os.ReadDir(dir); len(names) != 1 {
			t.Errorf("got %v, want nothing but what was asked for", names)
		}
	}
	// It changes between the look and the get, as what is in a volume may.
	s := &shop{all: []treeItem{file}, id: "1"}
	dir := endedAt(t, s, 25)
	changing := &shiftyShop{shop: &shop{all: []treeItem{file}, id: "1"}, then: &shop{all: []treeItem{other}, id: "2"}}
	tg, err := newTarget(dir, false)
	must(t, err)
	_, err = (&app{stdout: io.Discard, stderr: &errWriter{w: io.Discard}}).fetch(t.Context(), changing, node.GetRequest{Length: -1}, tg)
	must(t, err)
	isWhole(t, "changed meanwhile", dir, []treeItem{other})
}

// shiftyShop has something else from the second call on.
type shiftyShop struct {
	*shop

	calls int
	then  *shop
}

func (s *shiftyShop) Get(ctx context.Context, q node.GetRequest, begin func(node.FileInfo) (io.Writer, error), p func(node.Progress)) error {
	if s.calls++; s.calls > 1 {
		return s.then.Get(ctx, q, begin, p)
	}
	return s.shop.Get(ctx, q, begin, p)
}

func TestNodesOfAnEarlierVersionSendAll(t *testing.T) {
	t.Parallel()
	tree := goods(t)
	s := &shop{all: tree, id: "1"}
	dir := endedAt(t, s, 30)
	// It has no IDs: what there is stays for one that has.
	s.old = true
	must(t, getFrom(s, dir, false, io.Discard))
	if names, _ := os.ReadDir(dir); len(names) != 3 {
		t.Errorf("got %v, want the tree and what there was", names)
	}
	// One that has, and yet sends all.
	must(t, removeTree(filepath.Join(dir, "r")))
	must(t, getFrom2(&allShop{&shop{all: tree, id: "1"}}, dir))
	isWhole(t, "a node that sends all", dir, tree)
}

// allShop sends all, whatever it is asked for.
type allShop struct{ *shop }

func (s *allShop) GetTree(ctx context.Context, q node.GetRequest, sink node.TreeSink, p func(node.Progress)) error {
	q.After, q.Offset = "", 0
	return s.shop.GetTree(ctx, q, sink, p)
}

func getFrom2(api control.API, dir string) error {
	t, err := newTarget(dir, false)
	if err != nil {
		return err
	}
	return (&app{stdout: io.Discard, stderr: &errWriter{w: io.Discard}}).getTree(context.Background(), api, node.GetRequest{Length: -1}, t)
}

func TestTwoGetsDoNotWriteIntoEachOther(t *testing.T) {
	t.Parallel()
	for _, all := range [][]treeItem{goods(t), {func() treeItem { f := fileItem("r", noise(9, 40_500)); f.Path = ""; return f }()}} {
		dir := t.TempDir()
		t.Cleanup(func() { _ = removeTree(filepath.Join(dir, "r")) })
		s := &shop{all: all, id: "1"}
		s.during = func(event int) error {
			if event != 20 {
				return nil
			}
			err := getFrom(&shop{all: all, id: "1"}, dir, true, io.Discard)
			if err == nil || !strings.Contains(err.Error(), "another get is writing to "+filepath.Join(dir, "r")) || node.HintOf(err) == "" {
				t.Errorf("got %v, hint %q, want that another get writes there", err, node.HintOf(err))
			}
			return nil
		}
		must(t, getFrom(s, dir, false, io.Discard))
		isWhole(t, "the first", dir, all)
	}
}

func TestAStateThatIsRemovedIsNotTaken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	for range 50 {
		f, err := lockState(path)
		must(t, err)
		if _, err := lockState(path); !errors.Is(err, errLocked) {
			t.Fatalf("got %v, want %v", err, errLocked)
		}
		done := make(chan *os.File)
		go func() {
			for {
				if g, err := lockState(path); err == nil {
					done <- g
					return
				}
			}
		}()
		p := &partial{state: f}
		p.dropState()
		g := <-done
		if i, err := os.Lstat(path); err != nil {
			t.Fatalf("got a lock of what is gone: %v", err)
		} else if now, err := g.Stat(); err != nil || !os.SameFile(i, now) {
			t.Fatalf("got a lock of another file, %v", err)
		}
		_ = g.Close()
	}
}

// Names that are known beforehand are names that others can take: nothing is
// written where they lead.
func TestNothingIsWrittenThroughALinkInThePartialsPlace(t *testing.T) {
	t.Parallel()
	file := fileItem("r", noise(9, 40_500))
	file.Path = ""
	for _, all := range [][]treeItem{goods(t), {file}} {
		for _, name := range []string{".r" + partSuffix, ".r" + stateSuffix} {
			for how, link := range map[string]func(to, at string) error{"symbolic": os.Symlink, "hard": os.Link} {
				dir, precious := t.TempDir(), filepath.Join(t.TempDir(), "precious")
				t.Cleanup(func() { _ = removeTree(filepath.Join(dir, "r")) })
				must(t, os.WriteFile(precious, []byte("precious"), 0o600), link(precious, filepath.Join(dir, name)))
				must(t, getFrom(&shop{all: all, id: "1"}, dir, false, io.Discard))
				if b, err := os.ReadFile(precious); string(b) != "precious" {
					t.Errorf("%s link at %s: got %q, %v, want what was there", how, name, b, err)
				}
				_ = os.Remove(filepath.Join(dir, name))
				isWhole(t, how, dir, all)
			}
		}
	}
}

func TestLittleIsNotKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := &shop{all: goods(t), id: "1", during: func(n int) error {
		if n == 30 {
			return errTorn
		}
		return nil
	}}
	var said strings.Builder
	tg, err := newTarget(dir, false)
	must(t, err)
	tg.flushLen = flushTest
	a := &app{stdout: io.Discard, stderr: &errWriter{w: &said}}
	if err := a.getTree(t.Context(), s, node.GetRequest{Length: -1}, tg); !errors.Is(err, errTorn) {
		t.Errorf("got %v, want that it ended", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 || said.Len() > 0 {
		t.Errorf("got %v, %v, and %q, want nothing", names, err, said.String())
	}
}

func TestLongNamesHavePartialsToo(t *testing.T) {
	t.Parallel()
	f := fileItem(strings.Repeat("n", 255), noise(9, 40_500))
	f.Path = ""
	dir := t.TempDir()
	s := &shop{all: []treeItem{f}, id: "1", during: func(n int) error { return errTorn }}
	s.during = func(n int) error {
		if n == 25 {
			return errTorn
		}
		return nil
	}
	if err := getFrom(s, dir, false, io.Discard); !errors.Is(err, errTorn) {
		t.Fatalf("got %v, want that it ended", err)
	}
	s.during = nil
	must(t, getFrom(s, dir, false, io.Discard))
	isWhole(t, "a long name", dir, s.all)
	if s.sent != f.Entry.Size {
		t.Errorf("got %d bytes sent, want %d", s.sent, f.Entry.Size)
	}
}

func TestForceReplacesWhenAllIsThere(t *testing.T) {
	t.Parallel()
	f := fileItem("r", noise(9, 40_500))
	f.Path = ""
	s := &shop{all: []treeItem{f}, id: "1"}
	dir := endedAt(t, s, 25)
	path := filepath.Join(dir, "r")
	must(t, os.WriteFile(path, []byte("old"), 0o600))
	if err := getFrom(s, dir, false, io.Discard); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("got %v, want that it exists", err)
	}
	s.during = func(n int) error { return errTorn }
	if err := getFrom(s, dir, true, io.Discard); !errors.Is(err, errTorn) {
		t.Errorf("got %v, want that it ended", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "old" {
		t.Errorf("got %d bytes of a get that is not whole", len(b))
	}
	s.during = nil
	must(t, getFrom(s, dir, true, io.Discard))
	isWhole(t, "with force", dir, s.all)
	if s.sent != f.Entry.Size-25*pieceLen {
		t.Errorf("got %d bytes sent, want %d", s.sent, f.Entry.Size-25*pieceLen)
	}
}

func TestALargeGetIsSyncedOnItsWay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tg, err := newTarget(dir, false)
	must(t, err)
	must(t, tg.named("f"), tg.create(node.FileInfo{Name: "f", ID: "1"}, mark{}, false))
	piece := []byte(strings.Repeat("p2pfs...", 1<<16))
	for done := 0; done < 4*flushLen; done += len(piece) {
		if _, err := tg.Write(piece); err != nil {
			t.Fatal(err)
		}
		if tg.part.running == nil && done > flushLen {
			t.Fatal("no sync began")
		}
		// One sync is under way at most, so what is not durable is bounded.
		if tg.part.pending > flushLen {
			t.Fatalf("%d bytes are written and no sync has begun", tg.part.pending)
		}
	}
	must(t, tg.part.wait())
	if m := tg.part.mark; tg.written-m.Offset > 2*flushLen || m.Offset == 0 {
		t.Errorf("%d of %d bytes are durable", m.Offset, tg.written)
	}
	written := tg.written
	must(t, tg.finish(node.FileInfo{Mode: 0o600}))
	if i, err := os.Stat(filepath.Join(dir, "f")); err != nil || i.Size() != written {
		t.Errorf("got %v, %v; want %d bytes", i, err, written)
	}
}

func TestStateIsReadAsFarAsItIsWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p, err := openPartial(dir, "f")
	must(t, err)
	p.of("one")
	for i := range int64(20) {
		must(t, p.record(mark{After: "a/\xff\n" + noise(uint64(i), 10), Offset: i, Bytes: 100 + i}))
	}
	must(t, p.record(mark{After: strings.Repeat("x", maxAfter+1), Bytes: 1000})) // is too long to be asked for
	want := p.mark
	must(t, p.state.Close())
	name := filepath.Join(dir, "."+"f"+stateSuffix)
	b, err := os.ReadFile(name)
	must(t, err)
	last := mark{}
	for n := range len(b) + 1 {
		must(t, os.WriteFile(name, b[:n], 0o600))
		p, err := openPartial(dir, "f")
		must(t, err)
		if p.mark.Bytes < last.Bytes {
			t.Fatalf("%d bytes of the state: got %+v after %+v", n, p.mark, last)
		}
		last = p.mark
		must(t, p.state.Close())
	}
	if last != want || want.Offset != 19 {
		t.Errorf("got %+v, want %+v", last, want)
	}
	sum := sha256.Sum256([]byte("x"))
	if got := stateSum([]byte("x")); got != hex.EncodeToString(sum[:8]) {
		t.Errorf("got sum %s", got)
	}
}
