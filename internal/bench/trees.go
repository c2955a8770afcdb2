//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/p2pfs/p2pfs/internal/testnet"
	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

const (
	treeRedundancy = "8+12"
	treeNodes      = 20
	smallFile      = 4 << 10
	filesPerDir    = 100
)

// treeRow is what was measured of trees and volumes, in one network.
type treeRow struct {
	Nodes int `json:"nodes"`
	Files int `json:"files"` // of 4 KiB, random

	Put        float64 `json:"put_files_per_s"`
	Get        float64 `json:"get_files_per_s"`
	Packs      int     `json:"packs"`
	DiskFactor float64 `json:"disk_factor"` // disk over content times n/k
	Second     float64 `json:"second_put_s"`
	First      float64 `json:"first_put_s"`
	SecondNew  int64   `json:"second_put_new_bytes"` // without redundancy
	OneChanged float64 `json:"one_changed_put_s"`
	OneNew     int64   `json:"one_changed_new_bytes"`
	List       float64 `json:"ls_R_s"`

	HeadUpdate latency `json:"head_update"` // mkdir in a volume, through a running node
	HeadRead   latency `json:"head_read"`   // ls of the volume's root, through another

	Snapshots int     `json:"snapshots"`
	Prune     float64 `json:"prune_s"` // of these to the last 19: 7 days and 12 months
	Removed   int     `json:"pruned"`
}

// trees measures small files, heads and pruning.
func (b *bench) trees(files, snapshots int) *treeRow {
	defer b.clean()
	row := &treeRow{Nodes: treeNodes, Files: files, Snapshots: snapshots}
	src := filepath.Join(b.TempDir(), "tree")
	b.smallFiles(src, files)

	b.say("trees: %s over %d nodes: start", treeRedundancy, treeNodes)
	net := testnet.New(b, treeNodes, testnet.Options{})
	home := &net.Nodes[0].Home // a node runs on it
	home.Run(b, "volume", "create", "small", "--quiet")
	put := func() (float64, node.PutResult) {
		var res node.PutResult
		began := time.Now()
		home.Run(b, "put", "--json", "--redundancy", treeRedundancy, src, "small:").JSON(&res)
		return time.Since(began).Seconds(), res
	}

	b.say("trees: put of %d files", files)
	held := b.homes(net)
	var res node.PutResult
	row.First, res = put()
	row.Put, row.Packs = float64(files)/row.First, res.Packs
	row.DiskFactor = float64(b.homes(net)-held) / (float64(files) * smallFile * treeNodes / 8)
	row.Second, res = put()
	row.SecondNew = res.NewBytes
	b.check(os.WriteFile(filepath.Join(src, "0", "0"), []byte("changed"), 0o644))
	row.OneChanged, res = put()
	row.OneNew = res.NewBytes

	b.say("trees: get and list")
	other := &net.Nodes[treeNodes/2].Home
	link := home.Run(b, "volume", "link", "small").MustLine()
	began := time.Now()
	other.Run(b, "get", "--quiet", link+"/tree", "-o", filepath.Join(b.TempDir(), "out"))
	row.Get = float64(files) / time.Since(began).Seconds()
	began = time.Now()
	if n := strings.Count(other.Run(b, "ls", "-R", link+"/tree").Out, "\n"); n < files {
		b.Fatalf("ls -R lists %d of %d files", n, files)
	}
	row.List = time.Since(began).Seconds()

	b.say("trees: %d heads", snapshots)
	ctx := context.Background()
	writer, reader := b.dial(net.Nodes[0]), b.dial(net.Nodes[treeNodes/2])
	defer writer.Close()
	defer reader.Close()
	_, err := writer.VolumeCreate(ctx, "heads")
	b.check(err)
	read, err := writer.VolumeLink(ctx, "heads", "read")
	b.check(err)
	var updates, reads []time.Duration
	for i := range snapshots {
		began := time.Now()
		b.check(writer.Mkdir(ctx, fmt.Sprintf("heads:%d", i), false))
		updates = append(updates, time.Since(began))
		if i%4 > 0 {
			continue
		}
		began, seen := time.Now(), 0
		b.check(reader.List(ctx, read, false, func(node.Item) error { seen++; return nil }))
		reads = append(reads, time.Since(began))
		if seen != i+1 {
			b.Fatalf("a read after %d updates sees %d of them", i+1, seen)
		}
	}
	row.HeadUpdate, row.HeadRead = quantiles(updates), quantiles(reads)
	began = time.Now()
	pruned, err := writer.VolumePrune(ctx, "heads", node.PruneRequest{Policy: volume.Policy{Last: 19}})
	b.check(err)
	row.Prune, row.Removed = time.Since(began).Seconds(), pruned.Removed
	return row
}

// smallFiles makes a tree of random files.
func (b *bench) smallFiles(dir string, n int) {
	data := make([]byte, smallFile)
	r := rand.NewChaCha8([32]byte{3})
	for i := range n {
		sub := filepath.Join(dir, strconv.Itoa(i/filesPerDir))
		if i%filesPerDir == 0 {
			b.check(os.MkdirAll(sub, 0o755))
		}
		for j := 0; j < len(data); j += 8 {
			binary.LittleEndian.PutUint64(data[j:], r.Uint64())
		}
		b.check(os.WriteFile(filepath.Join(sub, strconv.Itoa(i%filesPerDir)), data, 0o644))
	}
}
