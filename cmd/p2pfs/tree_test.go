package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// A treeItem is an item of a tree in a test, with its content.
type treeItem struct {
	node.Item
	content string
}

// takeAll reads a source; files that are left out are not there.
func takeAll(ctx context.Context, src node.TreeSource) ([]treeItem, error) {
	var all []treeItem
	for {
		item, r, err := src.Next(ctx)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		var b []byte
		if r != nil {
			if b, err = io.ReadAll(r); errors.Is(err, node.ErrLeftOut) {
				continue
			} else if err != nil {
				return all, err
			}
		}
		all = append(all, treeItem{item, string(b)})
	}
}

// give sends items to a sink.
func give(sink node.TreeSink, all []treeItem) error {
	for _, i := range all {
		w, err := sink.Take(i.Item)
		if err != nil {
			return err
		}
		if w != nil {
			if _, err := io.WriteString(w, i.content); err != nil {
				return err
			}
		}
	}
	return nil
}

// extract makes items in dir, under the name of their root or, with name, that.
func extract(t *testing.T, dir, name string, force, asRoot bool, all []treeItem) (*extraction, error) {
	t.Helper()
	out := dir
	if name != "" {
		out = filepath.Join(dir, name)
	}
	tg, err := newTarget(out, force)
	if err != nil {
		return nil, err
	}
	x := &extraction{t: tg, asRoot: asRoot, tell: func(string, error) {}}
	defer x.discard()
	all = slices.Clone(all)
	if len(all) > 0 {
		all[0].ID = "of all"
	}
	if err = give(x, all); err == nil {
		err = x.finish()
	}
	if err != nil {
		x.discard()
		(&app{stderr: &errWriter{w: io.Discard}}).keep(tg, err)
	}
	return x, err
}

func walkAll(t *testing.T, path string, x *excludes) ([]treeItem, *walker) {
	t.Helper()
	w, err := newWalker(path, x)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	all, err := takeAll(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	return all, w
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600), os.Chmod(path, mode))
}

// holey is content that begins and ends with holes.
var holey = strings.Repeat("\x00", 5000) + "data" + strings.Repeat("\x00", 1<<20)

// someDir makes a directory with one of each.
func someDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	in := func(name string) string { return filepath.Join(dir, name) }
	write(t, in("a/b/deep"), "deep", 0o640)
	write(t, in("a.b"), strings.Repeat("x", 3<<20), 0o755)
	write(t, in("empty"), "", 0o400)
	must(t, os.Mkdir(in("none"), 0o755))
	if runtime.GOOS == "windows" {
		return dir
	}
	must(t,
		os.Symlink("../outside", in("link")), os.Symlink("a", in("linkdir")), os.Link(in("a.b"), in("z")),
		os.Chmod(in("none"), os.ModeSticky|0o755), os.Chmod(in("a/b"), 0o500),
		os.Chtimes(in("a.b"), time.Time{}, time.Unix(1e9, 123456789)))
	write(t, in("new\nline"), "n", 0o600)
	if runtime.GOOS == "linux" {
		write(t, in("\xff\xfe"), "not UTF-8", 0o600)
		f, err := os.Create(in("holes"))
		must(t, err)
		_, err = f.WriteAt([]byte("data"), 5000)
		must(t, err, f.Truncate(int64(len(holey))), f.Close())
	}
	must(t, os.Chtimes(in("a/b"), time.Time{}, time.Unix(5, 7)), os.Chtimes(in("a"), time.Time{}, time.Unix(6, 8)),
		os.Chtimes(dir, time.Time{}, time.Unix(9, 10)))
	t.Cleanup(func() { _ = os.Chmod(in("a/b"), 0o700) })
	return dir
}

