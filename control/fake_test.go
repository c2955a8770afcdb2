package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/node"
)

// fake is an API made of functions; one that is not set must not be called.
type fake struct {
	put     func(context.Context, node.PutRequest, io.Reader, func(node.Progress)) (node.PutResult, error)
	get     func(context.Context, node.GetRequest, func(node.FileInfo) (io.Writer, error)) error
	parent  func(ctx context.Context, q node.PutRequest) (string, error)
	putTree func(context.Context, node.PutRequest, node.TreeSource, func(node.Progress)) (node.PutResult, error)
	getTree func(context.Context, node.GetRequest, node.TreeSink) error
	list    func(context.Context, string, bool, func(node.Item) error) error
	stat    func(context.Context, string) (node.Stat, error)
	health  func(context.Context, string) (node.Health, error)
	repair  func(context.Context, string, func(node.RepairProgress)) (node.RepairResult, error)
	leave   func(context.Context, func(node.LeaveProgress)) (node.LeaveResult, error)
	remove  func(context.Context, string) (node.RemoveResult, error)
	link    func(context.Context, string, bool) (string, error)
	peers   func() ([]node.Peer, error)
	status  func(context.Context) (node.Status, error)
	invite  func(time.Duration) (string, error)
	expel   func(string, bool) error

	move  func(from, to string) error
	mkdir func(place string, parents bool) error

	volumeCreate func(name string) (node.VolumeInfo, error)
	volumes      func() ([]node.VolumeInfo, error)
	volumeLink   func(name, right string) (string, error)
	volumeAdd    func(ctx context.Context, link, name string) (node.AddResult, error)
	volumeLog    func(name string) ([]node.HeadInfo, error)
	volumePrune  func(ctx context.Context, name string, q node.PruneRequest) (node.PruneResult, error)
	volumeDrop   func(ctx context.Context, name string, forAll bool) (node.PruneResult, error)
}

func (f *fake) Put(ctx context.Context, q node.PutRequest, r io.Reader, p func(node.Progress)) (node.PutResult, error) {
	return f.put(ctx, q, r, p)
}

func (f *fake) Get(ctx context.Context, q node.GetRequest, begin func(node.FileInfo) (io.Writer, error), _ func(node.Progress)) error {
	return f.get(ctx, q, begin)
}

func (f *fake) PutTree(ctx context.Context, q node.PutRequest, src node.TreeSource, p func(node.Progress)) (node.PutResult, error) {
	return f.putTree(ctx, q, src, p)
}

func (f *fake) Parent(ctx context.Context, q node.PutRequest) (string, error) {
	return f.parent(ctx, q)
}

func (f *fake) GetTree(ctx context.Context, q node.GetRequest, sink node.TreeSink, _ func(node.Progress)) error {
	return f.getTree(ctx, q, sink)
}

func (f *fake) List(ctx context.Context, source string, recursive bool, yield func(node.Item) error) error {
	return f.list(ctx, source, recursive, yield)
}

func (f *fake) Stat(ctx context.Context, source string) (node.Stat, error) {
	return f.stat(ctx, source)
}

func (f *fake) Health(ctx context.Context, source string) (node.Health, error) {
	return f.health(ctx, source)
}

func (f *fake) Repair(ctx context.Context, source string, p func(node.RepairProgress)) (node.RepairResult, error) {
	return f.repair(ctx, source, p)
}

func (f *fake) Leave(ctx context.Context, p func(node.LeaveProgress)) (node.LeaveResult, error) {
	return f.leave(ctx, p)
}

func (f *fake) Remove(ctx context.Context, source string) (node.RemoveResult, error) {
	return f.remove(ctx, source)
}

func (f *fake) Link(ctx context.Context, source string, verify bool) (string, error) {
	return f.link(ctx, source, verify)
}

func (f *fake) Peers(context.Context) ([]node.Peer, error)                { return f.peers() }
func (f *fake) Status(ctx context.Context) (node.Status, error)           { return f.status(ctx) }
func (f *fake) Invite(_ context.Context, d time.Duration) (string, error) { return f.invite(d) }
func (f *fake) Expel(_ context.Context, peer string, with bool) error     { return f.expel(peer, with) }

func (f *fake) Move(_ context.Context, from, to string) error          { return f.move(from, to) }
func (f *fake) Mkdir(_ context.Context, place string, with bool) error { return f.mkdir(place, with) }

func (f *fake) VolumeCreate(_ context.Context, name string) (node.VolumeInfo, error) {
	return f.volumeCreate(name)
}

func (f *fake) Volumes(context.Context) ([]node.VolumeInfo, error) { return f.volumes() }

func (f *fake) VolumeLink(_ context.Context, name, right string) (string, error) {
	return f.volumeLink(name, right)
}

func (f *fake) VolumeAdd(ctx context.Context, link, name string) (node.AddResult, error) {
	return f.volumeAdd(ctx, link, name)
}

func (f *fake) VolumeLog(_ context.Context, name string) ([]node.HeadInfo, error) {
	return f.volumeLog(name)
}

func (f *fake) VolumePrune(ctx context.Context, name string, q node.PruneRequest) (node.PruneResult, error) {
	return f.volumePrune(ctx, name, q)
}

func (f *fake) VolumeDrop(ctx context.Context, name string, forAll bool) (node.PruneResult, error) {
	return f.volumeDrop(ctx, name, forAll)
}

// serve runs a server for api on a socket of its own and gives a client and
// what stops the server; stop may be called twice.
func serve(t testing.TB, api API) (c *Client, path string, stop func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s", "node.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, ln, api, slog.New(slog.DiscardHandler)) }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-served; err != nil {
			t.Errorf("got %v at the end of Serve, want nil", err)
		}
	}
	t.Cleanup(stop)
	c, err = Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, path, stop
}

// zeros gives n zero bytes, then err.
type zeros struct {
	n   int64
	err error
}

func (z *zeros) Read(p []byte) (int, error) {
	if z.n == 0 {
		return 0, z.err
	}
	n := int(min(int64(len(p)), z.n))
	z.n -= int64(n)
	return n, nil
}

var errDisk = errors.New("disk on fire")
