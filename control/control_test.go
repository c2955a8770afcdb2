package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/node"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var moment = time.Date(2026, 11, 24, 10, 11, 12, 123456789, time.UTC)

func TestRequestsAndAnswersArriveWhole(t *testing.T) {
	t.Parallel()
	type call struct {
		Name string
		Args any
	}
	var got call
	wantStat := node.Stat{Kind: "file", Name: "a\xff.pdf", Mode: 0o640, ModTime: moment, Bytes: 1 << 40, Packs: 3, K: 8, N: 20, Live: 7, Survives: -1}
	wantHealth := node.Health{
		Kind: "verify", Packs: 2, Bytes: 1 << 40, K: 8, N: 20, Live: 7, Unknown: 3, Survives: -1, Verified: moment,
		Levels: []node.HealthLevel{{Survives: -1, Packs: 1}, {Survives: 12, Packs: 1}},
		Worst:  []node.PackHealth{{ID: "3f", K: 8, N: 20, Live: 7, Unknown: 3, Survives: -1, Verified: moment, Repair: "lost"}},
	}
	wantRemoved := node.RemoveResult{Packs: 3, Kept: 1, Holders: 19, Untold: 1, Bytes: 1 << 40}
	wantPeers := []node.Peer{{ID: "12D3KooWx", Addrs: []string{"/ip4/1.2.3.4/tcp/1"}, LatencyMS: 1.5, LastSeen: moment}}
	wantStatus := node.Status{ID: "12D3KooWy", Network: "ab", Addrs: []string{}, Running: true, Peers: 19}
	c, _, _ := serve(t, &fake{
		stat: func(_ context.Context, s string) (node.Stat, error) {
			got = call{"stat", s}
			return wantStat, nil
		},
		health: func(_ context.Context, s string) (node.Health, error) {
			got = call{"health", s}
			return wantHealth, nil
		},
		remove: func(_ context.Context, s string) (node.RemoveResult, error) {
			got = call{"remove", s}
			return wantRemoved, nil
		},
		link: func(_ context.Context, s string, verify bool) (string, error) {
			got = call{"link", fmt.Sprint(s, verify)}
			return "p2pfs:v", nil
		},
		peers:  func() ([]node.Peer, error) { return wantPeers, nil },
		status: func(context.Context) (node.Status, error) { return wantStatus, nil },
		invite: func(d time.Duration) (string, error) {
			got = call{"invite", d}
			return "p2pfs-invite:x", nil
		},
		expel: func(p string, with bool) error {
			got = call{"expel", fmt.Sprint(p, with)}
			return nil
		},
	})
	ctx := t.Context()

	s, err := c.Stat(ctx, "home:a b&c=\xff+%")
	check(t, err, s, wantStat)
	check(t, nil, got, call{"stat", "home:a b&c=\xff+%"})
	h, err := c.Health(ctx, "home:a&b")
	check(t, err, h, wantHealth)
	check(t, nil, got, call{"health", "home:a&b"})
	_, err = c.Health(ctx, "")
	check(t, err, got, call{"health", ""})
	rm, err := c.Remove(ctx, "p2pfs:x")
	check(t, err, rm, wantRemoved)
	check(t, nil, got, call{"remove", "p2pfs:x"})
	link, err := c.Link(ctx, "p2pfs:x", true)
	check(t, err, link, "p2pfs:v")
	check(t, nil, got, call{"link", "p2pfs:xtrue"})
	ps, err := c.Peers(ctx)
	check(t, err, ps, wantPeers)
	st, err := c.Status(ctx)
	check(t, err, st, wantStatus)
	inv, err := c.Invite(ctx, 90*24*time.Hour)
	check(t, err, inv, "p2pfs-invite:x")
	check(t, nil, got, call{"invite", 90 * 24 * time.Hour})
	check(t, c.Expel(ctx, "12D3", true), got, call{"expel", "12D3true"})
}

func check[T any](t *testing.T, err error, got, want T) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("want - got +:\n%s", d)
	}
}

