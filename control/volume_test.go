package control

import (
	"context"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

func TestRequestsForVolumesArriveWhole(t *testing.T) {
	t.Parallel()
	var got []any
	called := func(args ...any) { got = args }
	info := node.VolumeInfo{Name: "docs", Right: "write", Owner: "ab12", Number: math.MaxInt64 + 7, Time: moment, Files: -1, Bytes: 1 << 40, Tips: 2}
	heads := []node.HeadInfo{
		{Number: 8, Hash: "3f2a", Time: moment, Peer: "12D3KooWx", Snapshot: true, Current: true},
		{Number: 7, Hash: "9c01", Time: moment.Add(-time.Hour), Peer: "12D3KooWy"},
	}
	pruned := node.PruneResult{Kept: 12, Removed: 3, Dying: 40, Dropped: 2, Bytes: 1 << 40, Untold: 1, Partial: true}
	added := node.AddResult{VolumeInfo: info, Packs: 33, Lost: 1}
	c, _, _ := serve(t, &fake{
		volumeCreate: func(name string) (node.VolumeInfo, error) {
			called("create", name)
			return info, nil
		},
		volumes: func() ([]node.VolumeInfo, error) {
			called("list")
			return []node.VolumeInfo{info, {Name: "mine", Right: "write"}}, nil
		},
		volumeLink: func(name, right string) (string, error) {
			called("link", name, right)
			return "p2pfs:v", nil
		},
		volumeAdd: func(_ context.Context, link, name string) (node.AddResult, error) {
			called("add", link, name)
			return added, nil
		},
		volumeLog: func(name string) ([]node.HeadInfo, error) {
			called("log", name)
			return heads, nil
		},
		volumePrune: func(_ context.Context, name string, q node.PruneRequest) (node.PruneResult, error) {
			called("prune", name, q)
			return pruned, nil
		},
		volumeDrop: func(_ context.Context, name string, all bool) (node.PruneResult, error) {
			called("drop", name, all)
			return pruned, nil
		},
		move: func(from, to string) error {
			called("move", from, to)
			return nil
		},
		mkdir: func(place string, parents bool) error {
			called("mkdir", place, parents)
			return nil
		},
	})
	ctx := t.Context()
	wantCall := func(want ...any) {
		t.Helper()
		check(t, nil, got, want)
	}

	i, err := c.VolumeCreate(ctx, "docs")
	check(t, err, i, info)
	wantCall("create", "docs")
	all, err := c.Volumes(ctx)
	check(t, err, all, []node.VolumeInfo{info, {Name: "mine", Right: "write"}})
	wantCall("list")
	link, err := c.VolumeLink(ctx, "docs", "verify")
	check(t, err, link, "p2pfs:v")
	wantCall("link", "docs", "verify")
	a, err := c.VolumeAdd(ctx, "p2pfs:a-_&", "docs")
	check(t, err, a, added)
	wantCall("add", "p2pfs:a-_&", "docs")
	log, err := c.VolumeLog(ctx, "docs")
	check(t, err, log, heads)
	wantCall("log", "docs")
	q := node.PruneRequest{Policy: volume.Policy{Last: 1, Hourly: 2, Daily: 3, Weekly: 4, Monthly: 5, Yearly: 6, Within: 7 * time.Hour}, Now: true}
	p, err := c.VolumePrune(ctx, "docs", q)
	check(t, err, p, pruned)
	wantCall("prune", "docs", q)
	d, err := c.VolumeDrop(ctx, "docs", true)
	check(t, err, d, pruned)
	wantCall("drop", "docs", true)
	_, err = c.VolumeDrop(ctx, "docs", false)
	check(t, err, got, []any{"drop", "docs", false})
	err = c.Move(ctx, "docs:a b&c=\xff", "docs:+%/")
	check(t, err, got, []any{"move", "docs:a b&c=\xff", "docs:+%/"})
	err = c.Mkdir(ctx, "docs:a/\n", true)
	check(t, err, got, []any{"mkdir", "docs:a/\n", true})
}

func TestPruneSurvivesItsURL(t *testing.T) {
	t.Parallel()
	for _, q := range []node.PruneRequest{
		{},
		{Now: true},
		{Policy: volume.Policy{Last: math.MaxInt32}},
		{Policy: volume.Policy{Hourly: 24, Yearly: 1, Within: math.MaxInt64}, Now: true},
	} {
		got, err := parsePrune(pruneValues(q))
		check(t, err, got, q)
	}
	for _, bad := range []string{"last=-1", "daily=x", "weekly=2147483648", "yearly=1.5", "within=-1", "within=7d", "now=perhaps"} {
		name, value, _ := strings.Cut(bad, "=")
		if _, err := parsePrune(map[string][]string{name: {value}}); node.CodeOf(err) != node.Usage {
			t.Errorf("%s: got %v, want a usage error", bad, err)
		}
	}
}

func TestNoVolumesAreAnEmptyList(t *testing.T) {
	t.Parallel()
	c, _, _ := serve(t, &fake{
		volumes:   func() ([]node.VolumeInfo, error) { return nil, nil },
		volumeLog: func(string) ([]node.HeadInfo, error) { return nil, nil },
	})
	all, err := c.Volumes(t.Context())
	check(t, err, all, []node.VolumeInfo{})
	log, err := c.VolumeLog(t.Context(), "docs")
	check(t, err, log, []node.HeadInfo{})
}

func TestPutSaysWhereInAVolumeItIs(t *testing.T) {
	t.Parallel()
	var got node.PutRequest
	c, _, _ := serve(t, &fake{
		put: func(_ context.Context, q node.PutRequest, r io.Reader, _ func(node.Progress)) (node.PutResult, error) {
			got = q
			_, err := io.Copy(io.Discard, r)
			return node.PutResult{Link: "p2pfs:l", Place: q.Target + "/" + q.Name, Head: 7}, err
		},
		parent: func(_ context.Context, q node.PutRequest) (string, error) { return q.Target, nil },
	})
	for _, name := range []string{"a.pdf", "\xff"} { // JSON has no place for the second
		q := node.PutRequest{Name: name, Target: "docs:in", Size: -1}
		res, err := c.Put(t.Context(), q, strings.NewReader("x"), nil)
		check(t, err, res, node.PutResult{Link: "p2pfs:l", Place: "docs:in/" + name, Head: 7})
		check(t, nil, got, q)
	}
	target, err := c.Parent(t.Context(), node.PutRequest{Target: "docs:in"})
	check(t, err, target, "docs:in")
}