func TestTreeOnDiskIsTheSameAfterPutAndGet(t *testing.T) {
	t.Parallel()
	want, w := walkAll(t, someDir(t), nil)
	if w.partial() > 0 {
		t.Fatalf("%d left out", w.partial())
	}
	var order []string
	for _, i := range want {
		order = append(order, i.Path)
	}
	if got := order[:5]; !slices.Equal(got, []string{"", "a", "a/b", "a/b/deep", "a.b"}) {
		t.Errorf("got %q", got)
	}
	out := t.TempDir()
	x, err := extract(t, out, "", false, os.Geteuid() == 0, want)
	must(t, err)
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(out, "tree/a/b"), 0o700) })
	again, _ := walkAll(t, x.t.path, nil)
	if len(again) != len(want) {
		t.Fatalf("got %d items, want %d", len(again), len(want))
	}
	groups := map[uint64]uint64{0: 0}
	for i, g := range again {
		wi := want[i]
		if g.content != wi.content {
			t.Errorf("%q: got other content", g.Path)
		}
		if to, seen := groups[wi.Entry.Group]; seen && to != g.Entry.Group {
			t.Errorf("%q: is not the same file as it was", g.Path)
		}
		groups[wi.Entry.Group] = g.Entry.Group
		g.Entry.Group, wi.Entry.Group = 0, 0
		g.Entry.Inode, wi.Entry.Inode = 0, 0
		// A disk need not keep holes, or times of links.
		g.Entry.Sparse, wi.Entry.Sparse = false, false
		if runtime.GOOS != "linux" && g.Entry.Kind == volume.SymlinkEntry {
			g.Entry.MTime = wi.Entry.MTime
		}
		if runtime.GOOS == "windows" {
			g.Entry.MTime, g.Entry.Mode = wi.Entry.MTime, wi.Entry.Mode
		}
		if got, want := fmt.Sprintf("%+v", g.Item), fmt.Sprintf("%+v", wi.Item); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if all, err := os.ReadDir(out); err != nil || len(all) != 1 {
		t.Errorf("got %v, %v; want the tree alone", all, err)
	}
}

func TestWhatIsExcludedIsNotPut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, n := range []string{"a.o", "build/x", "build/keep", "src/build/y", "src/b.o", "src/b.c"} {
		write(t, filepath.Join(dir, n), "x", 0o600)
	}
	var x excludes
	must(t, x.Set("*.o"), x.Set("/build/"), x.Set("!keep"))
	all, w := walkAll(t, dir, &x)
	var got []string
	for _, i := range all {
		got = append(got, i.Path)
	}
	if want := []string{"", "src", "src/b.c", "src/build", "src/build/y"}; !slices.Equal(got, want) || w.partial() != 0 {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFilesThatChangeAreLeftOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, n := range []string{"grows", "same", "shrinks"} {
		write(t, filepath.Join(dir, n), "0123456789", 0o600)
	}
	write(t, filepath.Join(dir, "vanishes"), "x", 0o600)
	w, err := newWalker(dir, nil)
	must(t, err)
	defer w.close()
	var told []string
	w.tell = func(path string, _ error) { told = append(told, filepath.Base(path)) }
	must(t, os.Remove(filepath.Join(dir, "vanishes")))
	left := 0
	for {
		item, r, err := w.Next(t.Context())
		if err == io.EOF {
			break
		}
		must(t, err)
		if r == nil {
			continue
		}
		path := filepath.Join(dir, item.Path)
		switch item.Path {
		case "grows":
			must(t, os.WriteFile(path, []byte("0123456789a"), 0o600))
		case "shrinks":
			must(t, os.Truncate(path, 3))
		}
		_, err = io.ReadAll(r)
		if errors.Is(err, node.ErrLeftOut) {
			left++
			_, err = io.ReadAll(r) // tells once
		}
		if (err != nil) != (item.Path != "same") {
			t.Errorf("%s: got %v", item.Path, err)
		}
	}
	if want := []string{"grows", "shrinks", "vanishes"}; !slices.Equal(told, want) || left != 2 || w.partial() != 3 {
		t.Errorf("got %q, %d in mid-content; want %q, 2", told, left, want)
	}
}

func item(kind volume.EntryKind, path, content string) treeItem {
	return treeItem{node.Item{Path: path, Entry: volume.Entry{
		Kind: kind, Name: path[strings.LastIndexByte(path, '/')+1:], Mode: 0o755, UID: volume.NoOwner, GID: volume.NoOwner,
		MTime: fakeTime, Size: int64(len(content)),
	}}, content}
}

func dirItem(path string) treeItem           { return item(volume.DirEntry, path, "") }
func fileItem(path, content string) treeItem { return item(volume.FileEntry, path, content) }

func linkItem(path, target string) treeItem {
	i := item(volume.SymlinkEntry, path, "")
	i.Entry.Target = target
	return i
}

// rootItem is a root called r.
func rootItem() treeItem {
	i := dirItem("r")
	i.Path = ""
	return i
}