func TestLongRequestsTellProgressAndResult(t *testing.T) {
	t.Parallel()
	told := make(chan struct{})
	wantRepair := node.RepairResult{Packs: 33, Checked: 660, Rebuilt: 7, Unplaced: 1, Lost: 2, Bytes: 1 << 40, Seconds: 1.5, Partial: true}
	wantLeave := node.LeaveResult{Shards: 9, Handed: 8, Left: 1, Bytes: 1 << 40, Reasons: []string{"no peer had space"}}
	c, _, _ := serve(t, &fake{
		repair: func(_ context.Context, source string, progress func(node.RepairProgress)) (node.RepairResult, error) {
			if source != "p2pfs:a&b" {
				t.Errorf("repair: got source %q", source)
			}
			progress(node.RepairProgress{Done: 5, Total: 33})
			<-told
			return wantRepair, nil
		},
		leave: func(_ context.Context, progress func(node.LeaveProgress)) (node.LeaveResult, error) {
			progress(node.LeaveProgress{Done: 1, Total: 9, Bytes: 77})
			<-told
			return wantLeave, nil
		},
	})
	r, err := c.Repair(t.Context(), "p2pfs:a&b", func(p node.RepairProgress) {
		if p == (node.RepairProgress{Done: 5, Total: 33}) {
			told <- struct{}{}
		}
	})
	check(t, err, r, wantRepair)
	l, err := c.Leave(t.Context(), func(p node.LeaveProgress) {
		if p == (node.LeaveProgress{Done: 1, Total: 9, Bytes: 77}) {
			told <- struct{}{}
		}
	})
	check(t, err, l, wantLeave)
}

// A node that has left ends while the answer to its leave may still be on its
// way.
func TestAnswerToLeaveArrivesAlthoughTheNodeEnds(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s", "node.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	want := node.LeaveResult{Shards: 2, Handed: 2}
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, ln, &fake{leave: func(context.Context, func(node.LeaveProgress)) (node.LeaveResult, error) {
			stop()
			return want, nil
		}}, slog.New(slog.DiscardHandler))
	}()
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := c.Leave(t.Context(), nil)
	check(t, err, got, want)
	if err := <-served; err != nil {
		t.Errorf("got %v at the end of Serve, want nil", err)
	}
}

func TestPutRequestSurvivesItsURL(t *testing.T) {
	t.Parallel()
	for _, q := range []node.PutRequest{
		{Name: "a", Size: -1},
		{Name: "a&b=c%\n\xff\x01 ", Mode: 1<<32 - 1, ModTime: moment, Size: 1<<63 - 1, Redundancy: &erasure.Scheme{K: 8, M: 12}, Expires: time.Hour},
		{Name: "a", Source: "/b c", Parent: "p2pfs:x", Target: "mine:put/\xff&=", Size: -1},
	} {
		got, err := parsePut(putValues(q))
		check(t, err, got, q)
	}
	for _, bad := range []string{"mode=-1", "mode=4294967296", "size=x", "mtime=yesterday", "redundancy=many", "expires=1h"} {
		name, value, _ := strings.Cut(bad, "=")
		if _, err := parsePut(map[string][]string{name: {value}}); node.CodeOf(err) != node.Usage {
			t.Errorf("%s: got %v, want a usage error", bad, err)
		}
	}
}

