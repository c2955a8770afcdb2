package main

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// The fake node has a volume docs, which it may read, and mine. With "partial"
// some packs are out of reach, with "refuse" it has no right.

func (f *fake) refused() error {
	if f.how == "refuse" {
		return &node.Error{Code: node.Refused, Hint: "ask for a write link", Err: errors.New("this home has no right to write it")}
	}
	return nil
}

func fakeVolumes() []node.VolumeInfo {
	return []node.VolumeInfo{
		{Name: "docs", Right: readRight, Owner: strings.Repeat("ab", 32), Number: 12, Time: fakeTime, Files: 3, Bytes: 5 << 20, Tips: 2},
		{Name: "lost", Right: verifyRight, Owner: strings.Repeat("cd", 32), Number: 1, Time: fakeTime, Files: -1, Bytes: -1},
		{Name: "mine", Right: writeRight, Owner: strings.Repeat("ef", 32)},
	}
}

func (f *fake) VolumeCreate(_ context.Context, name string) (node.VolumeInfo, error) {
	return node.VolumeInfo{Name: name, Right: writeRight, Owner: strings.Repeat("ab", 32)}, f.refused()
}

func (f *fake) Volumes(context.Context) ([]node.VolumeInfo, error) {
	if f.how == "empty" {
		return nil, nil
	}
	return fakeVolumes(), nil
}

func (f *fake) VolumeLink(_ context.Context, _, right string) (string, error) {
	kinds := map[string]volume.Kind{readRight: volume.KindVolumeRead, verifyRight: volume.KindVolumeVerify, writeRight: volume.KindVolumeWrite}
	return testLink(kinds[right]), f.refused()
}

func (f *fake) VolumeAdd(_ context.Context, link, name string) (node.AddResult, error) {
	res := node.AddResult{VolumeInfo: fakeVolumes()[0]}
	res.Name = name
	switch l, err := volume.ParseLink(link); {
	case err != nil:
		return res, err
	case l.Kind == volume.KindVolumeWrite:
		res.Right, res.Packs = writeRight, 33
	case l.Kind == volume.KindVolumeVerify:
		res.Right, res.Number = verifyRight, 0
	}
	if f.how == "partial" {
		res.Lost = 2
	}
	return res, nil
}

func (f *fake) VolumeLog(context.Context, string) ([]node.HeadInfo, error) {
	if f.how == "empty" {
		return nil, nil
	}
	hash := func(c string) string { return strings.Repeat(c, 64) }
	peer := "12D3KooWAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA23456789"
	return []node.HeadInfo{
		{Number: 8, Hash: hash("a"), Time: fakeTime, Peer: peer, Snapshot: true, Current: true},
		{Number: 8, Hash: hash("b"), Time: fakeTime, Peer: peer, Snapshot: true, Current: true},
		{Number: 7, Hash: hash("c"), Time: fakeTime.Add(-time.Hour), Peer: peer},
	}, nil
}

func (f *fake) VolumePrune(_ context.Context, _ string, q node.PruneRequest) (node.PruneResult, error) {
	res := node.PruneResult{Kept: 12, Removed: 1, Dying: 40}
	if q.Policy.Empty() {
		res.Removed = 0
	}
	if q.Now {
		res.Dying, res.Dropped, res.Bytes = 0, 40, 640<<20
	}
	if f.how == "partial" {
		res.Untold, res.Partial = 2, true
	}
	return res, f.refused()
}

func (f *fake) VolumeDrop(_ context.Context, name string, forAll bool) (node.PruneResult, error) {
	if name == node.Mine {
		return node.PruneResult{}, &node.Error{Code: node.Refused, Err: errors.New("it is the home's own")}
	}
	var res node.PruneResult
	if forAll {
		res.Dropped, res.Bytes = 40, 640<<20
		if f.how == "partial" {
			res.Untold, res.Partial = 2, true
		}
	}
	return res, f.refused()
}

func (f *fake) Move(context.Context, string, string) error { return f.refused() }

func (f *fake) Mkdir(_ context.Context, _ string, parents bool) error {
	if !parents {
		return &node.Error{Code: node.NotFound, Hint: "-p makes it", Err: errors.New("docs:2026 is not there")}
	}
	return f.refused()
}

