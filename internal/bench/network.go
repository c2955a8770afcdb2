//go:build linux

package main

import (
	"context"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/internal/testnet"
	"github.com/p2pfs/p2pfs/node"
)

// rangeLen is the length of a range read: that of a disk's readahead.
const rangeLen = 128 << 10

// networkRow is what was measured in one network.
type networkRow struct {
	Redundancy string `json:"redundancy"`
	Nodes      int    `json:"nodes"`

	Put transfer `json:"put"`
	Get transfer `json:"get"`
	// GetLost is a get after as many nodes as promised were killed.
	GetLost transfer `json:"get_after_losses"`

	Range     latency `json:"range_128KiB"`
	FirstByte latency `json:"first_byte"` // of a file the node has not read before, through a running node
	Command   float64 `json:"command_ms"` // a whole `p2pfs cat --length 1`, with a client started for it

	NodePeakAnon int64   `json:"node_peak_anon_bytes"` // of the node that had most, over all of the above
	Disk         int64   `json:"disk_bytes"`           // that the homes grew by at the put, in blocks
	DiskFactor   float64 `json:"disk_factor"`          // Disk over the file's size
}

// transfer is one put or get of the file.
type transfer struct {
	Seconds    float64 `json:"seconds"`
	MBps       float64 `json:"mb_per_s"` // 10^6 bytes a second
	CPUPerGiB  float64 `json:"cpu_s_per_gib"`
	ClientAnon int64   `json:"client_peak_anon_bytes"`
}

type latency struct {
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
	N   int     `json:"n"`
}

// network measures one network: redundancy/nodes.
func (b *bench) network(set string, size int64, ranges int) *networkRow {
	defer b.clean()
	scheme, nodes, ok := strings.Cut(set, "/")
	n, err := strconv.Atoi(nodes)
	losses, err2 := strconv.Atoi(scheme[strings.Index(scheme, "+")+1:])
	if !ok || err != nil || err2 != nil || n < 1 || losses >= n {
		b.Fatalf("not a network: %s (such as 4+2/8)", set)
	}
	row := &networkRow{Redundancy: scheme, Nodes: n}
	path := filepath.Join(b.TempDir(), "file")
	b.randomFile(path, size)

	b.say("%s over %d nodes: start", scheme, n)
	net := testnet.New(b, n, testnet.Options{})
	client := net.Client()
	pids := []int{}
	for _, node := range net.Nodes {
		pids = append(pids, node.PID())
	}
	peak := testnet.NewSampler(pids...)
	measure := func(sync string, h *testnet.Home, args ...string) (transfer, testnet.Result) {
		syscall.Sync() // what is not this command's to write
		before, began := cpu(pids), time.Now()
		r := h.Run(b, args...)
		if sync != "" {
			b.syncFile(sync)
		}
		seconds := time.Since(began).Seconds()
		used := cpu(pids) - before + r.CPU
		return transfer{
			Seconds: seconds, MBps: float64(size) / 1e6 / seconds,
			CPUPerGiB: used.Seconds() / (float64(size) / (1 << 30)), ClientAnon: r.Peak.Anon,
		}, r
	}

	b.say("%s over %d nodes: put", scheme, n)
	held := b.homes(net)
	var r testnet.Result
	row.Put, r = measure("", client, "put", "--quiet", "--redundancy", scheme, path)
	link := r.MustLine()
	row.Disk = b.homes(net) - held
	row.DiskFactor = float64(row.Disk) / float64(size)

	b.say("%s over %d nodes: first byte", scheme, n)
	first := []time.Duration{}
	for _, node := range net.Nodes {
		first = append(first, b.firstByte(node, link))
	}
	row.FirstByte = quantiles(first)
	began := time.Now()
	client.Run(b, "cat", link, "--length", "1", "--quiet")
	row.Command = float64(time.Since(began).Microseconds()) / 1000

	b.say("%s over %d nodes: get", scheme, n)
	out := filepath.Join(b.TempDir(), "out")
	row.Get, _ = measure(out, client, "get", "--quiet", link, "-o", out)
	b.same(path, out)

	b.say("%s over %d nodes: ranges", scheme, n)
	row.Range = b.ranges(net.Nodes[n-1], link, size, ranges)

	b.say("%s over %d nodes: get after %d losses", scheme, n, losses)
	net.Kill(net.Nodes[:losses]...)
	pids = pids[losses:]
	row.GetLost, _ = measure(out, client, "get", "--quiet", "--force", link, "-o", out)
	b.same(path, out)
	row.NodePeakAnon = peak.Stop().Anon
	return row
}