func TestPutAndGetCarryBigStreamsUnchanged(t *testing.T) {
	t.Parallel()
	data := make([]byte, 5<<20+17)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	var stored []byte
	wantInfo := node.FileInfo{Name: "a \"b\"\r\n\x00\xfe.bin", Mode: 0o644, ModTime: moment, Size: int64(len(data))}
	c, _, _ := serve(t, &fake{
		put: func(_ context.Context, q node.PutRequest, r io.Reader, progress func(node.Progress)) (node.PutResult, error) {
			b, err := io.ReadAll(r)
			stored = b
			progress(node.Progress{Done: int64(len(b)), Total: q.Size})
			return node.PutResult{Link: "p2pfs:l", Bytes: int64(len(b)), K: 4, N: 6, Stored: 6}, err
		},
		get: func(_ context.Context, q node.GetRequest, begin func(node.FileInfo) (io.Writer, error)) error {
			w, err := begin(wantInfo)
			if err != nil {
				return err
			}
			b := stored[q.Offset:]
			if q.Length >= 0 {
				b = b[:q.Length]
			}
			_, err = w.Write(b)
			return err
		},
	})
	res, err := c.Put(t.Context(), node.PutRequest{Name: "a", Size: int64(len(data))}, bytes.NewReader(data), nil)
	check(t, err, res, node.PutResult{Link: "p2pfs:l", Bytes: int64(len(data)), K: 4, N: 6, Stored: 6})
	if !bytes.Equal(stored, data) {
		t.Fatal("the node got other bytes than the client had")
	}
	for _, q := range []node.GetRequest{
		{Length: -1}, {Offset: 1 << 20, Length: 3 << 20}, {Offset: 5, Length: 0}, {Offset: int64(len(data)), Length: -1},
	} {
		var b bytes.Buffer
		var last node.Progress
		err := c.Get(t.Context(), q, func(i node.FileInfo) (io.Writer, error) {
			check(t, nil, i, wantInfo)
			return &b, nil
		}, func(p node.Progress) { last = p })
		want := data[q.Offset:]
		if q.Length >= 0 {
			want = want[:q.Length]
		}
		if err != nil || !bytes.Equal(b.Bytes(), want) {
			t.Errorf("%+v: got %d bytes, %v; want %d, nil", q, b.Len(), err, len(want))
		}
		if n := int64(len(want)); n > 0 && last != (node.Progress{Done: n, Total: n}) {
			t.Errorf("%+v: got last progress %+v, want %d of %d", q, last, n, n)
		}
	}
}

