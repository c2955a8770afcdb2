package simnet

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sim "github.com/marcopolo/simnet"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/repair"
)

// file is one that was put.
type file struct {
	name string
	link string
	data []byte
}

// put has one of by, drawn, put n bytes, drawn too.
func put(t *testing.T, w *World, by []*Node, name string, n int, s erasure.Scheme) file {
	t.Helper()
	var key [32]byte
	for i := range key {
		key[i] = byte(w.Rand.Uint32())
	}
	f := file{name: name, data: make([]byte, n)}
	rand.NewChaCha8(key).Read(f.data)
	from := w.Pick(by, 1)[0]
	res := from.Put(name, f.data, &s)
	if res.Partial || res.N-res.K != s.M || res.Stored != res.N {
		t.Errorf("%s puts %s: got %+v, want all shards of %s stored", from.Name, name, res, s)
	}
	f.link = res.Link
	w.Logf("%s has put %s in %.1f s: %d bytes at %d of %d", from.Name, name, res.Seconds, n, res.K, res.N)
	return f
}

// gets fails unless each of the nodes gets each of the files.
func gets(t *testing.T, w *World, nodes []*Node, files ...file) {
	t.Helper()
	began := w.Age()
	for _, n := range nodes {
		for _, f := range files {
			got, err := n.Get(f.link)
			if err != nil {
				t.Errorf("%s gets %s: %v", n.Name, f.name, err)
			} else if !bytes.Equal(got, f.data) {
				t.Errorf("%s gets %s: got %d bytes, want the %d that were put", n.Name, f.name, len(got), len(f.data))
			}
		}
	}
	w.Logf("%d nodes have got %d files in %s", len(nodes), len(files), (w.Age() - began).Round(time.Second))
}

// spread is who holds the shards of a pack.
type spread struct {
	k, n int
	by   map[int][]*Node // the running nodes that hold a shard
}

// held looks into the stores of all nodes that run.
func held(t *testing.T, w *World) map[pack.ID]*spread {
	t.Helper()
	packs := map[pack.ID]*spread{}
	for _, n := range w.Live() {
		for h, err := range n.Store.Packs(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if h.Deleted {
				continue
			}
			if packs[h.ID] == nil {
				m, err := n.Store.Manifest(h.ID)
				if err != nil {
					t.Fatal(err)
				}
				g := m.Geometry()
				packs[h.ID] = &spread{k: g.K, n: g.N(), by: map[int][]*Node{}}
			}
			s := packs[h.ID]
			s.by[h.Shard] = append(s.by[h.Shard], n)
		}
	}
	return packs
}

// short lists the packs that have fewer live shards than they should.
func short(packs map[pack.ID]*spread) (ids []pack.ID) {
	for id, s := range packs {
		if len(s.by) < s.n {
			ids = append(ids, id)
		}
	}
	return ids
}

