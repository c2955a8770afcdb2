//go:build linux

package testnet_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/internal/testnet"
)

// tree makes a directory with a real tree in it, parts of Go's sources, and of
// all that a file system has: names of strange bytes, links, holes, modes.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a tree")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	parts := []string{"net", "crypto", "encoding"}
	if testnet.Soak() {
		parts = []string{"."}
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	must(err)
	for _, part := range parts {
		must(os.CopyFS(filepath.Join(dir, "src", part), os.DirFS(filepath.Join(strings.TrimSpace(string(root)), "src", part))))
	}
	odd := filepath.Join(dir, "odd")
	must(os.MkdirAll(filepath.Join(odd, "empty", "deep"), 0o755))
	for _, name := range []string{"new\nline", "bytes \xff\xfe", "-dash", " space ", strings.Repeat("n", 255), "*", "a:b"} {
		must(os.WriteFile(filepath.Join(odd, name), []byte(name), 0o640))
	}
	must(os.WriteFile(filepath.Join(odd, "setuid"), []byte("x"), 0o755))
	must(os.Chmod(filepath.Join(odd, "setuid"), 0o755|fs.ModeSetuid|fs.ModeSticky))
	must(os.Symlink("../src", filepath.Join(odd, "link")))
	must(os.Symlink("nowhere \xff", filepath.Join(odd, "dangling")))
	must(os.Link(filepath.Join(odd, "*"), filepath.Join(odd, "z other name")))
	must(syscall.Mkfifo(filepath.Join(odd, "fifo"), 0o600))
	holes, err := os.Create(filepath.Join(odd, "holes"))
	must(err)
	_, err = holes.WriteAt([]byte("end"), 8<<20)
	must(err)
	must(holes.Close())
	large, err := os.Create(filepath.Join(odd, "large"))
	must(err)
	_, err = io.Copy(large, random(80, size(5<<20, 256<<20)))
	must(err)
	must(large.Close())
	old := time.Unix(1_000_000_000, 123_456_789)
	must(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeSymlink == 0 {
			old = old.Add(time.Second + time.Nanosecond)
			err = os.Chtimes(path, old, old)
		}
		return err
	}))
	must(os.Chmod(filepath.Join(odd, "empty"), 0o500))
	return dir
}