func TestErrorsArriveWithCodeHintAndCauses(t *testing.T) {
	t.Parallel()
	sent := &node.Error{Code: node.Short, Hint: "wait for peers", Err: fmt.Errorf("pack 3f2a9c01: 7 of 8 needed shards: %w", errors.Join(errDisk, errors.New("peer x: hung up")))}
	c, _, _ := serve(t, &fake{
		put: func(context.Context, node.PutRequest, io.Reader, func(node.Progress)) (node.PutResult, error) {
			return node.PutResult{}, sent
		},
		get: func(_ context.Context, q node.GetRequest, begin func(node.FileInfo) (io.Writer, error)) error {
			if q.Source == "late" {
				w, err := begin(node.FileInfo{Size: 10})
				if err != nil {
					return err
				}
				if _, err := io.WriteString(w, "12345"); err != nil {
					return err
				}
			}
			return sent
		},
		stat:   func(context.Context, string) (node.Stat, error) { return node.Stat{}, sent },
		health: func(context.Context, string) (node.Health, error) { return node.Health{}, sent },
		repair: func(context.Context, string, func(node.RepairProgress)) (node.RepairResult, error) {
			return node.RepairResult{}, sent
		},
		leave: func(context.Context, func(node.LeaveProgress)) (node.LeaveResult, error) {
			return node.LeaveResult{}, sent
		},
		remove: func(context.Context, string) (node.RemoveResult, error) { return node.RemoveResult{}, sent },
		link:   func(context.Context, string, bool) (string, error) { return "", sent },
		peers:  func() ([]node.Peer, error) { return nil, sent },
		status: func(context.Context) (node.Status, error) { return node.Status{}, sent },
		invite: func(time.Duration) (string, error) { return "", sent },
		expel:  func(string, bool) error { return sent },

		move:         func(string, string) error { return sent },
		mkdir:        func(string, bool) error { return sent },
		volumeCreate: func(string) (node.VolumeInfo, error) { return node.VolumeInfo{}, sent },
		volumes:      func() ([]node.VolumeInfo, error) { return nil, sent },
		volumeLink:   func(string, string) (string, error) { return "", sent },
		volumeAdd:    func(context.Context, string, string) (node.AddResult, error) { return node.AddResult{}, sent },
		volumeLog:    func(string) ([]node.HeadInfo, error) { return nil, sent },
		volumePrune: func(context.Context, string, node.PruneRequest) (node.PruneResult, error) {
			return node.PruneResult{}, sent
		},
		volumeDrop: func(context.Context, string, bool) (node.PruneResult, error) { return node.PruneResult{}, sent },
	})
	ctx := t.Context()
	_, putErr := c.Put(ctx, node.PutRequest{Size: 64 << 20}, &zeros{n: 64 << 20, err: io.EOF}, nil) // more than sockets buffer
	_, statErr := c.Stat(ctx, "x")
	_, healthErr := c.Health(ctx, "x")
	_, repairErr := c.Repair(ctx, "x", nil)
	_, leaveErr := c.Leave(ctx, nil)
	_, removeErr := c.Remove(ctx, "x")
	_, linkErr := c.Link(ctx, "x", false)
	_, peersErr := c.Peers(ctx)
	_, statusErr := c.Status(ctx)
	_, inviteErr := c.Invite(ctx, 1)
	_, createErr := c.VolumeCreate(ctx, "x")
	_, volumesErr := c.Volumes(ctx)
	_, volumeLinkErr := c.VolumeLink(ctx, "x", "read")
	_, addErr := c.VolumeAdd(ctx, "x", "y")
	_, logErr := c.VolumeLog(ctx, "x")
	_, pruneErr := c.VolumePrune(ctx, "x", node.PruneRequest{})
	_, dropErr := c.VolumeDrop(ctx, "x", false)
	for name, err := range map[string]error{
		"put":      putErr,
		"get":      c.Get(ctx, node.GetRequest{Source: "early"}, nil, nil),
		"late get": c.Get(ctx, node.GetRequest{Source: "late", Length: -1}, func(node.FileInfo) (io.Writer, error) { return io.Discard, nil }, nil),
		"stat":     statErr,
		"health":   healthErr,
		"repair":   repairErr,
		"leave":    leaveErr,
		"remove":   removeErr,
		"link":     linkErr,
		"peers":    peersErr,
		"status":   statusErr,
		"invite":   inviteErr,
		"expel":    c.Expel(ctx, "x", false),
		"move":     c.Move(ctx, "x:a", "x:b"),
		"mkdir":    c.Mkdir(ctx, "x:a", false),

		"volume create": createErr,
		"volume list":   volumesErr,
		"volume link":   volumeLinkErr,
		"volume add":    addErr,
		"volume log":    logErr,
		"volume prune":  pruneErr,
		"volume drop":   dropErr,
	} {
		e, ok := errors.AsType[*node.Error](err)
		if !ok {
			t.Errorf("%s: got %v, want a *node.Error", name, err)
			continue
		}
		if e.Code != sent.Code || e.Hint != sent.Hint || e.Error() != sent.Error() {
			t.Errorf("%s: got %d %q %q, want %d %q %q", name, e.Code, e.Hint, e, sent.Code, sent.Hint, sent)
		}
		if d := cmp.Diff([]string{"disk on fire", "peer x: hung up"}, Causes(err)); d != "" {
			t.Errorf("%s: causes: %s", name, d)
		}
	}
}

func TestBrokenGetIsNeverWhole(t *testing.T) {
	t.Parallel()
	const answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nP2pfs-Info: {\"name\":\"a\",\"size\":5}\r\n\r\n5\r\nhello\r\n"
	for name, end := range map[string]string{
		"connection cut":       "",
		"cut in a chunk":       "5\r\nhe",
		"cut in the end":       "0\r\n",
		"no outcome":           "0\r\n\r\n",
		"outcome not readable": "0\r\nP2pfs-Outcome: {\r\n\r\n",
		"outcome an error":     "0\r\nP2pfs-Outcome: {\"code\":14,\"message\":\"m\"}\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := answerWith(t, answer+end)
			var b strings.Builder
			err := c.Get(t.Context(), node.GetRequest{Length: -1}, func(node.FileInfo) (io.Writer, error) { return &b, nil }, nil)
			if err == nil {
				t.Errorf("got %q and no error, want an error", b.String())
			}
		})
	}
	c := answerWith(t, answer+"0\r\nP2pfs-Outcome: {\"code\":0}\r\n\r\n")
	if err := c.Get(t.Context(), node.GetRequest{Length: -1}, func(node.FileInfo) (io.Writer, error) { return io.Discard, nil }, nil); err != nil {
		t.Errorf("got %v for a whole get, want nil", err)
	}
}

