package volume

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// spec is a tree in short: files by their content, "dir" for a directory, and what
// begins with "->" is a symbolic link. Directories above are understood.
type spec map[string]string

func (s spec) leaves() []leaf {
	m := modelOf([]leaf{aDir("")})
	for path, what := range s {
		for p := above(path); p != ""; p = above(p) {
			m[p] = aDir(p)
		}
		switch {
		case what == "dir":
			m[path] = aDir(path)
		case strings.HasPrefix(what, "->"):
			m[path] = leaf{path: path, e: Entry{Kind: SymlinkEntry, Name: baseOf(path), Mode: 0o777, Target: what[2:]}}
		default:
			m[path] = aFile(path, []byte(what))
		}
	}
	return m.leaves()
}

// specOf is what specs are of.
func specOf(leaves []leaf) spec {
	s := make(spec)
	for _, l := range leaves {
		switch l.e.Kind {
		case FileEntry:
			s[l.path] = string(l.data)
		case SymlinkEntry:
			s[l.path] = "->" + l.e.Target
		default:
			if len(modelOf(leaves).under(l.path)) == 1 && l.path != "" {
				s[l.path] = "dir"
			}
		}
	}
	return s
}

func treeOf(t testing.TB, p *packs, s spec) *File {
	t.Helper()
	if s == nil {
		return nil
	}
	l, _, _ := writeTree(t, p, s.leaves(), Options{})
	return openTree(t, p, l)
}

var mergedAt = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func fromBob(name string) string { return ConflictName(name, "bob", mergedAt) }

const bobs = " (conflict bob 2026-11-29)"

// merge merges, writes and reads.
func merge(t testing.TB, p *packs, base, ours, theirs *File) (*File, []string, bool) {
	t.Helper()
	d, conflicts, err := Merge(context.Background(), base, ours, theirs, fromBob)
	if err != nil {
		t.Fatal(err)
	}
	f := commitDraft(t, p, d)
	f.src = p
	return f, conflicts, d.Changed()
}

func readSpec(t testing.TB, f *File) spec {
	t.Helper()
	leaves, err := readTree(f, 0)
	if err != nil {
		t.Fatal(err)
	}
	return specOf(leaves)
}

// TestMergeOfEachName merges all that can be of a name on three sides.
func TestMergeOfEachName(t *testing.T) {
	states := map[string]spec{
		"nothing": {}, "x": {"n": "x"}, "y": {"n": "y"}, "z": {"n": "z"}, "link": {"n": "->x"}, "other link": {"n": "->y"},
		"empty dir": {"n": "dir"}, "dir": {"n/in": "x", "n/ours": "o"}, "other dir": {"n/in": "y", "n/theirs": "t"},
	}
	with := func(s spec) spec { // more, or there would be no directory
		s = maps.Clone(s)
		s["m"] = "m"
		return s
	}
	p := newPacks()
	trees := make(map[string]*File)
	for name, s := range states {
		trees[name] = treeOf(t, p, with(s))
	}
	dir := func(name string) bool { return strings.Contains(name, "dir") }
	for b := range states {
		for o := range states {
			for u := range states {
				want, conflicts := with(states[o]), []string(nil)
				switch {
				case o == u, b == u:
				case b == o:
					want = with(states[u])
				case u == "nothing":
				case o == "nothing":
					want = with(states[u])
				case dir(o) && dir(u):
					was := states["empty dir"]
					if dir(b) {
						was = states[b]
					}
					want, conflicts = mergedDirs(was, states[o], states[u])
				default:
					for path, what := range states[u] {
						want["n"+bobs+strings.TrimPrefix(path, "n")] = what
					}
					conflicts = []string{"n" + bobs}
				}
				f, got, _ := merge(t, p, trees[b], trees[o], trees[u])
				if s := readSpec(t, f); !maps.Equal(s, want) || !slices.Equal(got, conflicts) {
					t.Errorf("%s, ours %s, theirs %s: got %v, %q, want %v, %q", b, o, u, s, got, want, conflicts)
				}
			}
		}
	}
}

