package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/volume"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"p2pfs": main})
}

// TestScripts runs testdata/*.txt, one a command. Beside testscript's own there
// are the commands
//
//	startnode HOME FLAG...   runs a node until the script ends; waits until it is ready
//	stopnode HOME            ends it with SIGTERM; its exit code must be 0
//	killnode HOME            ends it with SIGKILL
//	fakenode HOME HOW        answers on the home's socket as type fake says
//	fakebegun                waits until a request that hangs in the fake node has begun
//	setlink NAME KIND        sets a variable to a well-formed link of a network that is nowhere
//	setfile NAME FILE        sets a variable to what a file holds, without the last newline
//	random FILE SIZE         makes a file of random bytes
//	exits CODE COMMAND...    runs a command that must exit with that code
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("P2PFS_HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("P2PFS_MDNS", "false") // another test's nodes are on this machine too
			e.Setenv("P2PFS_PORTMAP", "false")
			e.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector makes every process a second longer
			w := &world{nodes: make(map[string]*process)}
			e.Values[worldKey{}] = w
			e.Defer(w.end)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"startnode": startNode,
			"stopnode":  func(ts *testscript.TestScript, _ bool, args []string) { endNode(ts, args, syscall.SIGTERM) },
			"killnode":  func(ts *testscript.TestScript, _ bool, args []string) { endNode(ts, args, syscall.SIGKILL) },
			"fakenode":  fakeNode,
			"fakebegun": func(ts *testscript.TestScript, _ bool, _ []string) { <-worldOf(ts).fake.begun },
			"setlink":   setLink,
			"setfile": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv(args[0], strings.TrimSuffix(ts.ReadFile(args[1]), "\n"))
			},
			"random": randomFile,
			"exits":  exitsWith,
		},
	})
}

// world is what goes on around one script.
type world struct {
	nodes map[string]*process
	fake  *fake
	stop  func() // the fake node
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

func (w *world) end() {
	for _, p := range w.nodes {
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	if w.stop != nil {
		w.stop()
	}
}

// process is a node that runs.
type process struct {
	cmd   *exec.Cmd
	log   *strings.Builder
	ended chan struct{} // closed after Wait
	err   error         // of Wait
}

func startNode(ts *testscript.TestScript, _ bool, args []string) {
	bin, err := exec.LookPath("p2pfs")
	ts.Check(err)
	home := ts.MkAbs(args[0])
	p := &process{log: new(strings.Builder), ended: make(chan struct{})}
	p.cmd = exec.Command(bin, append([]string{"--home", home, "node"}, args[1:]...)...)
	p.cmd.Dir, p.cmd.Stderr = ts.MkAbs("."), p.log
	p.cmd.Env = append(os.Environ(), "P2PFS_MDNS=false", "P2PFS_PORTMAP=false")
	out, err := p.cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(p.cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	if err != nil {
		<-p.ended
		ts.Fatalf("node ended before it was ready: %v\n%s", p.err, p.log)
	}
	ts.Logf("%s", line)
	worldOf(ts).nodes[home] = p
}

func endNode(ts *testscript.TestScript, args []string, s os.Signal) {
	home := ts.MkAbs(args[0])
	w := worldOf(ts)
	p := w.nodes[home]
	delete(w.nodes, home)
	ts.Check(p.cmd.Process.Signal(s))
	<-p.ended
	ts.Logf("%s", p.log)
	if s == syscall.SIGTERM && p.err != nil {
		ts.Fatalf("node ended with %v, want exit status 0", p.err)
	}
}

func randomFile(ts *testscript.TestScript, _ bool, args []string) {
	n, err := parseSize(args[1])
	ts.Check(err)
	// The same bytes in every run, unlike each other.
	b := make([]byte, n+8)
	var x uint64 = 0x9e3779b97f4a7c15
	for i := int64(0); i < n; i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b[i:], x)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b[:n], 0o640))
}

func setLink(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], testLink(map[string]volume.Kind{
		"file": volume.KindFile, "tree": volume.KindTree, "verify": volume.KindVerify,
		"volume-read": volume.KindVolumeRead, "volume-verify": volume.KindVolumeVerify, "volume-write": volume.KindVolumeWrite,
	}[args[1]]))
}

func testLink(kind volume.Kind) string {
	ref := pack.Ref{Pack: pack.ID{1}, Len: 100, Size: 80}
	return volume.Link{Kind: kind, Network: [8]byte{1}, Root: ref}.String()
}

// fake is a node's API that does one thing.
type fake struct {
	control.API

	how   string
	tree  []treeItem    // that was put
	begun chan struct{} // a value a request that hangs and has begun
	end   func()        // ends the fake node
}

// fakeBody is the file that a fake node has.
const fakeBody = "hello, world\n"

var fakeTime = time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)

