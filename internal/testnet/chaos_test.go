//go:build unix

package testnet_test

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/internal/oracle"
	"github.com/p2pfs/p2pfs/internal/testnet"
)

// healing are the flags of nodes that notice and repair within seconds what in
// real networks takes an hour.
var healing = []string{"--probe", "500ms", "--grace", "4s", "--audit", "1m"}

// threshold is the number of live shards at or below which repair is due.
func threshold(k, n int) int { return min(n-1, k+(n-k+1)/2) }

// health asks for the health of a link, or with "" of what the node holds.
func health(t *testing.T, h *testnet.Home, link string) (v testnet.Health) {
	t.Helper()
	args := []string{"health", "--json"}
	if link != "" {
		args = append(args, link)
	}
	h.Run(t, args...).JSON(&v)
	return v
}

// healed waits until no pack of a link is at or below its threshold and no
// repair is under way, and gives its health.
func healed(t *testing.T, net *testnet.Net, link string) testnet.Health {
	t.Helper()
	return healthy(t, net, link, "the file to be above its thresholds and no repair under way", func(k, n, live int) bool {
		return live > threshold(k, n)
	})
}

// full waits until all shards of a link's packs are live and no repair is under
// way.
func full(t *testing.T, net *testnet.Net, link string) testnet.Health {
	t.Helper()
	return healthy(t, net, link, "all shards of the file to be live and no repair under way", func(_, n, live int) bool {
		return live == n
	})
}

func healthy(t *testing.T, net *testnet.Net, link, what string, good func(k, n, live int) bool) (h testnet.Health) {
	t.Helper()
	began, told := time.Now(), ""
	up := net.Up()
	testnet.WaitEvery(t, 500*time.Millisecond, what, func() bool {
		h = health(t, &up[len(up)-1].Home, link)
		if now := fmt.Sprintf("%d live, survives %d, %d unknown", h.Live, h.Survives, h.Unknown); now != told {
			t.Logf("%5.1fs %s", time.Since(began).Seconds(), now)
			told = now
		}
		if h.Packs == 0 || len(h.Worst) != h.Packs {
			t.Fatalf("got health %+v, want all packs of the file listed", h)
		}
		for _, p := range h.Worst {
			if !good(p.K, p.N, p.Live) {
				return false
			}
		}
		// Each is a process: not before it may be over.
		return !slices.ContainsFunc(up, func(n *testnet.Node) bool { return n.Status().Repairs > 0 })
	})
	return h
}

// judged stops all nodes that are up and compares what they say of health with
// what their stores hold: it never claims more.
func judged(t *testing.T, net *testnet.Net, link string) {
	t.Helper()
	up := net.Up()
	said := []testnet.Health{health(t, &up[0].Home, link)}
	dirs := []string{}
	for _, n := range up {
		said = append(said, health(t, &n.Home, ""))
		dirs = append(dirs, n.Dir)
	}
	net.Stop(up...)
	r, err := oracle.Judge(t.Context(), dirs...)
	if err != nil {
		t.Fatal(err)
	}
	for i, h := range said {
		for _, p := range h.Worst {
			is, ok := r.Pack(p.ID)
			if !ok || p.Live > is.Live || p.Survives > is.Survives {
				t.Errorf("health %d: pack %.8s: %d live, survives %d; in the stores %d are, and it survives %d", i, p.ID, p.Live, p.Survives, is.Live, is.Survives)
			}
		}
	}
	for _, p := range r.Packs {
		if len(p.Damaged) > 0 {
			t.Errorf("pack %.8s: damaged: %v", p.ID, p.Damaged)
		}
	}
	t.Logf("%d packs in %d stores, the weakest survives %d losses", len(r.Packs), r.Stores, r.Packs[0].Survives)
}

// A file outlives all who were there when it was stored, the one who stored it
// first: wave after wave the quarter of the nodes that have been there longest
// goes for good, as many come, and the rest heals it.
func TestFileOutlivesEveryNode(t *testing.T) {
	// Above the threshold of 14 a pack has 15 shards, of which the loss of 7
	// leaves the 8 that it takes. Eight nodes would be more than a quarter, and
	// more than was ever promised.
	const (
		nodes   = 30
		quarter = nodes / 4
	)
	net := testnet.New(t, nodes, testnet.Options{Flags: healing})
	client := net.Client()
	path := file(t, "file", 70, size(64<<20, 1<<30))
	link := put(t, client, path, "--redundancy", "8+12")
	if err := os.RemoveAll(client.Dir); err != nil {
		t.Fatal(err)
	}
	originals := slices.Clone(net.Nodes)
	left := func() (n int) {
		for _, o := range originals {
			if o.Up() {
				n++
			}
		}
		return n
	}
	for wave := 1; left() > 0; wave++ {
		began := time.Now()
		oldest := net.Up()[:quarter]
		net.Kill(oldest...)
		for _, n := range oldest {
			n.Wipe()
		}
		net.Add(quarter)
		h := healed(t, net, link)
		t.Logf("wave %d: %d of the first %d nodes left, survives %d, healed after %.1fs", wave, left(), nodes, h.Survives, time.Since(began).Seconds())
	}
	get(t, net.Client(), link, path)
	get(t, &net.Up()[0].Home, link, path)
	judged(t, net, link)
}