// mergedDirs merges directories that have files at most, in which two have the
// same name at most once.
func mergedDirs(base, ours, theirs spec) (spec, []string) {
	out, conflicts := spec{"m": "m"}, []string(nil)
	for path := range mergeKeys(base, ours, theirs) {
		b, o, u := base[path], ours[path], theirs[path]
		switch {
		case path == "n":
		case o == u, b == u, u == "" && b != o:
			out[path] = o
		case b == o, o == "":
			out[path] = u
		default:
			out[path], out[path+bobs] = o, u
			conflicts = append(conflicts, path+bobs)
		}
		if out[path] == "" {
			delete(out, path)
		}
	}
	if len(out) == 1 {
		out["n"] = "dir"
	}
	return out, conflicts
}

func mergeKeys(of ...spec) spec {
	all := make(spec)
	for _, s := range of {
		maps.Copy(all, s)
	}
	return all
}

func TestMergeKeepsBoth(t *testing.T) {
	long := strings.Repeat("n", MaxName)
	longExt := strings.Repeat("n", MaxName-4) + ".txt"
	umlauts := strings.Repeat("ü", MaxName/2) // 254 bytes
	bad := strings.Repeat("\x80", MaxName)
	cut := func(name string, n int) string { return clip(name, MaxName-n) }
	two := bobs + " 2"
	for name, c := range map[string]struct {
		base, ours, theirs, want spec
		conflicts                []string
	}{
		"extension":     {spec{}, spec{"a.txt": "1"}, spec{"a.txt": "2"}, spec{"a.txt": "1", "a" + bobs + ".txt": "2"}, []string{"a" + bobs + ".txt"}},
		"no extension":  {spec{}, spec{"a": "1"}, spec{"a": "2"}, spec{"a": "1", "a" + bobs: "2"}, []string{"a" + bobs}},
		"dot first":     {spec{}, spec{".rc": "1"}, spec{".rc": "2"}, spec{".rc": "1", ".rc" + bobs: "2"}, []string{".rc" + bobs}},
		"dots":          {spec{}, spec{"...": "1"}, spec{"...": "2"}, spec{"...": "1", ".." + bobs + ".": "2"}, []string{".." + bobs + "."}},
		"dot last":      {spec{}, spec{"a.": "1"}, spec{"a.": "2"}, spec{"a.": "1", "a" + bobs + ".": "2"}, []string{"a" + bobs + "."}},
		"space":         {spec{}, spec{" ": "1"}, spec{" ": "2"}, spec{" ": "1", " " + bobs: "2"}, []string{" " + bobs}},
		"no UTF-8":      {spec{}, spec{"\xff.\xfe": "1"}, spec{"\xff.\xfe": "2"}, spec{"\xff.\xfe": "1", "\xff" + bobs + ".\xfe": "2"}, []string{"\xff" + bobs + ".\xfe"}},
		"long":          {spec{}, spec{long: "1"}, spec{long: "2"}, spec{long: "1", cut(long, len(bobs)) + bobs: "2"}, []string{cut(long, len(bobs)) + bobs}},
		"long, not two": {spec{}, spec{longExt: "1"}, spec{longExt: "2"}, spec{longExt: "1", cut(longExt, len(bobs)+4) + bobs + ".txt": "2"}, []string{cut(longExt, len(bobs)+4) + bobs + ".txt"}},
		"nothing known": {nil, spec{"a": "1", "o": "o"}, spec{"a": "2", "t": "t"}, spec{"a": "1", "a" + bobs: "2", "o": "o", "t": "t"}, []string{"a" + bobs}},
		"deep":          {spec{"d/e/x": "0"}, spec{"d/e/x": "1", "d/o": "o"}, spec{"d/e/x": "2", "d/e/t": "t"}, spec{"d/e/x": "1", "d/e/x" + bobs: "2", "d/o": "o", "d/e/t": "t"}, []string{"d/e/x" + bobs}},
		"dir and file":  {spec{}, spec{"a/b": "1"}, spec{"a": "2"}, spec{"a/b": "1", "a" + bobs: "2"}, []string{"a" + bobs}},
		"file and dir":  {spec{"a": "0"}, spec{"a": "1"}, spec{"a/b": "2"}, spec{"a": "1", "a" + bobs + "/b": "2"}, []string{"a" + bobs}},
		"the name is ours": {spec{}, spec{"a": "1", "a" + bobs: "3"}, spec{"a": "2"},
			spec{"a": "1", "a" + bobs: "3", "a" + two: "2"}, []string{"a" + two}},
		"the name is theirs": {spec{}, spec{"a": "1"}, spec{"a": "2", "a" + bobs: "3"},
			spec{"a": "1", "a" + bobs: "3", "a" + two: "2"}, []string{"a" + two}},
		"the name is both's": {spec{}, spec{"a": "1", "a" + bobs: "3"}, spec{"a": "2", "a" + bobs: "4"},
			spec{"a": "1", "a" + bobs: "3", "a" + two: "2", "a" + bobs + bobs: "4"}, []string{"a" + two, "a" + bobs + bobs}},
		"the name was there": {spec{"a" + bobs: "3"}, spec{"a": "1"}, spec{"a": "2", "a" + bobs: "3"}, spec{"a": "1", "a" + bobs: "2"}, []string{"a" + bobs}},
		"the name is taken away there, and was as theirs is": {spec{"a" + bobs: "2"}, spec{"a": "1", "a" + bobs: "2"}, spec{"a": "2"},
			spec{"a": "1", "a" + bobs: "2"}, []string{"a" + bobs}},
		"the name is a directory": {spec{}, spec{"a.b": "1", "a" + bobs + ".b/c": "3"}, spec{"a.b": "2"},
			spec{"a.b": "1", "a" + bobs + ".b/c": "3", "a" + two + ".b": "2"}, []string{"a" + two + ".b"}},
		"the long name is ours": {spec{}, spec{long: "1", cut(long, len(bobs)) + bobs: "3"}, spec{long: "2"},
			spec{long: "1", cut(long, len(bobs)) + bobs: "3", cut(cut(long, len(bobs))+bobs, 8) + " 2": "2"}, []string{cut(cut(long, len(bobs))+bobs, 8) + " 2"}},
		"two long names are one": {spec{}, spec{long: "1", long[1:] + "o": "1"}, spec{long: "2", long[1:] + "o": "3"},
			spec{long: "1", long[1:] + "o": "1", cut(long, len(bobs)) + bobs: "2", cut(cut(long, len(bobs))+bobs, 8) + " 2": "3"},
			[]string{cut(long, len(bobs)) + bobs, cut(cut(long, len(bobs))+bobs, 8) + " 2"}},
		"two long names of the same are both kept": {spec{}, spec{long: "1", long[1:] + "o": "1"}, spec{long: "2", long[1:] + "o": "2"},
			spec{long: "1", long[1:] + "o": "1", cut(long, len(bobs)) + bobs: "2", cut(cut(long, len(bobs))+bobs, 8) + " 2": "2"},
			[]string{cut(long, len(bobs)) + bobs, cut(cut(long, len(bobs))+bobs, 8) + " 2"}},
		"long characters": {spec{}, spec{umlauts: "1"}, spec{umlauts: "2"}, spec{umlauts: "1", strings.Repeat("ü", (MaxName-len(bobs))/2) + bobs: "2"},
			[]string{strings.Repeat("ü", (MaxName-len(bobs))/2) + bobs}},
		"long and no UTF-8": {spec{}, spec{bad: "1"}, spec{bad: "2"}, spec{bad: "1", bad[:MaxName-len(bobs)] + bobs: "2"}, []string{bad[:MaxName-len(bobs)] + bobs}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPacks()
			base, ours, theirs := treeOf(t, p, c.base), treeOf(t, p, c.ours), treeOf(t, p, c.theirs)
			f, conflicts, _ := merge(t, p, base, ours, theirs)
			slices.Sort(c.conflicts)
			if s := readSpec(t, f); !maps.Equal(s, c.want) || !slices.Equal(conflicts, c.conflicts) {
				t.Errorf("got %q, %q, want %q, %q", s, conflicts, c.want, c.conflicts)
			}
			if name == "the name is taken away there, and was as theirs is" {
				return // and is again when it is merged again
			}
			for i, theirs := range []*File{theirs, ours} { // once more
				g, conflicts, changed := merge(t, p, base, f, theirs)
				if s := readSpec(t, g); !maps.Equal(s, c.want) || len(conflicts) > 0 || changed {
					t.Errorf("merged again with %d: got %q, %q, changed %v", i, s, conflicts, changed)
				}
			}
		})
	}
}