func TestLongRequestWithoutResultHasFailed(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"cut":              "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"ended":            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"half a line":      "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"result\":{\"link\":\"p2",
		"another protocol": "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found",
		"no HTTP":          "hello\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := answerWith(t, answer).Put(t.Context(), node.PutRequest{}, strings.NewReader("x"), nil)
			if node.CodeOf(err) != node.Failed || strings.Contains(err.Error(), "/v1/") {
				t.Errorf("got %v, want an error without the URL", err)
			}
			if _, err := answerWith(t, answer).Leave(t.Context(), nil); node.CodeOf(err) != node.Failed {
				t.Errorf("leave: got %v, want an error", err)
			}
		})
	}
}

// answerWith gives a client whose node answers every request with the same
// bytes and hangs up.
func answerWith(t *testing.T, answer string) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s", "node.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if n, _ := conn.Read(make([]byte, 4096)); n > 0 {
				_, _ = io.WriteString(conn, answer)
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-ended })
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestReaderThatFailsFailsThePut(t *testing.T) {
	t.Parallel()
	seen := make(chan error, 1)
	c, _, _ := serve(t, &fake{put: func(_ context.Context, _ node.PutRequest, r io.Reader, _ func(node.Progress)) (node.PutResult, error) {
		_, err := io.Copy(io.Discard, r)
		seen <- err
		return node.PutResult{Link: "p2pfs:l"}, err
	}})
	_, err := c.Put(t.Context(), node.PutRequest{}, &zeros{n: 3 << 20, err: errDisk}, nil)
	if !errors.Is(err, errDisk) {
		t.Errorf("client: got %v, want %v", err, errDisk)
	}
	if err := <-seen; err == nil {
		t.Error("node: got a whole file, want an error")
	}
	// An error that wraps io.EOF is an error all the same.
	_, err = c.Put(t.Context(), node.PutRequest{}, &zeros{n: 3 << 20, err: fmt.Errorf("torn: %w", io.EOF)}, nil)
	if err == nil {
		t.Error("client: got no error, want one")
	}
	if err := <-seen; err == nil {
		t.Error("node: got a whole file, want an error")
	}
}

// waiting gives work that waits for its context to end, and what tells that it
// has begun and ended.
func waiting() (began chan struct{}, ended chan error, wait func(context.Context) error) {
	began, ended = make(chan struct{}, 1), make(chan error, 1)
	return began, ended, func(ctx context.Context) error {
		began <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
}

// endsWhenCancelled cancels a request when the node's work for it has begun: both
// end with an error.
func endsWhenCancelled(t *testing.T, name string, request func(context.Context) error, began chan struct{}, ended chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- request(ctx) }()
	<-began
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%s: got %v, want %v", name, err, context.Canceled)
	}
	if err := <-ended; err == nil {
		t.Errorf("%s: the node's work ended well, want an error", name)
	}
}