// cpu gives the CPU time that the processes have used so far.
func cpu(pids []int) (total time.Duration) {
	const tick = time.Second / 100 // USER_HZ, the same on all Linux systems
	for _, pid := range pids {
		stat, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		_, rest, _ := strings.Cut(string(stat), ") ") // the name before it may hold spaces
		if f := strings.Fields(rest); len(f) > 12 {
			user, _ := strconv.Atoi(f[11])
			system, _ := strconv.Atoi(f[12])
			total += time.Duration(user+system) * tick
		}
	}
	return total
}

// homes gives what the homes of all nodes take on the disk, in blocks: files
// have holes.
func (b *bench) homes(net *testnet.Net) (total int64) {
	syscall.Sync()
	for _, n := range net.Nodes {
		b.check(filepath.WalkDir(n.Dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // gone since it was listed
			}
			if info, err := d.Info(); err == nil {
				total += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
			return nil
		}))
	}
	return total
}

func (b *bench) dial(n *testnet.Node) *control.Client {
	c, err := control.Dial(node.HomeAt(n.Dir).Socket())
	b.check(err)
	return c
}

// stopwatch notes when its first byte was written.
type stopwatch struct{ at time.Time }

func (s *stopwatch) Write(p []byte) (int, error) {
	if s.at.IsZero() {
		s.at = time.Now()
	}
	return len(p), nil
}

// firstByte gives the time from asking a running node for a file to its first
// byte.
func (b *bench) firstByte(n *testnet.Node, link string) time.Duration {
	c := b.dial(n)
	defer c.Close()
	var w stopwatch
	began := time.Now()
	b.check(c.Get(context.Background(), node.GetRequest{Source: link, Length: rangeLen},
		func(node.FileInfo) (io.Writer, error) { return &w, nil }, nil))
	return w.at.Sub(began)
}

// ranges reads rangeLen bytes at random offsets through a running node, one
// after the other. Page caches are dropped before, where that is allowed.
func (b *bench) ranges(n *testnet.Node, link string, size int64, count int) latency {
	c := b.dial(n)
	defer c.Close()
	if os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0) != nil {
		b.say("page caches stay warm: only root may drop them")
	}
	r := rand.New(rand.NewPCG(1, 1))
	took := []time.Duration{}
	for range count {
		off := r.Int64N(max(size-rangeLen, 1))
		began := time.Now()
		b.check(c.Get(context.Background(), node.GetRequest{Source: link, Offset: off, Length: rangeLen},
			func(node.FileInfo) (io.Writer, error) { return io.Discard, nil }, nil))
		took = append(took, time.Since(began))
	}
	return quantiles(took)
}

func quantiles(d []time.Duration) latency {
	slices.Sort(d)
	at := func(q float64) float64 {
		if len(d) == 0 {
			return 0
		}
		return float64(d[min(int(q*float64(len(d))), len(d)-1)].Microseconds()) / 1000
	}
	return latency{P50: at(0.5), P99: at(0.99), N: len(d)}
}

func (b *bench) randomFile(path string, size int64) {
	f, err := os.Create(path)
	b.check(err)
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{1}), size)
	b.check(err)
	b.check(f.Sync())
	b.check(f.Close())
}

func (b *bench) syncFile(path string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	b.check(err)
	b.check(f.Sync())
	b.check(f.Close())
}

// same fails unless both files hold the same.
func (b *bench) same(path, other string) {
	f, err := os.Open(path)
	b.check(err)
	defer f.Close()
	g, err := os.Open(other)
	b.check(err)
	defer g.Close()
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(f, x)
		m, err2 := io.ReadFull(g, y)
		if n != m || string(x[:n]) != string(y[:m]) {
			b.Fatalf("%s differs from %s", other, path)
		}
		if err != nil || err2 != nil {
			return
		}
	}
}