func TestSourcesAreToldApart(t *testing.T) {
	t.Parallel()
	link := func(k volume.Kind) string { return testLink(k) }
	for _, c := range []struct {
		text           string
		stat, read, rm node.Code // the outcomes of commands like these
		tree           bool
		name           string
	}{
		{text: "docs:", tree: true, name: "docs", rm: node.Usage},
		{text: "docs@7-3f:/", tree: true, name: "docs", rm: node.Usage},
		{text: "docs:a//b c", tree: true, name: "b c"},
		{text: "docs@7:a/b", tree: true, name: "b", rm: node.Usage},
		{text: link(volume.KindFile)},
		{text: link(volume.KindTree), tree: true},
		{text: link(volume.KindTree) + "/a/b", tree: true},
		{text: link(volume.KindVerify), read: node.Refused, rm: node.Refused},
		{text: link(volume.KindVolumeRead), tree: true, rm: node.Refused},
		{text: link(volume.KindVolumeRead) + "/a", tree: true, rm: node.Refused},
		{text: link(volume.KindVolumeWrite) + "/a/b", tree: true, rm: node.Refused},
		{text: link(volume.KindVolumeVerify), read: node.Refused, rm: node.Refused},
		{text: link(volume.KindVolumeVerify) + "/a", stat: node.Usage, read: node.Usage, rm: node.Usage},
		{text: link(volume.KindVolumeRead) + "/", stat: node.Usage, read: node.Usage, rm: node.Usage},
		{text: link(volume.KindFile) + "/a", stat: node.Usage, read: node.Usage, rm: node.Usage},
		{text: "docs", stat: node.Usage, read: node.Usage, rm: node.Usage},
		{text: "docs@:a", stat: node.Usage, read: node.Usage, rm: node.Usage},
		{text: "./a:b", stat: node.Usage, read: node.Usage, rm: node.Usage},
		{text: "", stat: node.Usage, read: node.Usage, rm: node.Usage},
	} {
		if got := node.CodeOf(checkSource(c.text)); got != c.stat {
			t.Errorf("%q: got %d for stat, want %d", c.text, got, c.stat)
		}
		s, err := parseSource(c.text)
		if err == nil {
			err = checkRemove(s)
		}
		if got := node.CodeOf(err); got != c.rm {
			t.Errorf("%q: got %d for rm, want %d", c.text, got, c.rm)
		}
		s, err = readSource(c.text)
		if got := node.CodeOf(err); got != c.read {
			t.Errorf("%q: got %d for get, want %d", c.text, got, c.read)
		}
		if err == nil && (s.mayBeTree() != c.tree || s.name() != c.name) {
			t.Errorf("%q: got tree %t, name %q, want %t, %q", c.text, s.mayBeTree(), s.name(), c.tree, c.name)
		}
	}
}

func TestTargetOfAPutComesLast(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args, paths, target string // words
		code                node.Code
	}{
		{args: "a", paths: "a"},
		{args: "docs:a", paths: "docs:a"}, // which put then refuses
		{args: "a docs:", paths: "a", target: "docs:"},
		{args: "a b docs:x/y", paths: "a b", target: "docs:x/y"},
		{args: "a ./docs:x", paths: "a ./docs:x"},
		{args: "a p2pfs:x", paths: "a p2pfs:x"},
		{args: "docs:x a", paths: "docs:x a"},
		{args: "- a docs:", paths: "- a", target: "docs:"},
		{args: "- stdin docs:", code: node.Usage},
		{args: "x/a a/ docs:", code: node.Usage},
		{args: "a docs@7:", code: node.Usage},
		{args: "a docs:../x", code: node.Usage},
	} {
		var o putOptions
		paths, err := o.aim(strings.Fields(c.args))
		if got := node.CodeOf(err); got != c.code {
			t.Errorf("%s: got %v, want code %d", c.args, err, c.code)
		}
		if err == nil && (!slices.Equal(paths, strings.Fields(c.paths)) || o.target != c.target) {
			t.Errorf("%s: got %q to %q, want %s to %q", c.args, paths, o.target, c.paths, c.target)
		}
	}
}

// parents is an API that says what was put before, and keeps what it is asked.
type parents struct {
	fake

	asked, put node.PutRequest
}

func (p *parents) Parent(_ context.Context, q node.PutRequest) (string, error) {
	p.asked = q
	return testLink(volume.KindTree), nil
}

func (p *parents) PutTree(ctx context.Context, q node.PutRequest, src node.TreeSource, f func(node.Progress)) (node.PutResult, error) {
	p.put = q
	return p.fake.PutTree(ctx, q, src, f)
}

func TestTreeIntoAVolumeBuildsOnWhatWasThere(t *testing.T) {
	t.Parallel()
	dir := someDir(t)
	a := &app{quiet: true, stderr: &errWriter{w: new(strings.Builder)}}
	p := new(parents)
	if _, _, err := a.putOne(t.Context(), p, dir, putOptions{target: "docs:in"}); err != nil {
		t.Fatal(err)
	}
	want := node.PutRequest{Name: filepath.Base(dir), Source: dir, Target: "docs:in", Size: -1}
	if d := cmp.Diff(want, p.asked); d != "" {
		t.Errorf("asked for the parent: want - got +:\n%s", d)
	}
	want.Parent = testLink(volume.KindTree)
	if d := cmp.Diff(want, p.put); d != "" {
		t.Errorf("put: want - got +:\n%s", d)
	}
}