func TestConflictNamesAreNames(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		name := rapid.OneOf(
			rapid.StringMatching(`(a|é|\.|[\x80-\xff]|😀){1,255}`),
			rapid.Custom(func(r *rapid.T) string { return strings.Repeat(rapid.StringMatching(`.|\.`).Draw(r, "of"), MaxName) }),
		).Draw(r, "name")
		if name = clip(name, MaxName); CheckName(name) != nil {
			r.Skip()
		}
		peer := rapid.StringMatching(`[a-zA-Z0-9]{1,52}`).Draw(r, "peer")
		got := ConflictName(name, peer, mergedAt)
		if err := CheckName(got); err != nil || !strings.Contains(got, peer) || got == name {
			r.Fatalf("got %q, %v", got, err)
		}
		if utf8.ValidString(name) && !utf8.ValidString(got) {
			r.Fatalf("got %q, which is no UTF-8", got)
		}
		seen := make(map[string]bool)
		for try := range 12 {
			n := numbered(got, try+1)
			if err := CheckName(n); err != nil || seen[n] {
				r.Fatalf("got %q, %v", n, err)
			}
			seen[n] = true
		}
	})
	if got := ConflictName("a.txt", strings.Repeat("p", 300), mergedAt); len(got) < MaxName { // it is refused as a name, and does not panic
		t.Errorf("got %q", got)
	}
	if got := Numbered("a.b.txt", 3); got != "a.b 3.txt" {
		t.Errorf("got %q", got)
	}
}

