//go:build unix

package testnet_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/internal/testnet"
	"github.com/p2pfs/p2pfs/store"
)

// The main promise, whole: at 8+12 any 12 of 20 holders may die, the one that
// stored the file among them; a 13th is one too many until any comes back.
func TestFileSurvivesPromisedLosses(t *testing.T) {
	t.Parallel()
	r := seeded(t)
	net := testnet.New(t, 20, testnet.Options{})
	path := file(t, "file", 1, size(40<<20, 1<<30))
	link := put(t, &net.Nodes[0].Home, path, "--redundancy", "8+12")
	for _, i := range []int{7, 19} { // found at once, from anywhere
		if out := net.Nodes[i].Run(t, "cat", link, "--length", "10").Out; len(out) != 10 {
			t.Errorf("node %d: got %d bytes of a fresh put, want 10", i+1, len(out))
		}
	}
	var s stored
	net.Nodes[3].Run(t, "stat", link, "--json").JSON(&s)
	if s.N-s.K != 12 || s.Live != s.N || s.Survives != 12 || s.Bytes != size(40<<20, 1<<30) {
		t.Errorf("after the put: got %+v, want all shards live and 12 losses survived", s)
	}
	client := net.Client()

	order := r.Perm(19) // of nodes 2 to 20; node 1 is always among the dead
	dead := []*testnet.Node{net.Nodes[0]}
	for _, i := range order[:11] {
		dead = append(dead, net.Nodes[1+i])
	}
	last, alive := net.Nodes[1+order[11]], net.Nodes[1+order[12]]
	net.Kill(dead...)
	get(t, &alive.Home, link, path)
	get(t, client, link, path)
	alive.Run(t, "stat", link, "--json").JSON(&s)
	if s.Survives != 0 {
		t.Errorf("after 12 losses: got %d further losses survived, want 0", s.Survives)
	}

	last.Kill()
	refused(t, &alive.Home, 12, link, "7 of 8")

	dead[5].Start() // absence is not loss
	get(t, &alive.Home, link, path)
}

// Holders that hang, with connections open and nothing answered, are as bad
// as dead ones, and no worse.
func TestGetPassesByHangingHolders(t *testing.T) {
	net := testnet.New(t, 10, testnet.Options{})
	path := file(t, "file", 2, size(8<<20, 256<<20))
	link := put(t, &net.Nodes[0].Home, path, "--redundancy", "4+6")
	for _, n := range net.Nodes[:6] {
		n.Pause()
	}
	began := time.Now()
	get(t, &net.Nodes[9].Home, link, path)
	if d := time.Since(began); d > 30*time.Second && !testnet.Soak() {
		t.Errorf("get took %v with hanging holders", d)
	}
	for _, n := range net.Nodes[:6] {
		n.Resume()
	}
}

// The scheme follows the number of peers, and what it is worth is said.
func TestRedundancyFollowsPeers(t *testing.T) {
	t.Parallel()
	net := testnet.New(t, 1, testnet.Options{})
	path := file(t, "file", 3, 1<<20)
	var s stored
	r := net.Nodes[0].Run(t, "put", "--json", path)
	r.JSON(&s)
	if s.K != 1 || s.N != 1 {
		t.Errorf("on one node: got %d of %d, want 1 of 1", s.K, s.N)
	}
	r = net.Nodes[0].Run(t, "put", path)
	r.MustLine()
	if r.Err == "" {
		t.Errorf("a put on one node alone said nothing on stderr, want a warning")
	}

	net.Add(2)
	path = file(t, "file", 4, 1<<20)
	net.Nodes[0].Run(t, "put", "--json", path).JSON(&s)
	if s.K != 1 || s.N != 3 || s.Stored != 3 {
		t.Errorf("on three nodes: got %+v, want 1 of 3, 3 stored", s)
	}
	net.Kill(net.Nodes[0], net.Nodes[2])
	get(t, &net.Nodes[1].Home, s.Link, path)
}

// Nodes find each other again whatever the order in which they start, and
// without the one that invited them.
func TestNodesMeetInAnyOrder(t *testing.T) {
	t.Parallel()
	r := seeded(t)
	net := testnet.New(t, 5, testnet.Options{})
	path := file(t, "file", 5, 3<<20)
	link := put(t, &net.Nodes[0].Home, path, "--redundancy", "2+3")
	for _, n := range net.Nodes {
		n.Stop()
	}
	others := net.Nodes[1:]
	for _, i := range r.Perm(len(others)) {
		others[i].Start()
	}
	net.Acquaint()
	get(t, &others[0].Home, link, path)
	put(t, &others[3].Home, file(t, "another", 6, 1<<20))
	net.Add(1) // invited by one that was itself invited
	get(t, &net.Nodes[5].Home, link, path)
}

// What a killed put had stored goes away: nobody will ever ask for it.
func TestKilledPutLeavesNothing(t *testing.T) {
	net := testnet.New(t, 4, testnet.Options{Flags: []string{"--provisional", "2s"}})
	client := net.Client()
	cmd := client.Command(context.Background(), "put", "--redundancy", "2+2", "-")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// More than one pack, and no end: shards of the first are stored.
	if _, err := io.Copy(stdin, random(7, 40<<20)); err != nil {
		t.Fatal(err)
	}
	held := func() (shards int) {
		for _, n := range net.Nodes {
			shards += n.Status().Shards
		}
		return shards
	}
	testnet.Wait(t, "the put to store shards", func() bool { return held() >= 4 })
	cmd.Process.Kill()
	cmd.Wait()
	testnet.Wait(t, "provisional shards to go", func() bool { return held() == 0 })

	// A put that ended keeps what it stored beyond that time.
	path := file(t, "file", 8, 1<<20)
	link := put(t, client, path, "--redundancy", "2+2")
	<-time.After(4 * time.Second) // twice the shortened day
	get(t, &net.Nodes[2].Home, link, path)
	if held() == 0 {
		t.Errorf("shards of a whole put went away")
	}
}

