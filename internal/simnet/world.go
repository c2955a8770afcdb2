// Package simnet is a whole network of nodes inside one test: the real node,
// libp2p and the DHT included, behind its real gate, over simulated links and
// by a clock that does not wait. It serves tests.
//
// [Run] makes a bubble of testing/synctest with a [World] in it. There time
// passes only while every goroutine waits, so half an hour of a network's life
// takes seconds. Every host has an address of its own, a rate, and to every
// other a latency, all drawn from the seed. Nodes keep what they hold in memory,
// keys on the disk; what a crash leaves behind is there again after [Node.Start].
//
// QUIC is all that passes: libp2p's TCP is not simulated. Beyond that nothing
// is replaced.
package simnet

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	sim "github.com/marcopolo/simnet"

	"github.com/p2pfs/p2pfs/node"
)

// World is a simulated network.
type World struct {
	Nodes []*Node    // in the order in which they were added, crashed ones too
	Rand  *rand.Rand // for the scenario; use it from one goroutine
	Seed  uint64

	t     *testing.T
	dir   string // of the homes
	net   *sim.Simnet
	began time.Time
	log   *journal

	mu   sync.Mutex
	here map[string]place // hosts by IP
	side map[int]int      // which side of a partition a host is on; nil: none
	ends int              // endpoints made
}

// place is what the network knows of a host.
type place struct {
	host int
	dead bool // nothing goes in or out
}

// Seed gives the seed of a test, from P2PFS_SEED or drawn, and prints it.
//
// A seed gives the same world and the same scenario: hosts, latencies, rates,
// the nodes' keys and so their IDs, what files hold and so their links, which
// peers are closest to each pack, who crashes and when. It does not give the
// same run. Under synctest the clock is exact, but goroutines that wake at one
// instant run in the order in which the scheduler picks them, and the jitter of
// libp2p, the DHT and this module's own pauses is drawn from sources that cannot
// be seeded; from the first of these differences on, connections come about in
// another order, a peer may answer too late to become a holder. What fails under
// a seed is likely to fail again, not certain: repeat it (-count=10).
func Seed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if v := os.Getenv("P2PFS_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("P2PFS_SEED: %v", err)
		}
	}
	t.Logf("seed %d: P2PFS_SEED=%[1]d runs it again", seed)
	return seed
}

// Run runs scenario in a new world, all in a bubble. When it returns the nodes
// end, and the test fails if one of their goroutines does not.
func Run(t *testing.T, scenario func(t *testing.T, w *World)) {
	t.Helper()
	seed, dir := Seed(t), t.TempDir()
	// The stores' memory tables are large and nearly empty: by the usual
	// measure there would be half as much garbage as there is memory.
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(epoch))
		w := newWorld(t, seed, dir)
		defer w.close()
		scenario(t, w)
	})
}

// epoch is when worlds begin: a bubble does in 2000, and certificates older
// than p2pfs are refused.
var epoch = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld(t *testing.T, seed uint64, dir string) *World {
	w := &World{
		Rand: rand.New(rand.NewPCG(seed, 0)), Seed: seed,
		t: t, dir: dir, began: time.Now(), log: new(journal), here: map[string]place{},
	}
	w.net = &sim.Simnet{LatencyFunc: w.latency, Logger: slog.New(slog.DiscardHandler)}
	w.net.Start()
	return w
}

// close ends everything, and tells what the nodes had to say if the test has
// failed.
func (w *World) close() {
	var wg sync.WaitGroup
	for _, n := range w.Nodes {
		wg.Go(func() {
			n.end()
			n.store.Close()
		})
	}
	wg.Wait()
	w.net.Close()
	if w.t.Failed() {
		w.log.print(w.t)
	}
}

// Age is how long the world has been there, in its own time.
func (w *World) Age() time.Duration { return time.Since(w.began) }

// Logf prints a line with the world's age.
func (w *World) Logf(format string, args ...any) {
	w.t.Helper()
	w.t.Logf("%8s %s", w.Age().Round(time.Second), fmt.Sprintf(format, args...))
}

// Sleep lets time pass until the world has the given age.
func (w *World) Sleep(age time.Duration) { time.Sleep(age - w.Age()) }

// Wait waits until ok holds, which it looks at once a second, and fails the
// test when it does not within a time.
func (w *World) Wait(what string, most time.Duration, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(most); !ok(); time.Sleep(time.Second) {
		if time.Now().After(end) {
			w.t.Fatalf("%s did not come about within %v", what, most)
		}
	}
}

// Live gives the nodes that run.
func (w *World) Live() []*Node {
	return slices.DeleteFunc(slices.Clone(w.Nodes), func(n *Node) bool { return n.Node == nil })
}

// reached gives the nodes that run and that n gets through to.
func (w *World) reached(n *Node) []*Node {
	return slices.DeleteFunc(w.Live(), func(o *Node) bool {
		return !w.passes(&net.UDPAddr{IP: ipOf(n.host)}, &net.UDPAddr{IP: ipOf(o.host)})
	})
}

// Pick gives k of nodes, drawn.
func (w *World) Pick(nodes []*Node, k int) []*Node {
	nodes = slices.Clone(nodes)
	w.Rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	return nodes[:k]
}

// Add adds a node and starts it. The first founds the network, the others join
// by the invite of one that they reach, drawn. It belongs to the goroutine of
// the scenario.
func (w *World) Add() *Node {
	w.t.Helper()
	i := len(w.Nodes)
	n := &Node{
		Name: fmt.Sprintf("n%d", i), w: w, host: i,
		home: node.HomeAt(filepath.Join(w.dir, strconv.Itoa(i))),
		rate: minRate + w.Rand.IntN(maxRate-minRate),
	}
	w.settle(n)
	if live := w.reached(n); len(live) == 0 {
		w.keys(i)
		if _, err := node.Init(n.home, false); err != nil {
			w.t.Fatalf("%s: init: %v", n.Name, err)
		}
	} else {
		ctx, cancel := context.WithTimeout(w.t.Context(), patience)
		defer cancel()
		by := w.Pick(live, 1)[0]
		invite, err := by.Invite(ctx, 24*time.Hour)
		if err != nil {
			w.t.Fatalf("%s: invite: %v", by.Name, err)
		}
		l := n.link()
		w.keys(i)
		_, err = node.Join(ctx, n.home, invite, n.config(l))
		l.close()
		if err != nil {
			w.t.Fatalf("%s joins by %s: %v", n.Name, by.Name, err)
		}
	}
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], w.Seed)
	binary.BigEndian.PutUint64(seed[8:], uint64(i))
	if err := os.WriteFile(filepath.Join(n.home.Config, "volume.seed"), hex.AppendEncode(nil, seed[:]), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.Nodes = append(w.Nodes, n)
	n.Start()
	return n
}

// keys makes the key that is drawn next that of node i: while all others wait,
// nobody else can draw before.
func (w *World) keys(i int) {
	synctest.Wait()
	cryptotest.SetGlobalRandom(w.t, w.Seed+uint64(i))
}

// patience bounds each step of a scenario, in the world's time.
const patience = 5 * time.Minute

// journal keeps the last lines that the nodes logged.
type journal struct {
	mu    sync.Mutex
	lines []string
}

// journalLines is how many lines are kept.
const journalLines = 500

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.lines) == journalLines {
		j.lines = j.lines[1:]
	}
	j.lines = append(j.lines, string(b))
	return len(b), nil
}

func (j *journal) print(t *testing.T) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, line := range j.lines {
		t.Logf("%s", line)
	}
}