// sameTree fails unless two trees are equal: names, kinds, modes, times, targets,
// contents, what is one file with two names, and holes.
func sameTree(t *testing.T, got, want string) (entries int) {
	t.Helper()
	inodes := map[uint64]uint64{}
	bad := 0
	differ := func(path, what string, g, w any) {
		if bad++; bad < 20 {
			t.Errorf("%q: %s is %v, want %v", path, what, g, w)
		}
	}
	err := filepath.WalkDir(want, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		entries++
		rel, err := filepath.Rel(want, path)
		if err != nil {
			return err
		}
		w, err := os.Lstat(path)
		if err != nil {
			return err
		}
		other := filepath.Join(got, rel)
		g, err := os.Lstat(other)
		if err != nil {
			differ(rel, "it", err, "there")
			return nil
		}
		ws, gs := w.Sys().(*syscall.Stat_t), g.Sys().(*syscall.Stat_t)
		if g.Mode() != w.Mode() {
			differ(rel, "mode", g.Mode(), w.Mode())
			return nil
		}
		if w.Mode()&fs.ModeSymlink != 0 {
			a, _ := os.Readlink(other)
			if b, _ := os.Readlink(path); a != b {
				differ(rel, "target", a, b)
			}
			return nil
		}
		if !g.ModTime().Equal(w.ModTime()) {
			differ(rel, "time", g.ModTime(), w.ModTime())
		}
		if !w.Mode().IsRegular() {
			return nil
		}
		if first, ok := inodes[ws.Ino]; ok && first != gs.Ino {
			differ(rel, "inode", gs.Ino, "that of its other name")
		}
		inodes[ws.Ino] = gs.Ino
		if g.Size() != w.Size() {
			differ(rel, "size", g.Size(), w.Size())
			return nil
		}
		if ws.Blocks*512 < w.Size()/2 && gs.Blocks*512 > w.Size()/2 {
			differ(rel, "space", gs.Blocks*512, ws.Blocks*512)
		}
		a, err := os.ReadFile(other)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(a, b) {
			differ(rel, "content", "other", "the same")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := filepath.WalkDir(got, func(string, fs.DirEntry, error) error { n++; return nil }); err != nil || n != entries {
		t.Errorf("got %d entries, %v, want %d", n, err, entries)
	}
	return entries
}

type putResult struct {
	Link     string
	Bytes    int64
	Files    int64
	NewBytes int64 `json:"new_bytes"`
	Packs    int
	Seconds  float64
}

// A tree comes back as it was although as many holders are lost as was promised,
// and a second put of it sends what is new.
func TestTreesComeBack(t *testing.T) {
	net := testnet.New(t, 12, testnet.Options{})
	dir := tree(t)
	putter := &net.Nodes[11].Home
	var first, second putResult
	putter.Run(t, "put", "--json", "--redundancy", "4+6", dir).JSON(&first)

	for _, n := range net.Nodes[:6] {
		n.Kill()
	}
	client := net.Client()
	out := filepath.Join(t.TempDir(), "a tree")
	took := client.Run(t, "get", first.Link, "-o", out).Seconds
	entries := sameTree(t, out, dir)
	t.Logf("%d entries, %d bytes: put in %.2f s, in %d packs; 6 of 12 killed, fetched in %.2f s", entries, first.Bytes, first.Seconds, first.Packs, took)
	says(t, client.Want(t, 1, "get", first.Link, "-o", filepath.Dir(out)).Err, "exists")

	text := client.Run(t, "cat", first.Link+"/src/net/ip.go").Out
	if want, err := os.ReadFile(filepath.Join(dir, "src/net/ip.go")); err != nil || text != string(want) {
		t.Errorf("cat of a path: got %d bytes, want %d", len(text), len(want))
	}
	if got := client.Run(t, "ls", first.Link).Out; got != "odd\nsrc\n" {
		t.Errorf("ls: got %q", got)
	}
	lines := strings.Split(strings.TrimSuffix(client.Run(t, "ls", "-R", "--json", first.Link).Out, "\n"), "\n")
	if len(lines) != entries-1 {
		t.Errorf("ls -R: got %d lines, want %d", len(lines), entries-1)
	}
	for _, line := range lines {
		if !json.Valid([]byte(line)) {
			t.Errorf("ls -R: got line %q", line)
		}
	}
	client.Want(t, 11, "cat", first.Link+"/nothing")
	says(t, client.Want(t, 2, "cat", first.Link+"/src").Err, "directory")

	net.Start(net.Nodes[:6]...)
	putter.Run(t, "put", "--json", "--redundancy", "4+6", dir).JSON(&second)
	t.Logf("again: %.2f s, %d of %d bytes are new", second.Seconds, second.NewBytes, second.Bytes)
	if second.Files != first.Files || second.NewBytes*100 > second.Bytes {
		t.Errorf("put again: got %+v after %+v, want less than a hundredth of the bytes", second, first)
	}
	changed := filepath.Join(dir, "src/net/ip.go")
	if err := os.WriteFile(changed, []byte("package other\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "odd", "*")); err != nil {
		t.Fatal(err)
	}
	putter.Run(t, "put", "--json", "--redundancy", "4+6", dir).JSON(&second)
	putter.Run(t, "rm", first.Link)
	out = filepath.Join(t.TempDir(), "out")
	client.Run(t, "get", second.Link, "-o", out)
	sameTree(t, out, dir)

	one := filepath.Join(t.TempDir(), "one")
	client.Run(t, "get", second.Link+"/src/net/ip.go", "-o", one)
	same(t, one, changed)
	part := filepath.Join(t.TempDir(), "part")
	client.Run(t, "get", second.Link+"/odd", "-o", part)
	sameTree(t, part, filepath.Join(dir, "odd"))
}

// What cannot be read is left out, told of, and nothing else is.
func TestTreesWithoutWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	net := testnet.New(t, 3, testnet.Options{})
	dir := filepath.Join(t.TempDir(), "d")
	for _, name := range []string{"keep", "drop.tmp", "sub/keep", "sub/drop.tmp", "build/out"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h := &net.Nodes[0].Home
	link := put(t, h, dir, "--exclude", "*.tmp", "--exclude", "/build/")
	if got := h.Run(t, "ls", "-R", link).Out; got != "keep\nsub\nsub/keep\n" {
		t.Errorf("ls -R: got %q", got)
	}
	// A file that shrinks while it is read, as seen by what follows: one whose
	// size the kernel does not know.
	if err := os.Symlink("/proc/self/status", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	link = put(t, h, dir, "--exclude", "*.tmp")
	if got := h.Run(t, "ls", "-l", link).Out; !strings.Contains(got, "link -> /proc/self/status") || strings.Count(got, "\n") != 4 {
		t.Errorf("ls -l: got %q", fmt.Sprint(got))
	}
}