func TestHostileTreesWriteNothingOutside(t *testing.T) {
	t.Parallel()
	named := func(i treeItem, name string) treeItem { i.Entry.Name = name; return i }
	file := func(path string) treeItem { return fileItem(path, "evil") }
	short := fileItem("a", "1234")
	short.Entry.Size = 5
	long := fileItem("a", "1234")
	long.Entry.Size = 3
	root := rootItem()
	for name, all := range map[string][]treeItem{
		"nothing":                     {},
		"no root":                     {file("a")},
		"two roots":                   {root, root},
		"a root that leads up":        {named(root, "..")},
		"a root with a slash":         {named(root, "../evil")},
		"up":                          {root, file("../evil")},
		"up, by name":                 {root, file("..")},
		"up, after down":              {root, dirItem("a"), file("a/../evil")},
		"absolute":                    {root, file("/evil")},
		"a name of more":              {root, named(file("a"), "b")},
		"a name with a slash":         {root, named(file("a/b"), "a/b")},
		"a zero byte":                 {root, file("a\x00b")},
		"empty names":                 {root, dirItem("a"), file("a//b")},
		"a slash behind":              {root, file("a/")},
		"below what is not there":     {root, file("a/b")},
		"below a file":                {root, file("a"), file("a/b")},
		"below a symbolic link":       {root, linkItem("a", ".."), file("a/evil")},
		"through a symbolic link":     {root, linkItem("a", "../evil"), file("a")},
		"a directory over a link":     {root, linkItem("a", ".."), dirItem("a"), file("a/evil")},
		"twice":                       {root, file("a"), file("a")},
		"not in order":                {root, file("b"), file("a")},
		"back into what is over":      {root, dirItem("a"), dirItem("b"), file("a/c")},
		"more than one":               {named(file(""), "f"), file("a")},
		"a link to nothing":           {root, linkItem("a", "")},
		"a kind that is none":         {root, item(99, "a", "")},
		"less content than was said":  {root, short},
		"more content than was said":  {root, long},
		"less content, then another":  {root, short, file("b")},
		"a name that is only a point": {root, file(".")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "in", "out")
			must(t, os.MkdirAll(dir, 0o755))
			if _, err := extract(t, dir, "", false, false, all); err == nil {
				t.Error("got no error, want one")
			}
			for d := dir; filepath.Base(d) != "in"; d = filepath.Dir(d) {
				if all, err := os.ReadDir(d); err != nil || len(all) != 0 {
					t.Errorf("%s: got %v, %v; want nothing", d, all, err)
				}
			}
			if all, _ := os.ReadDir(filepath.Dir(dir)); len(all) != 1 {
				t.Errorf("beside it: got %v", all)
			}
		})
	}
}

func TestTargetsOfTreesAreReplacedAsAWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tree := func(name string) []treeItem { return []treeItem{rootItem(), fileItem(name, name)} }
	_, err := extract(t, dir, "", false, false, tree("one"))
	must(t, err)
	holds(t, filepath.Join(dir, "r"), "one", "one")
	if _, err := extract(t, dir, "", false, false, tree("two")); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("got %v, want that it exists", err)
	}
	holds(t, filepath.Join(dir, "r"), "one", "one")
	_, err = extract(t, dir, "", true, false, tree("two"))
	must(t, err)
	holds(t, filepath.Join(dir, "r"), "two", "two")
	// One that fails leaves what was there.
	if _, err := extract(t, dir, "", true, false, append(tree("three"), fileItem("a", ""))); err == nil {
		t.Error("got no error, want one")
	}
	holds(t, filepath.Join(dir, "r"), "two", "two")
	// A file by a file, but none by a directory, nor a directory by a file.
	lone := fileItem("", "lone")
	lone.Entry.Name = "f"
	for _, force := range []bool{false, true} {
		_, err = extract(t, dir, "", force, false, []treeItem{lone})
		must(t, err)
		if _, err := extract(t, dir, "f", force, false, tree("x")); err == nil {
			t.Error("a directory in the place of a file: got no error")
		}
		lone.Entry.Name = "r"
		if _, err := extract(t, dir, "", force, false, []treeItem{lone}); err == nil {
			t.Error("a file in the place of a directory: got no error")
		}
		lone.Entry.Name = "f"
	}
	all, err := os.ReadDir(dir)
	if err != nil || len(all) != 2 {
		t.Errorf("got %v, %v; want f and r", all, err)
	}
}