// What is known of a directory beside what is in it is merged too.
func TestMergeOfDirectoriesThemselves(t *testing.T) {
	p := newPacks()
	tree := func(mode uint32, sec int64, in string) *File {
		d := aDir("d")
		d.e.Mode, d.e.MTime = mode, time.Unix(sec, 0)
		root := aDir("")
		root.e.Mode, root.e.MTime = mode, time.Unix(sec, 0)
		l, _, _ := writeTree(t, p, []leaf{root, d, aFile("d/x", []byte(in))}, Options{})
		return openTree(t, p, l)
	}
	base := tree(0o755, 100, "0")
	for name, c := range map[string]struct {
		ours, theirs *File
		mode         uint32
		in           string
		changed      bool
	}{
		"only theirs":                      {base, tree(0o700, 100, "0"), 0o700, "0", true},
		"only ours":                        {tree(0o700, 100, "0"), base, 0o700, "0", false},
		"theirs, and ours what is in it":   {tree(0o755, 100, "1"), tree(0o700, 100, "0"), 0o700, "1", true},
		"ours, and theirs what is in it":   {tree(0o700, 100, "0"), tree(0o755, 100, "1"), 0o700, "1", true},
		"both, theirs later":               {tree(0o700, 200, "1"), tree(0o711, 300, "0"), 0o711, "1", true},
		"both, ours later":                 {tree(0o700, 300, "1"), tree(0o711, 200, "0"), 0o700, "1", false},
		"both, alike":                      {tree(0o700, 300, "0"), tree(0o700, 300, "0"), 0o700, "0", false},
		"theirs, where all else is gotten": {tree(0o755, 100, "1"), tree(0o700, 100, "1"), 0o700, "1", true},
	} {
		f, _, changed := merge(t, p, base, c.ours, c.theirs)
		d, err := f.Lookup(t.Context(), "d")
		if err != nil {
			t.Fatal(err)
		}
		if d.entry.Mode != c.mode || f.entry.Mode != c.mode || readSpec(t, f)["d/x"] != c.in || changed != c.changed {
			t.Errorf("%s: got mode %o and %o, %v, changed %v, want %o, %q, %v", name, d.entry.Mode, f.entry.Mode, readSpec(t, f), changed, c.mode, c.in, c.changed)
		}
	}
}