// Get gives the file under the name in "name NAME". How else it goes: "broken"
// fails after half of it, "short" gives half and says that it is all, "hang"
// gives half and waits.
func (f *fake) Get(ctx context.Context, _ node.GetRequest, begin func(node.FileInfo) (io.Writer, error), _ func(node.Progress)) error {
	name, ok := strings.CutPrefix(f.how, "name ")
	if !ok {
		name = "hello"
	}
	w, err := begin(node.FileInfo{Name: strings.ReplaceAll(name, `\0`, "\x00"), Mode: 0o4751, ModTime: fakeTime, Size: int64(len(fakeBody))})
	if err != nil {
		return err
	}
	body := fakeBody
	if !ok {
		body = body[:5]
	}
	if _, err := io.WriteString(w, body); err != nil {
		return err
	}
	switch f.how {
	case "broken":
		return &node.Error{Code: node.Short, Hint: "wait", Err: errors.New("pack 3f2a9c01: 7 of 8 needed shards reachable")}
	case "hang":
		f.begun <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// Put reads all, but for "refuse". With "partial" some shards are missing,
// with "hang" it says when it has begun, and waits.
func (f *fake) Put(ctx context.Context, q node.PutRequest, r io.Reader, _ func(node.Progress)) (node.PutResult, error) {
	switch {
	case f.how == "refuse", f.how == "refuse bad" && strings.HasPrefix(q.Name, "bad"):
		return node.PutResult{}, &node.Error{Code: node.NoPeers, Err: errors.New("2 peers, 20 wanted")}
	case f.how == "hang":
		f.begun <- struct{}{}
		<-ctx.Done()
		return node.PutResult{}, ctx.Err()
	}
	n, err := io.Copy(io.Discard, r)
	res := node.PutResult{Link: testLink(volume.KindFile), Place: fakePlace(q, q.Name), Head: 7, Bytes: n, Packs: 2, K: 8, N: 20, Stored: 20, Survives: 12, Seconds: 1.5}
	if f.how == "partial" {
		res.Partial, res.Stored, res.Survives, res.Warning = true, 18, 10, "18 of 20 shards stored"
	}
	return res, err
}

// fakePlace is where a put goes.
func fakePlace(q node.PutRequest, name string) string {
	if q.Target == "" {
		return ""
	}
	return strings.TrimSuffix(q.Target, "/") + "/" + name
}

// PutTree keeps the tree.
func (f *fake) PutTree(ctx context.Context, q node.PutRequest, src node.TreeSource, _ func(node.Progress)) (node.PutResult, error) {
	res := node.PutResult{Link: testLink(volume.KindTree), Packs: 2, K: 8, N: 20, Stored: 20, Survives: 12, Seconds: 1.5}
	var err error
	f.tree, err = takeAll(ctx, src)
	if len(f.tree) > 0 {
		res.Place = fakePlace(q, f.tree[0].Entry.Name)
	}
	for _, i := range f.tree {
		res.Bytes += int64(len(i.content))
	}
	return res, err
}

// GetTree gives the tree that was put, or an entry of it that is no directory;
// with "hang" it waits before the last.
func (f *fake) GetTree(ctx context.Context, q node.GetRequest, sink node.TreeSink, _ func(node.Progress)) error {
	_, path, below := strings.Cut(q.Source, "/")
	if p, err := volume.ParsePlace(q.Source); err == nil {
		path, below = p.Path, p.Path != ""
	}
	if below {
		for _, i := range f.tree {
			if i.Path == path {
				i.Path = ""
				return give(sink, []treeItem{i})
			}
		}
		return &node.Error{Code: node.NotFound, Err: errors.New("no such path")}
	}
	if f.how == "hang" {
		if err := give(sink, []treeItem{rootItem(), fileItem("a", "x")}); err != nil {
			return err
		}
		f.begun <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	return give(sink, f.tree)
}

// List lists the tree that was put.
func (f *fake) Parent(context.Context, node.PutRequest) (string, error) { return "", nil }

func (f *fake) List(_ context.Context, _ string, recursive bool, yield func(node.Item) error) error {
	for _, i := range f.tree {
		if i.Path == "" || !recursive && strings.Contains(i.Path, "/") {
			continue
		}
		if err := yield(i.Item); err != nil {
			return err
		}
	}
	return nil
}

// Health has one pack that is well, one that is not as far as is known, and
// with "lost" two of which too little has been verified; with "empty" none.
func (f *fake) Health(_ context.Context, source string) (node.Health, error) {
	h := node.Health{Kind: "node"}
	if source != "" {
		h.Kind = "file"
	}
	if f.how == "empty" {
		return h, nil
	}
	checked := time.Now().Add(-3 * time.Hour)
	id := func(b byte) string { return strings.Repeat(string(b), 64) }
	h.Packs, h.Bytes, h.Repairs, h.Verified = 32, 1<<30, 2, checked
	h.K, h.N, h.Live, h.Unknown, h.Survives = 8, 20, 9, 4, 1
	h.Levels = []node.HealthLevel{{Survives: 1, Packs: 1}, {Survives: 6, Packs: 1}, {Survives: 12, Packs: 30}}
	h.Worst = []node.PackHealth{
		{ID: id('a'), K: 8, N: 20, Live: 9, Unknown: 4, Survives: 1, Verified: checked, Repair: "running"},
		{ID: id('b'), K: 8, N: 20, Live: 14, Survives: 6, Verified: checked.Add(time.Hour), Repair: "due"},
		{ID: id('c'), K: 8, N: 20, Live: 20, Survives: 12, Verified: checked},
	}
	if f.how == "lost" {
		h.Levels = append([]node.HealthLevel{{Survives: -8, Packs: 2}}, h.Levels...)
		h.Worst = append([]node.PackHealth{
			{ID: id('d'), K: 8, N: 20, Unknown: 20, Survives: -8},
			{ID: id('e'), K: 8, N: 20, Unknown: 7, Survives: -8, Repair: "lost"},
		}, h.Worst...)
		h.Packs, h.Live, h.Unknown, h.Survives, h.Verified, h.Unplaced = 34, 0, 20, -8, time.Time{}, 1
	}
	return h, nil
}

// Repair rebuilds 7 shards, with "partial" some find no place, with "lost" two
// packs have too few.
func (f *fake) Repair(ctx context.Context, _ string, progress func(node.RepairProgress)) (node.RepairResult, error) {
	progress(node.RepairProgress{Done: 1, Total: 33})
	res := node.RepairResult{Packs: 33, Checked: 660, Rebuilt: 7, Bytes: 44 << 20, Seconds: 1.5}
	switch f.how {
	case "partial":
		res.Partial, res.Unplaced = true, 3
	case "lost":
		res.Partial, res.Lost = true, 2
	case "hang":
		f.begun <- struct{}{}
		<-ctx.Done()
		return res, ctx.Err()
	}
	return res, nil
}

// Leave hands 9 shards over, with "partial" all but one, and ends the fake
// node as a real one ends.
func (f *fake) Leave(ctx context.Context, progress func(node.LeaveProgress)) (node.LeaveResult, error) {
	progress(node.LeaveProgress{Done: 1, Total: 9, Bytes: 4 << 20})
	res := node.LeaveResult{Shards: 9, Handed: 9, Bytes: 36 << 20}
	switch f.how {
	case "partial":
		res.Handed, res.Left, res.Bytes, res.Reasons = 8, 1, 32<<20, []string{"pack 3f2a9c01: 20 peers hold a shard of it already"}
	case "refuse":
		return res, &node.Error{Code: node.NoPeers, Hint: "wait", Err: errors.New("no peer is there")}
	case "hang":
		f.begun <- struct{}{}
		<-ctx.Done()
		return res, ctx.Err()
	}
	f.end()
	return res, nil
}

// Remove deletes 3 packs, with "partial" it keeps one and of two no holder is there.
func (f *fake) Remove(context.Context, string) (node.RemoveResult, error) {
	res := node.RemoveResult{Packs: 3, Holders: 20, Bytes: 48 << 20}
	switch f.how {
	case "partial":
		res.Kept, res.Untold, res.Partial = 1, 2, true
	case "refuse":
		return node.RemoveResult{}, &node.Error{Code: node.Refused, Err: errors.New("it was put from another home")}
	}
	return res, nil
}

func (f *fake) Link(_ context.Context, _ string, verify bool) (string, error) {
	if verify {
		return testLink(volume.KindVerify), nil
	}
	return testLink(volume.KindFile), nil
}

// Status has repairs of all kinds.
func (f *fake) Status(context.Context) (node.Status, error) {
	return node.Status{
		ID: "12D3KooWx", Network: strings.Repeat("ab", 32), Running: true, Repairs: 2, Repaired: 7, RepairFailed: 1,
		Suspected: 3, Due: 5, Unplaced: 1, Audits: 100, AuditFailed: 4,
	}, nil
}

// Peers has two peers, one with a name made to confuse terminals.
func (f *fake) Peers(context.Context) ([]node.Peer, error) {
	return []node.Peer{
		{ID: "12D3KooWBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB", Addrs: []string{}, Client: true},
		{ID: "12D3KooWAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA23456789", Addrs: []string{"/ip4/1.2.3.4/tcp/5"}, Zone: "\x1b[31mattic", HeldBytes: 1 << 30, FreeBytes: 5 << 30, LatencyMS: 1.25, Connected: true},
	}, nil
}

func fakeNode(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	if w.stop != nil {
		w.stop()
	}
	h := node.HomeAt(ts.MkAbs(args[0]))
	w.fake = &fake{how: strings.Join(args[1:], " "), begun: make(chan struct{}, 1)}
	ln, err := control.Listen(h.Socket())
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	w.fake.end = cancel
	ended := make(chan error, 1)
	go func() { ended <- control.Serve(ctx, ln, w.fake, slog.New(slog.DiscardHandler)) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			ts.Logf("fake node: %v", err)
		}
	})
}

func exitsWith(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		code = e.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if args[0] != strconv.Itoa(code) {
		ts.Fatalf("got exit code %d, want %s", code, args[0])
	}
}