func TestCancelledClientCancelsTheNodesWork(t *testing.T) {
	t.Parallel()
	began, ended, wait := waiting()
	c, _, _ := serve(t, &fake{
		put: func(ctx context.Context, q node.PutRequest, r io.Reader, _ func(node.Progress)) (node.PutResult, error) {
			if q.Name == "reading" {
				began <- struct{}{}
				_, err := io.Copy(io.Discard, r)
				if ctx.Err() == nil { // what is stored would be taken for that of a put that failed
					t.Errorf("the body broke off, with %v, before the put knew that its client is gone", err)
				}
				ended <- err
				return node.PutResult{}, err
			}
			return node.PutResult{}, wait(ctx) // reads nothing: waits for peers
		},
		get: func(ctx context.Context, q node.GetRequest, begin func(node.FileInfo) (io.Writer, error)) error {
			if q.Source == "begun" {
				if _, err := begin(node.FileInfo{}); err != nil {
					return err
				}
			}
			return wait(ctx)
		},
		stat: func(ctx context.Context, _ string) (node.Stat, error) { return node.Stat{}, wait(ctx) },
		repair: func(ctx context.Context, _ string, _ func(node.RepairProgress)) (node.RepairResult, error) {
			return node.RepairResult{}, wait(ctx)
		},
		leave: func(ctx context.Context, _ func(node.LeaveProgress)) (node.LeaveResult, error) {
			return node.LeaveResult{}, wait(ctx)
		},
		volumeAdd: func(ctx context.Context, _, _ string) (node.AddResult, error) {
			return node.AddResult{}, wait(ctx)
		},
		volumePrune: func(ctx context.Context, _ string, _ node.PruneRequest) (node.PruneResult, error) {
			return node.PruneResult{}, wait(ctx)
		},
	})
	put := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			r, w := io.Pipe() // gives nothing
			defer w.Close()
			_, err := c.Put(ctx, node.PutRequest{Name: name}, io.MultiReader(strings.NewReader("x"), r), nil)
			return err
		}
	}
	get := func(source string) func(context.Context) error {
		return func(ctx context.Context) error {
			return c.Get(ctx, node.GetRequest{Source: source}, func(node.FileInfo) (io.Writer, error) { return io.Discard, nil }, nil)
		}
	}
	for name, f := range map[string]func(context.Context) error{
		"put that reads": put("reading"), "put that waits": put("waiting"),
		"get": get(""), "get begun": get("begun"),
		"stat":   func(ctx context.Context) error { _, err := c.Stat(ctx, ""); return err },
		"repair": func(ctx context.Context) error { _, err := c.Repair(ctx, "", nil); return err },
		"leave":  func(ctx context.Context) error { _, err := c.Leave(ctx, nil); return err },
		"add":    func(ctx context.Context) error { _, err := c.VolumeAdd(ctx, "", ""); return err },
		"prune": func(ctx context.Context) error {
			_, err := c.VolumePrune(ctx, "", node.PruneRequest{})
			return err
		},
	} {
		endsWhenCancelled(t, name, f, began, ended)
	}
}