// margins says how many shards each pack has beyond those that restore it.
func margins(packs map[pack.ID]*spread) string {
	var out []string
	for _, s := range packs {
		out = append(out, fmt.Sprintf("%d+%d of %d+%d", s.k, len(s.by)-s.k, s.k, s.n-s.k))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// surplus counts the holders that a pack could do without: further ones of a
// shard that another has.
func surplus(packs map[pack.ID]*spread) (n int) {
	for _, s := range packs {
		for _, by := range s.by {
			n += len(by) - 1
		}
	}
	return n
}

// expendable draws up to count of the nodes that run, of which no pack needs
// one: with all of them gone it still has spare shards more than restore it.
func expendable(t *testing.T, w *World, count, spare int) (nodes []*Node) {
	t.Helper()
	packs := held(t, w)
	live := w.Live()
	for _, n := range w.Pick(live, len(live)) {
		if len(nodes) == count {
			break
		}
		needed := false
		for _, s := range packs {
			left := 0
			for _, by := range s.by {
				if slices.ContainsFunc(by, func(h *Node) bool { return h != n && !slices.Contains(nodes, h) }) {
					left++
				}
			}
			needed = needed || left < s.k+spare
		}
		if !needed {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

func names(nodes []*Node) string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.Name)
	}
	return strings.Join(out, " ")
}

// plan is the scenario's size.
type plan struct {
	nodes  int           // that join at first; as many are there in the end
	till   time.Duration // when the last of them has joined
	looks  time.Duration // how long after a partition every node has to know the others again
	lost   int           // of them crash and never return
	away   int           // crash and return
	large  int           // bytes of the large file
	wide   erasure.Scheme
	narrow erasure.Scheme // of what is put in half the network
}

// soak is testnet.Soak, also where there is no testnet.
func soak() bool { return os.Getenv("P2PFS_SOAK") != "" }

func thePlan() plan {
	p := plan{nodes: 20, till: 4 * time.Minute, looks: 2 * time.Minute, lost: 6, away: 4, large: 3 << 20,
		wide: erasure.Scheme{K: 8, M: 12}, narrow: erasure.Scheme{K: 2, M: 3}}
	switch {
	case soak():
		p.nodes, p.till, p.lost, p.away, p.large = 100, 5*time.Minute, 24, 16, 8<<20
		// In a small network a node looks around when it has met somebody, in
		// one of this size only every ten minutes.
		p.looks = 11 * time.Minute
	case raceDetector:
		p.nodes, p.lost, p.away, p.large = 10, 2, 2, 1<<20
		p.wide, p.narrow = erasure.Scheme{K: 4, M: 6}, erasure.Scheme{K: 1, M: 2}
	}
	return p
}

// Half an hour of a network: nodes join one after the other, files are put,
// nodes crash, some for good, others take their places, the network falls into
// halves in which life goes on, and heals. Then every node gets every file.
func TestFilesOutliveCrashesAndPartition(t *testing.T) {
	p := thePlan()
	Run(t, func(t *testing.T, w *World) {
		for i := range p.nodes {
			w.Sleep(p.till * time.Duration(i) / time.Duration(p.nodes))
			w.Add()
		}
		w.Sleep(p.till + 30*time.Second)
		w.Logf("%d nodes", p.nodes)

		files := []file{
			put(t, w, w.Live(), "large", p.large, p.wide),
			put(t, w, w.Live(), "small", 20_000, p.wide),
		}
		gets(t, w, w.Pick(w.Live(), 2), files...)

		w.Sleep(7 * time.Minute)
		away := expendable(t, w, p.away, 2)
		for _, n := range away {
			n.Crash()
		}
		w.Logf("away: %s", names(away))
		crash := func(count int) {
			gone := expendable(t, w, count, 1)
			for _, n := range gone {
				n.Crash()
			}
			w.Logf("lost: %s", names(gone))
		}
		crash(p.lost / 2)
		gets(t, w, w.Pick(w.Live(), 1), files...)

		w.Sleep(9 * time.Minute)
		for range p.lost / 2 {
			w.Add()
		}
		for _, n := range away[:len(away)/2] {
			n.Start()
		}

		w.Sleep(10 * time.Minute)
		half := w.Pick(w.Live(), len(w.Live())/2)
		rest := slices.DeleteFunc(w.Live(), func(n *Node) bool { return slices.Contains(half, n) })
		w.Partition(half)
		w.Logf("divided: %s | %s", names(half), names(rest))
		w.Sleep(11 * time.Minute)
		files = append(files,
			put(t, w, half, "of one half", 300_000, p.narrow),
			put(t, w, rest, "of the other", 300_000, p.narrow))
		crash(p.lost - p.lost/2)
		for _, n := range away[len(away)/2:] {
			n.Start()
		}
		for range p.lost - p.lost/2 {
			w.Add()
		}

		w.Sleep(16 * time.Minute)
		w.Heal()
		w.Logf("healed")
		w.Sleep(16*time.Minute + p.looks)
		gets(t, w, w.Pick(w.Live(), 5), files...)

		afterHealing(t, w)
		w.Sleep(30 * time.Minute)
		gets(t, w, w.Live(), files...)
		w.Logf("the end: %d nodes, %d of %d packs short, %d holders too many", len(w.Live()), len(short(held(t, w))), len(held(t, w)), surplus(held(t, w)))
	})
}

// afterHealing waits until repair has done its work: all that will be lost is,
// the network is one again, and has as many nodes as at first.
func afterHealing(t *testing.T, w *World) {
	t.Helper()
	packs := held(t, w)
	for id, s := range packs {
		if len(s.by) <= s.k {
			t.Errorf("pack %s: %d live shards, want more than the %d that restore it", id.Short(), len(s.by), s.k)
		}
	}
	w.Logf("%d of %d packs have lost shards, %d holders too many: %s", len(short(packs)), len(packs), surplus(packs), margins(packs))
	w.Wait("no pack to be due for repair", 8*time.Minute, func() bool {
		for _, s := range held(t, w) {
			if len(s.by) <= repair.Threshold(s.k, s.n-s.k) {
				return false
			}
		}
		return true
	})
}

func TestCrashedNodeHasWhatItHeld(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		for range 3 {
			w.Add()
		}
		f := put(t, w, w.Nodes, "file", 300_000, erasure.Scheme{K: 1, M: 2})
		for _, n := range w.Nodes {
			n.Crash()
		}
		w.Nodes[0].Start()
		gets(t, w, w.Live(), f)
		w.Nodes[0].Crash()
		w.Nodes[0].Wipe()
		w.Nodes[0].Start()
		if _, err := w.Nodes[0].Get(f.link); node.CodeOf(err) != node.NotFound {
			t.Errorf("after all was lost: got %v, want code %d", err, node.NotFound)
		}
		w.Nodes[1].Start()
		gets(t, w, w.Live(), f)
	})
}