// contents are what files, links and others are, wherever they are.
func contents(leaves []leaf) map[string]bool {
	all := make(map[string]bool)
	for _, l := range leaves {
		if l.e.Kind != DirEntry {
			all[fmt.Sprint(l.e.Kind, l.e.Target, len(l.data), string(l.data))] = true
		}
	}
	return all
}

// fork gives a machine that goes on from what m has committed.
func (m *machine) fork() *machine {
	c := *m
	c.model, c.before, c.draft = maps.Clone(m.before), maps.Clone(m.before), NewDraft(m.root)
	c.known, c.past, c.trees = maps.Clone(m.known), slices.Clone(m.past), slices.Clone(m.trees)
	return &c
}

func TestAnyMerge(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		base := newMachine()
		steps := func(m *machine) {
			for range rapid.IntRange(0, 5).Draw(r, "steps") {
				m.step(r)
			}
			m.commit(r)
		}
		steps(base)
		ours, theirs := base.fork(), base.fork()
		steps(ours)
		theirs.now = theirs.now.Add(time.Duration(rapid.IntRange(-3, 3).Draw(r, "later"))*time.Second + time.Millisecond)
		steps(theirs)
		p := base.p
		f, _, _ := merge(t, p, base.root, ours.root, theirs.root)
		merged := mustRead(r, f)
		if got := mustRead(r, onlyTree(merge(t, p, theirs.root, ours.root, theirs.root))); treeDiff(got, ours.model.leaves()) != "" {
			r.Errorf("theirs has not changed: %s", treeDiff(got, ours.model.leaves()))
		}
		if got := mustRead(r, onlyTree(merge(t, p, ours.root, ours.root, theirs.root))); treeDiff(got, theirs.model.leaves()) != "" {
			r.Errorf("ours has not changed: %s", treeDiff(got, theirs.model.leaves()))
		}
		for name, c := range map[string][3]*File{
			"with itself":         {base.root, f, f},
			"with base":           {base.root, f, base.root},
			"with ours again":     {base.root, f, ours.root},
			"with theirs again":   {base.root, f, theirs.root},
			"after ours":          {ours.root, f, ours.root},
			"itself after theirs": {theirs.root, f, theirs.root},
		} {
			g, conflicts, changed := merge(t, p, c[0], c[1], c[2])
			if d := treeDiff(mustRead(r, g), merged); d != "" || len(conflicts) > 0 || changed {
				r.Errorf("%s: it is another, conflicts %q: %s", name, conflicts, d)
			}
		}
		had, has := contents(base.model.leaves()), contents(merged)
		for _, side := range []*machine{ours, theirs} {
			for c := range contents(side.model.leaves()) {
				if !had[c] && !has[c] {
					r.Errorf("lost: %.60q", c)
				}
			}
		}
		back, _, _ := merge(t, p, base.root, theirs.root, ours.root)
		if got := contents(mustRead(r, back)); !maps.Equal(got, has) {
			r.Errorf("the other way round: got %d contents, want %d", len(got), len(has))
		}
	})
}

func onlyTree(f *File, _ []string, _ bool) *File { return f }

func mustRead(r *rapid.T, f *File) []leaf {
	leaves, err := readTree(f, 0)
	if err != nil {
		r.Fatal(err)
	}
	return leaves
}