func TestRightsOfOthersAreRootsToGive(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no modes")
	}
	f := fileItem("f", "x")
	f.Entry.Mode, f.Entry.UID = 0o6751, 12345
	dev := item(volume.CharEntry, "null", "")
	dev.Entry.Device = 1<<8 | 3
	dir := t.TempDir()
	x, err := extract(t, dir, "", false, false, []treeItem{rootItem(), f, dev})
	must(t, err)
	i, err := os.Lstat(filepath.Join(dir, "r/f"))
	must(t, err)
	if got := unixMode(i.Mode()); got != 0o751 {
		t.Errorf("got mode %o, want 751", got)
	}
	if _, err := os.Lstat(filepath.Join(dir, "r/null")); err == nil || x.leftOut != 1 {
		t.Errorf("device: got %v, %d left out; want it left out", err, x.leftOut)
	}
	if os.Geteuid() != 0 {
		return
	}
	_, err = extract(t, dir, "", true, true, []treeItem{rootItem(), f})
	must(t, err)
	all, _ := walkAll(t, filepath.Join(dir, "r"), nil)
	if e := all[1].Entry; e.Mode != 0o6751 || e.UID != 12345 {
		t.Errorf("as root: got mode %o of %d, want 6751 of 12345", e.Mode, e.UID)
	}
}

func TestModesOfLs(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]volume.Entry{
		"drwxr-xr-x": {Kind: volume.DirEntry, Mode: 0o755},
		"-rw-r-----": {Kind: volume.FileEntry, Mode: 0o640},
		"lrwxrwxrwx": {Kind: volume.SymlinkEntry, Mode: 0o777},
		"prwsr-sr-t": {Kind: volume.FifoEntry, Mode: 0o7755},
		"c--S--S--T": {Kind: volume.CharEntry, Mode: 0o7000},
		"b---------": {Kind: volume.BlockEntry},
	} {
		if got := lsMode(e.Kind, e.Mode); got != want {
			t.Errorf("%o: got %s, want %s", e.Mode, got, want)
		}
	}
}

func TestOddThingsInATreeArePutOrTold(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("of sockets, pipes and devices as Linux has them")
	}
	dir := filepath.Join(t.TempDir(), "d")
	write(t, filepath.Join(dir, "f"), "x", 0o600)
	must(t, os.Symlink("d", dir+"link"))
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unix"})
	must(t, err)
	defer ln.Close()
	fifo := item(volume.FifoEntry, "pipe", "")
	attr := fileItem("x", "1")
	attr.Entry.Xattrs = []volume.Xattr{{Name: []byte("user.a"), Value: []byte("1")}, {Name: []byte("user.b"), Value: []byte("\xff\x00")}}
	_, err = extract(t, dir, "", false, false, []treeItem{rootItem(), fifo, attr})
	must(t, err)

	w, err := newWalker(dir+"link", nil)
	must(t, err)
	defer w.close()
	var said []string
	w.say = func(path, _ string) { said = append(said, filepath.Base(path)) }
	all, err := takeAll(t.Context(), w)
	must(t, err)
	var got []string
	for _, i := range all {
		got = append(got, i.Path)
		if i.Path == "r/pipe" && i.Entry.Kind != volume.FifoEntry {
			t.Errorf("pipe: got kind %d", i.Entry.Kind)
		}
		if i.Path == "r/x" && len(i.Entry.Xattrs) > 0 && fmt.Sprint(i.Entry.Xattrs) != fmt.Sprint(attr.Entry.Xattrs) {
			t.Errorf("attributes: got %q, want %q", i.Entry.Xattrs, attr.Entry.Xattrs)
		}
	}
	if want := []string{"", "f", "r", "r/pipe", "r/x"}; !slices.Equal(got, want) || all[0].Entry.Name != "dlink" || w.partial() > 0 {
		t.Errorf("got %q of %q, %d left out; want %q", got, all[0].Entry.Name, w.partial(), want)
	}
	if !slices.Equal(said, []string{"socket"}) {
		t.Errorf("got a word of %q, want one of the socket", said)
	}
}

func TestDirectoriesThatCannotBeReadAreLeftOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "closed/f"), "x", 0o600)
	write(t, filepath.Join(dir, "secret"), "x", 0)
	must(t, os.Chmod(filepath.Join(dir, "closed"), 0))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "closed"), 0o700) })
	all, w := walkAll(t, dir, nil)
	items, left := 1, 2
	if runtime.GOOS == "windows" || os.Geteuid() == 0 { // to whom nothing is closed
		items, left = 4, 0
	}
	if len(all) != items || w.partial() != left {
		t.Errorf("got %d items, %d left out; want %d and %d", len(all), w.partial(), items, left)
	}
}