func TestNothingPassesBetweenGroups(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		for range 5 {
			w.Add()
		}
		peers := func(n *Node) int {
			s, err := n.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return s.Peers
		}
		w.Wait("a full mesh", time.Minute, func() bool { return peers(w.Nodes[0]) == 4 && peers(w.Nodes[4]) == 4 })
		w.Partition(w.Nodes[:2])
		w.Wait("two groups", time.Minute, func() bool { return peers(w.Nodes[0]) == 1 && peers(w.Nodes[4]) == 2 })
		f := put(t, w, w.Nodes[2:], "file", 10_000, erasure.Scheme{K: 1, M: 2})
		if _, err := w.Nodes[0].Get(f.link); err == nil {
			t.Error("a file went from one group to the other")
		}
		w.Heal()
		w.Wait("one network again", patience, func() bool {
			got, err := w.Nodes[0].Get(f.link)
			return err == nil && bytes.Equal(got, f.data)
		})
		w.Logf("one network again")
	})
}

// Halves in which everybody knows more peers than a node needs find each other
// again: the network does not stay two because each can live alone.
func TestHalvesBecomeOneNetwork(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		for range 20 {
			w.Add()
		}
		all := func(peers int) func() bool {
			return func() bool {
				return !slices.ContainsFunc(w.Nodes, func(n *Node) bool {
					s, err := n.Status(t.Context())
					return err != nil || s.Peers < peers
				})
			}
		}
		w.Wait("a full mesh", patience, all(19))
		w.Partition(w.Nodes[:10])
		w.Sleep(w.Age() + 10*time.Minute)
		w.Heal()
		healed := w.Age()
		w.Wait("one network again", 2*patience, all(15))
		w.Logf("one network again %v after it healed", w.Age()-healed)
	})
}

func TestWorldIsItsSeeds(t *testing.T) {
	t.Setenv("P2PFS_SEED", "42")
	of := func() (drawn []string) {
		Run(t, func(t *testing.T, w *World) {
			for range 5 {
				n := w.Add()
				drawn = append(drawn, n.ID(), fmt.Sprint(n.rate))
			}
			drawn = append(drawn, put(t, w, w.Nodes, "file", 10_000, erasure.Scheme{K: 1, M: 2}).link)
		})
		return drawn
	}
	if diff := cmp.Diff(of(), of()); diff != "" {
		t.Errorf("the same seed gave another world (-first +second):\n%s", diff)
	}
}

func TestLatenciesAreWide(t *testing.T) {
	Run(t, func(t *testing.T, w *World) {
		var trips []time.Duration
		for i := range 50 {
			for j := range i {
				a, b := &net.UDPAddr{IP: ipOf(i)}, &net.UDPAddr{IP: ipOf(j)}
				there, back := w.latency(&sim.Packet{From: a, To: b}), w.latency(&sim.Packet{From: b, To: a})
				if there != back {
					t.Errorf("%d to %d: %v there and %v back", i, j, there, back)
				}
				trips = append(trips, there+back)
			}
		}
		low, high := slices.Min(trips), slices.Max(trips)
		if low < minTrip || high > maxTrip || high-low < maxTrip*3/4 {
			t.Errorf("got round trips from %v to %v, want them spread over %v to %v", low, high, minTrip, maxTrip)
		}
	})
}
