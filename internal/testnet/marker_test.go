//go:build unix

package testnet_test

import (
	"bytes"
	"crypto/ed25519"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/testnet"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
)

const marker = "Xylophon-Quarzsand-Zwergpinguin"

// marked makes a file full of the marker, in a form that is compressed and in
// one that is not, with the marker in its name.
func marked(t *testing.T, n int64) string {
	t.Helper()
	path := file(t, marker+".txt", 60, n)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off := int64(0); off+100 < n; off += 1000 { // among random bytes
		if _, err := f.WriteAt([]byte(marker), off); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte(marker+"\n"), 20000), n); err != nil { // by itself
		t.Fatal(err)
	}
	return path
}

// lowerMarker is the marker as the name of a volume can have it.
var lowerMarker = strings.ToLower(marker)

// plain tells whether the marker, in either form, is in b.
func plain(b []byte) bool {
	return bytes.Contains(b, []byte(marker)) || bytes.Contains(b, []byte(lowerMarker))
}

// found gives the files under dir that hold the marker in content or path.
func found(t *testing.T, dir string) (paths []string, searched int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		searched += int64(len(b))
		if plain(b) || plain([]byte(path[len(dir):])) {
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths, searched
}

// Nothing plain of a file, its name included, is on the disk of any node,
// holders and the one that stored it alike.
func TestNothingPlainOnDisk(t *testing.T) {
	t.Parallel()
	net := testnet.New(t, 3, testnet.Options{})
	client := net.Client()
	path := marked(t, 3<<20)
	homes := []*testnet.Home{client}
	for _, n := range net.Nodes {
		homes = append(homes, &n.Home)
	}
	get(t, &net.Nodes[1].Home, put(t, &net.Nodes[0].Home, path), path)
	get(t, client, put(t, client, path), path)
	for _, n := range net.Nodes {
		n.Stop()
	}
	for _, h := range homes {
		paths, searched := found(t, h.Dir)
		if len(paths) > 0 {
			t.Errorf("%s: the marker is in %v", h.Name, paths)
		}
		if h != client && searched < 3<<20 {
			t.Errorf("%s: only %d bytes were searched", h.Name, searched)
		}
	}
	for _, n := range net.Nodes {
		if strings.Contains(n.Log(), marker) {
			t.Errorf("%s logged the marker", n.Name)
		}
	}

	// The same bytes in a store, not sealed: the search finds them, so it would
	// have above.
	dir := t.TempDir()
	storeUnsealed(t, dir, path)
	if paths, _ := found(t, dir); len(paths) == 0 {
		t.Errorf("the search does not find what is not sealed")
	}
}

// storeUnsealed stores a file as the one shard of a pack without sealing it.
func storeUnsealed(t *testing.T, dir, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	content := pack.NewContent(data)
	m := &pack.Manifest{Content: content, State: *pack.NewState(pack.Network{1}, pack.Owner(key.Public().(ed25519.PublicKey)),
		content, erasure.Scheme{K: 1}, true, 1, nil)}
	m.State.Sign(key)
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w, err := s.Begin(t.Context(), m, 0, store.PutID{})
	if err != nil {
		t.Fatal(err)
	}
	g := m.Geometry()
	for row := range g.ShardRows(0) {
		if err := w.Write(row, g.Cell(data, nil, 0, row)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
}

// Nothing plain of a file leaves the process that stores it, to the disk or to
// the wire.
func TestNothingPlainIsWritten(t *testing.T) {
	t.Parallel()
	net := testnet.New(t, 2, testnet.Options{})
	client := net.Client()
	path := marked(t, 300<<10)
	var link string
	writesNothingPlain(t, client, 300<<10, func() { link = put(t, client, path) })
	get(t, &net.Nodes[1].Home, link, path)
}

// writesNothingPlain traces every write of the commands that run gives to a
// client, of which there are some bytes, and fails where one has the marker. That
// their reads show the marker tells that the trace would.
func writesNothingPlain(t *testing.T, client *testnet.Home, least int, run func()) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed")
	}
	trace := filepath.Join(t.TempDir(), "trace")
	client.Wrap = []string{"strace", "-f", "-qq", "-s", "8388608", "-A", "-o", trace,
		"-e", "trace=read,pread64,write,pwrite64,writev,pwritev,sendto,sendmsg,sendmmsg,sendfile,splice"}
	run()
	client.Wrap = nil

	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	reads, writes, written := 0, 0, 0
	write := regexp.MustCompile(`(write|writev|pwrite64|pwritev|sendto|sendmsg|sendmmsg|sendfile|splice)(\(| resumed)`)
	for line := range bytes.Lines(b) {
		switch has := plain(line); {
		case write.Match(line[:min(len(line), 40)]):
			written += len(line)
			if has && !bytes.Contains(line, []byte(" write(2, ")) { // the user is told names
				writes++
				t.Logf("%.200s", line)
			}
		case has:
			reads++
		}
	}
	if reads == 0 {
		t.Errorf("the trace does not show the marker being read: it would not show it being written")
	}
	if writes > 0 || written < least {
		t.Errorf("the marker is in %d writes of %d traced bytes", writes, written)
	}
	t.Logf("%d reads show the marker, no write of %d bytes", reads, written)
}