// Whoever repairs may die at it: another goes on, and nothing is lost. Then all
// die at once, and come back with what they had.
func TestRepairOutlivesItsRepairers(t *testing.T) {
	net := testnet.New(t, 10, testnet.Options{Flags: append([]string{"--repair-rate", "8MiB"}, healing...)})
	path := file(t, "file", 71, size(40<<20, 256<<20))
	link := put(t, net.Client(), path, "--redundancy", "4+6") // on all ten
	net.Add(6)
	for _, n := range net.Nodes[:4] {
		n.Wipe()
	}
	repairing := func() (at []*testnet.Node) {
		testnet.WaitEvery(t, 20*time.Millisecond, "a node to repair", func() bool {
			up := net.Up()
			busy := make([]bool, len(up))
			var group sync.WaitGroup
			for i, n := range up {
				group.Go(func() { busy[i] = n.Status().Repairs > 0 })
			}
			group.Wait()
			for i, n := range up {
				if busy[i] {
					at = append(at, n)
				}
			}
			return len(at) > 0
		})
		return at
	}
	// All of them each time, so that no pack but the smallest is ever done.
	for i := range int(size(3, 10)) {
		nodes := repairing()
		net.Kill(nodes...)
		for _, n := range nodes {
			t.Logf("%s killed at its repair, %d", n.Name, i+1)
		}
		net.Start(nodes...)
	}
	healed(t, net, link)
	get(t, &net.Up()[0].Home, link, path)

	net.Kill(net.Up()...)
	net.Start(net.Nodes[4:]...)
	net.Acquaint()
	healed(t, net, link)
	get(t, net.Client(), link, path)
	judged(t, net, link)
}

// One node after the other is restarted while a client reads: it never sees an
// error. Then all are restarted at once.
func TestRestartsBreakNoRead(t *testing.T) {
	net := testnet.New(t, 12, testnet.Options{Flags: healing})
	path := file(t, "file", 72, 8<<20)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	link := put(t, net.Client(), path, "--redundancy", "4+6")
	reader := net.Client()
	stop := make(chan struct{})
	var reads sync.WaitGroup
	var failures []string
	done := 0
	reads.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			r := reader.Try(t, "cat", link)
			if r.Code != 0 || r.Out != string(want) {
				failures = append(failures, fmt.Sprintf("read %d: exit code %d, %d bytes: %s", done, r.Code, len(r.Out), r.Err))
			}
			done++
		}
	})
	for _, n := range net.Nodes {
		n.Stop()
		n.Start()
	}
	close(stop)
	reads.Wait()
	for _, f := range failures {
		t.Error(f)
	}
	t.Logf("%d reads while %d nodes were restarted", done, len(net.Nodes))
	if done < 2 {
		t.Errorf("got %d reads, want some of them to begin and end meanwhile", done)
	}

	net.Stop(net.Nodes...)
	net.Start(net.Nodes...)
	net.Acquaint()
	full(t, net, link)
	get(t, reader, link, path)
	judged(t, net, link)
}

// A node that leaves hands all over: its process ends with 0, and not a shard
// is missing, before anybody repairs.
func TestLeaveCostsNothing(t *testing.T) {
	net := testnet.New(t, 8, testnet.Options{Flags: []string{"--probe", "500ms"}}) // a grace of an hour: nobody repairs
	path := file(t, "file", 73, size(8<<20, 256<<20))
	link := put(t, net.Client(), path, "--redundancy", "2+3")
	for _, n := range net.Nodes[:3] {
		var r struct{ Shards, Handed, Left int }
		n.Run(t, "leave", "--json").JSON(&r)
		if r.Left != 0 || r.Handed != r.Shards {
			t.Errorf("%s: got %+v, want all handed over", n.Name, r)
		}
		if code := n.ExitCode(); code != 0 {
			t.Errorf("%s: got exit code %d after a leave, want 0", n.Name, code)
		}
		n.Wipe()
	}
	full(t, net, link)
	get(t, &net.Up()[0].Home, link, path)

	// Where there are too few others, what is left is said, and stays.
	last := net.Up()[0]
	r := last.Want(t, 3, "leave")
	says(t, r.Err, "could not be handed over")
	if code := last.ExitCode(); code != 0 {
		t.Errorf("got exit code %d after a leave, want 0", code)
	}
	last.Start()
	net.Acquaint()
	full(t, net, link)
}
