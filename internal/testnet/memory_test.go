//go:build linux

package testnet_test

import (
	"path/filepath"
	"testing"

	"github.com/p2pfs/p2pfs/internal/testnet"
)

// The memory of clients and nodes does not grow with the file: 350 MiB and 200
// MiB of anonymous memory are the promise. A soak puts 4 GiB, and again with
// every process in a memory cgroup of 500 MiB.
func TestMemoryIsBounded(t *testing.T) {
	t.Run("sampled", func(t *testing.T) { boundedMemory(t, nil) })
	if !testnet.Soak() {
		return
	}
	t.Run("cgroup", func(t *testing.T) {
		boundedMemory(t, func() []string {
			wrap, err := testnet.MemoryLimit(t, 500<<20)
			if err != nil {
				t.Fatal(err)
			}
			return wrap
		})
	})
}

func boundedMemory(t *testing.T, limit func() []string) {
	if limit == nil {
		limit = func() []string { return nil }
	}
	net := testnet.New(t, 8, testnet.Options{Wrap: func(int) []string { return limit() }})
	client := net.Client()
	client.Wrap = limit()
	pids := []int{}
	for _, n := range net.Nodes {
		pids = append(pids, n.PID())
	}
	bytes := size(256<<20, 4<<30)
	path := file(t, "file", 40, bytes)
	sample := testnet.NewSampler(pids...)
	r := client.Run(t, "put", "--redundancy", "4+4", path)
	out := filepath.Join(t.TempDir(), "out")
	g := client.Run(t, "get", r.MustLine(), "-o", out)
	nodes := sample.Stop()
	same(t, out, path)
	t.Logf("%d MiB: put %d MiB, get %d MiB, nodes at most %d MiB of anonymous memory; put %.1f s, get %.1f s",
		bytes>>20, r.Peak.Anon>>20, g.Peak.Anon>>20, nodes.Anon>>20, r.Seconds, g.Seconds)
	for _, n := range net.Nodes {
		if !n.Up() {
			t.Errorf("%s ended", n.Name)
		}
	}
	if testnet.Race {
		return // the detector's own memory is many times that
	}
	if r.Peak.Anon > 350<<20 || g.Peak.Anon > 350<<20 {
		t.Errorf("the client had %d MiB at put and %d MiB at get, want 350 at most", r.Peak.Anon>>20, g.Peak.Anon>>20)
	}
	if nodes.Anon > 200<<20 {
		t.Errorf("a node had %d MiB, want 200 at most", nodes.Anon>>20)
	}
}