// A full node refuses, and others take its share where there are some.
func TestFullHolder(t *testing.T) {
	t.Parallel()
	net := testnet.New(t, 4, testnet.Options{Setup: func(i int) []string {
		if i == 1 {
			return []string{"--capacity", "1MiB"}
		}
		return nil
	}})
	path := file(t, "file", 9, 8<<20)
	var s stored
	net.Nodes[0].Run(t, "put", "--json", "--redundancy", "1+2", path).JSON(&s)
	if s.Stored != 3 {
		t.Errorf("got %+v, want 3 shards stored on the 3 nodes with space", s)
	}
	get(t, &net.Nodes[1].Home, s.Link, path)

	r := net.Nodes[0].Want(t, 13, "put", "--redundancy", "2+2", file(t, "more", 10, 8<<20))
	if r.Out != "" {
		t.Errorf("a put that stored too little printed %q, want no link", r.Out)
	}
}

// A holder whose disk returns wrong bytes notices, says so, and the file comes
// from others.
func TestDamagedBlockIsNoticed(t *testing.T) {
	t.Parallel()
	net := testnet.New(t, 3, testnet.Options{})
	client := net.Client()
	path := file(t, "file", 11, 4<<20)
	link := put(t, &net.Nodes[0].Home, path, "--redundancy", "1+2")
	var culprit *testnet.Node
	for _, n := range net.Nodes {
		n.Stop()
		if culprit == nil && holdsFirstShard(t, n) {
			culprit = n
			damage(t, n.Dir)
		}
		n.Start()
	}
	if culprit == nil {
		t.Fatal("no node holds the first shard of the file's pack")
	}
	net.Acquaint()
	get(t, client, link, path)
	if !strings.Contains(culprit.Log(), "corrupt") {
		t.Errorf("%s did not log that a block of its own is corrupt:\n%s", culprit.Name, culprit.Log())
	}
}

// holdsFirstShard looks into the store of a stopped node for the shard of a
// large pack that is asked for first.
func holdsFirstShard(t *testing.T, n *testnet.Node) bool {
	t.Helper()
	s, err := store.Open(filepath.Join(n.Dir, "store"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for h, err := range s.Packs(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if h.Shard == 0 && h.Bytes > 1<<20 {
			return true
		}
	}
	return false
}

// damage flips a byte of every KiB in the middle half of the value logs that
// hold the blocks.
func damage(t *testing.T, home string) {
	t.Helper()
	damaged := 0
	err := filepath.Walk(home, func(path string, info os.FileInfo, err error) error {
		if err != nil || !strings.HasSuffix(path, ".vlog") || !strings.Contains(path, "blocks") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		used := len(b)
		for used > 0 && b[used-1] == 0 { // the file is longer than what was written
			used--
		}
		if used < 1<<20 {
			return nil // headers only: a log that was just begun
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		for off := used / 4; off < used*3/4; off += 1 << 10 {
			if _, err := f.WriteAt([]byte{b[off] ^ 1}, int64(off)); err != nil {
				return err
			}
			damaged++
		}
		return f.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	if damaged < 1000 {
		t.Fatalf("found only %d places to damage under %s", damaged, home)
	}
}

// A network without a peer left stores nothing and says why.
func TestNoPeers(t *testing.T) {
	t.Parallel()
	net := testnet.New(t, 2, testnet.Options{})
	client := net.Client()
	path := file(t, "file", 12, 1<<20)
	link := put(t, client, path)
	net.Kill(net.Nodes...)
	if r := client.Want(t, 13, "put", path); r.Out != "" {
		t.Errorf("got stdout %q, want none", r.Out)
	}
	r := client.Try(t, "cat", link)
	if r.Code != 11 && r.Code != 12 && r.Code != 13 {
		t.Errorf("cat without any peer: got exit code %d, want 11, 12 or 13: %s", r.Code, r.Err)
	}
	if r.Out != "" {
		t.Errorf("cat without any peer printed %d bytes", len(r.Out))
	}
}

// What was deleted with its holder is not found by those that are left.
func TestNothingFound(t *testing.T) {
	t.Parallel()
	net := testnet.New(t, 2, testnet.Options{})
	net.Nodes[1].Stop()
	link := put(t, &net.Nodes[0].Home, file(t, "file", 13, 1<<20))
	net.Nodes[0].Wipe()
	net.Nodes[1].Start()
	refused(t, &net.Nodes[1].Home, 11, link, "p2pfs: get", "no peer has it")
}

// A node of 10 GiB is there in under 2 s with nothing in the page cache.
func TestReadySoonWhenFull(t *testing.T) {
	net := testnet.New(t, 1, testnet.Options{})
	n := net.Nodes[0]
	bytes := size(64<<20, 10<<30)
	if r := n.TryWith(t, random(14, bytes), "put", "-"); r.Code != 0 {
		t.Fatalf("put: exit code %d: %s", r.Code, r.Err)
	}
	n.Stop()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Logf("caches stay warm: %v", err)
	}
	began := time.Now()
	n.Start()
	took := time.Since(began)
	t.Logf("ready after %v with %d MiB", took, bytes>>20)
	if took > 2*time.Second {
		t.Errorf("ready after %v with %d MiB held, want under 2s", took, bytes>>20)
	}
}