func TestNodeThatStopsEndsRequestsWithAnError(t *testing.T) {
	t.Parallel()
	began := make(chan struct{}, 4)
	wait := func(ctx context.Context) error { began <- struct{}{}; <-ctx.Done(); return ctx.Err() }
	c, path, stop := serve(t, &fake{
		put: func(_ context.Context, _ node.PutRequest, r io.Reader, _ func(node.Progress)) (node.PutResult, error) {
			began <- struct{}{}
			_, err := io.Copy(io.Discard, r)
			return node.PutResult{Link: "p2pfs:l"}, err
		},
		get: func(ctx context.Context, _ node.GetRequest, begin func(node.FileInfo) (io.Writer, error)) error {
			if _, err := begin(node.FileInfo{}); err != nil {
				return err
			}
			return wait(ctx)
		},
		stat: func(ctx context.Context, _ string) (node.Stat, error) { return node.Stat{}, wait(ctx) },
	})
	errs := make(chan error, 3)
	r, w := io.Pipe()
	defer w.Close()
	go func() {
		_, err := c.Put(t.Context(), node.PutRequest{}, io.MultiReader(strings.NewReader("x"), r), nil)
		errs <- err
	}()
	go func() {
		errs <- c.Get(t.Context(), node.GetRequest{}, func(node.FileInfo) (io.Writer, error) { return io.Discard, nil }, nil)
	}()
	go func() {
		_, err := c.Stat(t.Context(), "")
		errs <- err
	}()
	for range 3 {
		<-began
	}
	stop()
	for range 3 {
		if err := <-errs; node.CodeOf(err) != node.Failed || !strings.Contains(err.Error(), "the node is stopping") {
			t.Errorf("got %v, want that the node is stopping", err)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v for the socket, want none", err)
	}
	if _, err := Dial(path); !errors.Is(err, ErrNoNode) {
		t.Errorf("dial: got %v, want %v", err, ErrNoNode)
	}
}

func TestPutReportsProgress(t *testing.T) {
	t.Parallel()
	seen := make(chan struct{})
	c, _, _ := serve(t, &fake{put: func(_ context.Context, _ node.PutRequest, r io.Reader, progress func(node.Progress)) (node.PutResult, error) {
		progress(node.Progress{Done: 7, Total: 9})
		<-seen
		_, err := io.Copy(io.Discard, r)
		return node.PutResult{}, err
	}})
	var got atomic.Int64
	_, err := c.Put(t.Context(), node.PutRequest{Size: 9}, strings.NewReader("123456789"), func(p node.Progress) {
		if p.Done == 7 && got.Swap(p.Total) == 0 {
			close(seen)
		}
	})
	check(t, err, got.Load(), 9)
}

func TestSocketIsTheUsersAlone(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no modes")
	}
	_, path, _ := serve(t, &fake{})
	i, err := os.Stat(path)
	if err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v; want mode 0600", i.Mode(), err)
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if ln, err := Listen(filepath.Join(open, "s")); err == nil {
		_ = ln.Close()
		t.Error("got a socket in a directory that everybody can write to, want an error")
	}
	if _, err := Dial(filepath.Join(open, "s")); err == nil || errors.Is(err, ErrNoNode) {
		t.Errorf("got %v for a directory that everybody can write to, want it refused", err)
	}
}

func TestOnlyStaleSocketsAreReplaced(t *testing.T) {
	t.Parallel()
	_, path, stop := serve(t, &fake{})
	if ln, err := Listen(path); !errors.Is(err, ErrRunning) {
		if err == nil {
			_ = ln.Close()
		}
		t.Errorf("socket in use: got %v, want %v", err, ErrRunning)
	}
	stop()

	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false) // as a node does that is killed
	_ = ln.Close()
	if _, err := Dial(path); !errors.Is(err, ErrNoNode) {
		t.Errorf("stale socket: got %v, want %v", err, ErrNoNode)
	}
	again, err := Listen(path)
	if err != nil {
		t.Fatalf("stale socket: got %v, want it replaced", err)
	}
	_ = again.Close()

	if err := os.WriteFile(path, []byte("dear diary"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ln, err := Listen(path); err == nil {
		_ = ln.Close()
		t.Error("a file in the socket's place: got no error, want one")
	}
	if b, _ := os.ReadFile(path); string(b) != "dear diary" {
		t.Errorf("a file in the socket's place: got %q, want it left alone", b)
	}
}

func BenchmarkPut(b *testing.B) {
	const size = 1 << 30
	buf := make([]byte, 1<<20)
	c, _, _ := serve(b, &fake{put: func(_ context.Context, _ node.PutRequest, r io.Reader, _ func(node.Progress)) (node.PutResult, error) {
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, buf)
		return node.PutResult{}, err
	}})
	b.SetBytes(size)
	for b.Loop() {
		if _, err := c.Put(b.Context(), node.PutRequest{}, &zeros{n: size, err: io.EOF}, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	const size = 1 << 30
	buf := make([]byte, 1<<20)
	c, _, _ := serve(b, &fake{get: func(_ context.Context, _ node.GetRequest, begin func(node.FileInfo) (io.Writer, error)) error {
		w, err := begin(node.FileInfo{Size: size})
		if err != nil {
			return err
		}
		for range size / len(buf) {
			if _, err := w.Write(buf); err != nil {
				return err
			}
		}
		return nil
	}})
	b.SetBytes(size)
	for b.Loop() {
		err := c.Get(b.Context(), node.GetRequest{Length: -1}, func(node.FileInfo) (io.Writer, error) { return io.Discard, nil }, nil)
		if err != nil {
			b.Fatal(err)
		}
	}
}
