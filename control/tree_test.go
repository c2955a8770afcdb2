package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// An entryIn is an item of a tree in a test, with its content and how reading
// it ends.
type entryIn struct {
	Item    node.Item
	Content string
	LeftOut string
}

// testSource is a source of such items, in pieces of at most step bytes.
type testSource struct {
	all  []entryIn
	step int
	fail error // after all; nil: io.EOF
}

func (s *testSource) Next(context.Context) (node.Item, io.Reader, error) {
	if len(s.all) == 0 {
		if s.fail != nil {
			return node.Item{}, nil, s.fail
		}
		return node.Item{}, nil, io.EOF
	}
	e := s.all[0]
	s.all = s.all[1:]
	if e.Item.Entry.Kind != volume.FileEntry {
		return e.Item, nil, nil
	}
	r := &pieces{rest: e.Content, step: s.step, err: io.EOF}
	if e.LeftOut != "" {
		r.err = fmt.Errorf("%s: %w", e.LeftOut, node.ErrLeftOut)
	}
	return e.Item, r, nil
}

type pieces struct {
	rest string
	step int
	err  error
}

func (r *pieces) Read(p []byte) (int, error) {
	if r.rest == "" {
		return 0, r.err
	}
	n := copy(p[:min(len(p), r.step)], r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// readAll gives what a source gives. With skip, no content is read.
func readAll(ctx context.Context, src node.TreeSource, skip bool) ([]entryIn, error) {
	var all []entryIn
	for {
		item, r, err := src.Next(ctx)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		e := entryIn{Item: item}
		if r != nil && !skip {
			b, err := io.ReadAll(r)
			if errors.Is(err, node.ErrLeftOut) {
				e.LeftOut = strings.TrimSuffix(err.Error(), ": "+node.ErrLeftOut.Error())
			} else if err != nil {
				return all, err
			}
			e.Content = string(b)
		}
		all = append(all, e)
	}
}

// testSink keeps what it is given.
type testSink struct {
	all  []entryIn
	last *bytes.Buffer
}

func (s *testSink) Take(i node.Item) (io.Writer, error) {
	s.all = append(s.entries(), entryIn{Item: i})
	s.last = new(bytes.Buffer)
	return s.last, nil
}

func (s *testSink) entries() []entryIn {
	if s.last != nil {
		s.all[len(s.all)-1].Content = s.last.String()
		s.last = nil
	}
	return s.all
}

func sendAll(sink node.TreeSink, all []entryIn) error {
	for _, e := range all {
		w, err := sink.Take(e.Item)
		if err != nil {
			return err
		}
		if e.Item.Entry.Kind == volume.FileEntry {
			if _, err := io.WriteString(w, e.Content); err != nil {
				return err
			}
		}
	}
	return nil
}

// sameEntries compares entries by what of them is public.
var sameEntries = cmp.Options{cmpopts.IgnoreUnexported(volume.Entry{}, volume.Xattr{}), cmpopts.EquateEmpty()}

// someTree draws a tree with names and contents of all kinds.
func someTree(t *rapid.T, leftOut bool) []entryIn {
	name := rapid.OneOf(
		rapid.SampledFrom([]string{"a", "\xff\xfe", "new\nline", "\u00e9", "-", " "}),
		rapid.Map(rapid.SliceOfN(rapid.ByteRange(1, 255), 1, 40), func(b []byte) string { return string(b) }),
	)
	bytesOf := rapid.SliceOfN(rapid.Byte(), 0, 30)
	all := []entryIn{{Item: node.Item{Entry: volume.Entry{Kind: volume.DirEntry, Name: name.Draw(t, "root"), Mode: 0o755, MTime: moment}}}}
	for range rapid.IntRange(0, 20).Draw(t, "items") {
		n := name.Draw(t, "name")
		e := entryIn{Item: node.Item{Path: "x/" + n, Entry: volume.Entry{
			Kind:  volume.EntryKind(rapid.IntRange(1, 6).Draw(t, "kind")),
			Name:  n,
			Mode:  rapid.Uint32().Draw(t, "mode"),
			UID:   rapid.Uint32().Draw(t, "uid"),
			GID:   volume.NoOwner,
			MTime: time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(t, "sec"), rapid.Int64Range(0, 999_999_999).Draw(t, "nsec")),
		}}}
		switch i := &e.Item.Entry; i.Kind {
		case volume.FileEntry:
			e.Content = strings.Repeat("\x00yes\n\xff", rapid.SampledFrom([]int{0, 1, 100, 300_000}).Draw(t, "content"))
			i.Size = int64(len(e.Content))
			i.Group, i.Sparse = rapid.Uint64().Draw(t, "group"), rapid.Bool().Draw(t, "sparse")
			if leftOut && rapid.Bool().Draw(t, "left out") {
				e.LeftOut = "it changed"
			}
		case volume.SymlinkEntry:
			i.Target = "../" + n
		case volume.CharEntry, volume.BlockEntry:
			i.Device = rapid.Uint64().Draw(t, "device")
		case volume.DirEntry:
			i.Files, i.Bytes = rapid.Int64Min(0).Draw(t, "files"), rapid.Int64Min(0).Draw(t, "bytes")
		}
		for range rapid.IntRange(0, 2).Draw(t, "xattrs") {
			e.Item.Entry.Xattrs = append(e.Item.Entry.Xattrs, volume.Xattr{Name: []byte("user.\xff"), Value: bytesOf.Draw(t, "value")})
		}
		all = append(all, e)
	}
	return all
}

func TestTreeIsTheSameAfterItsStream(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := someTree(t, true)
		src := &testSource{all: want, step: rapid.SampledFrom([]int{1 << 10, 70_000, 1 << 20}).Draw(t, "step")}
		var b bytes.Buffer
		buf := make([]byte, rapid.SampledFrom([]int{4000, leastRead, leastRead + 1, copyLen}).Draw(t, "buffer"))
		if _, err := io.CopyBuffer(struct{ io.Writer }{&b}, struct{ io.Reader }{&treeReader{ctx: t.Context(), src: src}}, buf); err != nil {
			t.Fatal(err)
		}
		encoded := b.Bytes()
		got, err := readAll(t.Context(), &wireSource{items: newItemReader(bytes.NewReader(encoded))}, false)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, sameEntries); d != "" {
			t.Fatalf("want - got +:\n%s", d)
		}
		got, err = readAll(t.Context(), &wireSource{items: newItemReader(bytes.NewReader(encoded))}, true)
		if err != nil || len(got) != len(want) {
			t.Fatalf("without content: got %d items, %v; want %d", len(got), err, len(want))
		}
		cut := rapid.IntRange(0, len(encoded)-1).Draw(t, "cut")
		for _, skip := range []bool{false, true} {
			if _, err = readAll(t.Context(), &wireSource{items: newItemReader(bytes.NewReader(encoded[:cut]))}, skip); err == nil {
				t.Fatalf("cut at %d of %d: got no error", cut, len(encoded))
			}
		}
	})
}

func TestTreesGoThroughTheSocket(t *testing.T) {
	t.Parallel()
	var stored []entryIn
	c, _, _ := serve(t, &fake{
		putTree: func(ctx context.Context, q node.PutRequest, src node.TreeSource, progress func(node.Progress)) (node.PutResult, error) {
			var err error
			stored, err = readAll(ctx, src, false)
			return node.PutResult{Link: "p2pfs:t", Bytes: q.Size}, err
		},
		getTree: func(_ context.Context, q node.GetRequest, sink node.TreeSink) error {
			if q.Source == "p2pfs:rest" {
				if q.After != "a/\xff&?" || q.Offset != 7 {
					return fmt.Errorf("after %q and %d", q.After, q.Offset)
				}
				rest := slices.Clone(stored)
				rest[0].Item.ID = "0a0b"
				for i := range rest {
					if e := &rest[i]; e.Item.Entry.Kind == volume.FileEntry {
						e.Item.From = e.Item.Entry.Size / 2
						e.Content = e.Content[e.Item.From:]
					}
				}
				return sendAll(sink, rest)
			}
			if q.Source != "p2pfs:t/\xff" || q.After != "" || q.Offset != 0 {
				return fmt.Errorf("source %q, after %q and %d", q.Source, q.After, q.Offset)
			}
			return sendAll(sink, stored)
		},
		list: func(_ context.Context, source string, recursive bool, yield func(node.Item) error) error {
			if source == "empty" {
				return nil
			}
			for _, e := range stored {
				if err := yield(e.Item); err != nil {
					return err
				}
			}
			if !recursive {
				return errDisk
			}
			return nil
		},
	})
	rapid.Check(t, func(t *rapid.T) {
		want := someTree(t, false)
		res, err := c.PutTree(t.Context(), node.PutRequest{Size: 77}, &testSource{all: want, step: 1 << 20}, nil)
		if err != nil || res != (node.PutResult{Link: "p2pfs:t", Bytes: 77}) {
			t.Fatalf("got %+v, %v", res, err)
		}
		if d := cmp.Diff(want, stored, sameEntries); d != "" {
			t.Fatalf("put: want - got +:\n%s", d)
		}
		var sink testSink
		var last node.Progress
		if err := c.GetTree(t.Context(), node.GetRequest{Source: "p2pfs:t/\xff"}, &sink, func(p node.Progress) { last = p }); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, sink.entries(), sameEntries); d != "" {
			t.Fatalf("get: want - got +:\n%s", d)
		}
		var bytes int64
		for _, e := range want {
			bytes += int64(len(e.Content))
		}
		if last.Done != bytes {
			t.Fatalf("got progress up to %d, want %d", last.Done, bytes)
		}
		var rest testSink
		if err := c.GetTree(t.Context(), node.GetRequest{Source: "p2pfs:rest", After: "a/\xff&?", Offset: 7}, &rest, func(p node.Progress) { last = p }); err != nil {
			t.Fatal(err)
		}
		for i, e := range rest.entries() {
			if size := e.Item.Entry.Size; e.Item.Entry.Kind == volume.FileEntry && (e.Item.From != size/2 || e.Content != want[i].Content[size/2:]) {
				t.Fatalf("the second half of a file of %d bytes: got %d from %d", size, len(e.Content), e.Item.From)
			}
		}
		if rest.all[0].Item.ID != "0a0b" || last.Done != bytes {
			t.Fatalf("got ID %q and progress up to %d, want 0a0b and %d", rest.all[0].Item.ID, last.Done, bytes)
		}
		var items []entryIn
		keep := func(i node.Item) error { items = append(items, entryIn{Item: i}); return nil }
		if err := c.List(t.Context(), "x", true, keep); err != nil {
			t.Fatal(err)
		}
		for i := range want {
			want[i].Content = ""
		}
		if d := cmp.Diff(want, items, sameEntries); d != "" {
			t.Fatalf("list: want - got +:\n%s", d)
		}
		if err := c.List(t.Context(), "x", false, keep); err == nil || err.Error() != errDisk.Error() {
			t.Fatalf("list that fails at its end: got %v, want %v", err, errDisk)
		}
		if err := c.List(t.Context(), "x", true, func(node.Item) error { return errDisk }); err != errDisk {
			t.Fatalf("list that is ended: got %v, want %v", err, errDisk)
		}
	})
	if err := c.List(t.Context(), "empty", false, func(node.Item) error { return errDisk }); err != nil {
		t.Errorf("empty list: got %v, want nil", err)
	}
}

func TestManyItemsGoThroughTheSocket(t *testing.T) {
	t.Parallel()
	const n = 20_000
	count := 0
	c, _, _ := serve(t, &fake{
		putTree: func(ctx context.Context, _ node.PutRequest, src node.TreeSource, _ func(node.Progress)) (node.PutResult, error) {
			all, err := readAll(ctx, src, true)
			count = len(all)
			return node.PutResult{}, err
		},
		getTree: func(_ context.Context, _ node.GetRequest, sink node.TreeSink) error {
			for range n {
				if _, err := sink.Take(node.Item{Path: "a", Entry: volume.Entry{Kind: volume.FileEntry}}); err != nil {
					return err
				}
			}
			return nil
		},
	})
	all := make([]entryIn, n)
	for i := range all {
		all[i] = entryIn{Item: node.Item{Path: fmt.Sprint(i), Entry: volume.Entry{Kind: volume.FileEntry, Name: fmt.Sprint(i)}}, Content: "x"}
	}
	if _, err := c.PutTree(t.Context(), node.PutRequest{}, &testSource{all: all, step: 1}, nil); err != nil || count != n {
		t.Errorf("got %d items, %v; want %d", count, err, n)
	}
	var sink testSink
	if err := c.GetTree(t.Context(), node.GetRequest{}, &sink, nil); err != nil || len(sink.all) != n {
		t.Errorf("got %d items, %v; want %d", len(sink.all), err, n)
	}
}

var (
	aRoot = entryIn{Item: node.Item{Entry: volume.Entry{Kind: volume.DirEntry, Name: "r"}}}
	aFile = entryIn{Item: node.Item{Path: "f", Entry: volume.Entry{Kind: volume.FileEntry, Name: "f"}}, Content: strings.Repeat("x", 3<<20)}
)

// brokenFile is a file that cannot be read to its end.
type brokenFile struct{ testSource }

func (s *brokenFile) Next(ctx context.Context) (node.Item, io.Reader, error) {
	item, r, err := s.testSource.Next(ctx)
	if p, ok := r.(*pieces); ok {
		p.err = errDisk
	}
	return item, r, err
}

func TestSourceThatFailsFailsThePutOfATree(t *testing.T) {
	t.Parallel()
	whole := make(chan string, 10)
	c, _, stop := serve(t, &fake{putTree: func(ctx context.Context, q node.PutRequest, src node.TreeSource, _ func(node.Progress)) (node.PutResult, error) {
		_, err := readAll(ctx, src, false)
		if err == nil {
			whole <- q.Name
		}
		return node.PutResult{}, err
	}})
	for name, src := range map[string]node.TreeSource{
		"between items": &testSource{all: []entryIn{aRoot, aFile}, step: 1 << 20, fail: errDisk},
		"like an end":   &testSource{all: []entryIn{aRoot}, fail: fmt.Errorf("torn: %w", errors.Join(io.EOF, errDisk))},
		"in a file":     &brokenFile{testSource{all: []entryIn{aRoot, aFile}, step: 1 << 20}},
	} {
		if _, err := c.PutTree(t.Context(), node.PutRequest{Name: name}, src, nil); !errors.Is(err, errDisk) {
			t.Errorf("%s: client: got %v, want %v", name, err, errDisk)
		}
	}
	long := entryIn{Item: node.Item{Path: strings.Repeat("x/", maxFrame/2), Entry: volume.Entry{Kind: volume.DirEntry, Name: "x"}}}
	if _, err := c.PutTree(t.Context(), node.PutRequest{}, &testSource{all: []entryIn{aRoot, long}}, nil); err == nil {
		t.Error("an item that is too long: got no error")
	}
	stop() // a node that heard of them at all has answered
	close(whole)
	for name := range whole {
		t.Errorf("%s: node: got a whole tree, want an error", name)
	}
}

func TestErrorsOfTreesArriveWithCodeAndHint(t *testing.T) {
	t.Parallel()
	sent := &node.Error{Code: node.Short, Hint: "wait", Err: fmt.Errorf("pack 3f2a9c01: %w", errDisk)}
	long := &node.Error{Code: node.Corrupt, Err: errors.New(strings.Repeat("x", 1<<20))}
	c, _, _ := serve(t, &fake{
		putTree: func(context.Context, node.PutRequest, node.TreeSource, func(node.Progress)) (node.PutResult, error) {
			return node.PutResult{}, sent // early
		},
		getTree: func(_ context.Context, q node.GetRequest, sink node.TreeSink) error {
			switch q.Source {
			case "begun":
				_ = sendAll(sink, []entryIn{aRoot})
			case "in a file":
				_ = sendAll(sink, []entryIn{aRoot, aFile})
			case "long":
				_ = sendAll(sink, []entryIn{aRoot, aFile})
				return long
			}
			return sent
		},
		list: func(context.Context, string, bool, func(node.Item) error) error { return sent },
	})
	files := make([]entryIn, 100)
	for i := range files {
		files[i] = aFile // more than sockets buffer
	}
	_, putErr := c.PutTree(t.Context(), node.PutRequest{}, &testSource{all: files, step: 1 << 20}, nil)
	get := func(source string) error {
		return c.GetTree(t.Context(), node.GetRequest{Source: source}, &testSink{}, nil)
	}
	for name, err := range map[string]error{
		"put": putErr, "get": get(""), "get begun": get("begun"), "get in a file": get("in a file"),
		"list": c.List(t.Context(), "", false, nil),
	} {
		if node.CodeOf(err) != sent.Code || node.HintOf(err) != sent.Hint || err.Error() != sent.Error() || len(Causes(err)) != 1 {
			t.Errorf("%s: got %v, want %v", name, err, sent)
		}
	}
	if err := get("long"); node.CodeOf(err) != long.Code || len(err.Error()) != maxMessage {
		t.Errorf("a long error: got %d and %d bytes, want %d and %d", node.CodeOf(err), len(err.Error()), long.Code, maxMessage)
	}
}

func TestBrokenTreeIsNeverWhole(t *testing.T) {
	t.Parallel()
	item, err := itemFrame(aFile.Item, false)
	if err != nil {
		t.Fatal(err)
	}
	frame := func(kind byte, payload string) string {
		h := make([]byte, frameHeader)
		putHeader(h, kind, len(payload))
		return string(h) + payload
	}
	file := string(item) + frame(frameData, "x") + frame(frameFileEnd, "")
	end := frame(frameEnd, `{"code":0}`)
	for name, body := range map[string]string{
		"no end":                 file,
		"end cut":                file + end[:len(end)-1],
		"end in a file":          string(item) + frame(frameData, "x") + end,
		"item in a file":         string(item) + file + end,
		"data without a file":    frame(frameData, "x") + end,
		"empty data":             string(item) + frame(frameData, "") + frame(frameFileEnd, "") + end,
		"file ends twice":        file + frame(frameFileEnd, "") + end,
		"unknown frame":          frame('?', "") + end,
		"item without a kind":    frame(frameItem, string(item[frameHeader:frameHeader+1])+"\x00"+string(item[frameHeader+2:])) + end,
		"item that is cut":       frame(frameItem, string(item[frameHeader:len(item)-1])) + end,
		"item with a rest":       frame(frameItem, string(item[frameHeader:])+"x") + end,
		"item with other flags":  frame(frameItem, "\x80"+string(item[frameHeader+1:])) + end,
		"item of nothing":        frame(frameItem, "") + end,
		"more than is allowed":   "i\xff\xff\xff\xff" + strings.Repeat("x", 100),
		"outcome that is no one": frame(frameEnd, "x"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			if err := answerWith(t, answer).GetTree(t.Context(), node.GetRequest{}, &testSink{}, nil); err == nil {
				t.Error("got no error, want one")
			}
			if _, err := readAll(t.Context(), &wireSource{items: newItemReader(strings.NewReader(body))}, true); err == nil {
				t.Error("as a source: got no error, want one")
			}
		})
	}
	whole := file + end
	answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(whole), whole)
	if err := answerWith(t, answer).GetTree(t.Context(), node.GetRequest{}, &testSink{}, nil); err != nil {
		t.Errorf("a whole tree: got %v, want nil", err)
	}
	// In a list files have no content.
	if err := answerWith(t, answer).List(t.Context(), "", false, func(node.Item) error { return nil }); err == nil {
		t.Error("a list with content: got no error, want one")
	}
}

func TestReaderOfAFileEndsWithIt(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if _, err := io.Copy(&b, &treeReader{ctx: t.Context(), src: &testSource{all: []entryIn{aFile, aFile}, step: 100}}); err != nil {
		t.Fatal(err)
	}
	src := &wireSource{items: newItemReader(&b)}
	_, first, err := src.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := src.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := first.Read(make([]byte, 10)); n > 0 || err == nil || err == io.EOF {
		t.Errorf("got %d bytes, %v from a reader that is over; want an error", n, err)
	}
}

// stuck is a source that gives a root, and waits.
type stuck struct{ begun bool }

func (s *stuck) Next(ctx context.Context) (node.Item, io.Reader, error) {
	if !s.begun {
		s.begun = true
		return aRoot.Item, nil, nil
	}
	<-ctx.Done()
	return node.Item{}, nil, ctx.Err()
}

// endless is a source of a file without an end.
type endless struct{ begun bool }

func (s *endless) Next(context.Context) (node.Item, io.Reader, error) {
	if !s.begun {
		s.begun = true
		return aRoot.Item, nil, nil
	}
	return aFile.Item, &zeros{n: 1 << 62}, nil
}

func TestCancelledTreesEndOnBothSides(t *testing.T) {
	t.Parallel()
	began, ended, wait := waiting()
	c, _, stop := serve(t, &fake{
		putTree: func(ctx context.Context, q node.PutRequest, src node.TreeSource, _ func(node.Progress)) (node.PutResult, error) {
			if q.Name == "waits" {
				return node.PutResult{}, wait(ctx)
			}
			began <- struct{}{}
			_, _, _ = src.Next(ctx)
			_, r, err := src.Next(ctx)
			if err == nil {
				_, err = io.Copy(io.Discard, r)
			}
			ended <- err
			return node.PutResult{}, err
		},
		getTree: func(ctx context.Context, q node.GetRequest, sink node.TreeSink) error {
			if q.Source == "begun" {
				_ = sendAll(sink, []entryIn{aRoot, aFile})
			}
			return wait(ctx)
		},
		list: func(ctx context.Context, _ string, _ bool, yield func(node.Item) error) error {
			_ = yield(aRoot.Item)
			return wait(ctx)
		},
	})
	requests := map[string]func(context.Context) error{
		"put that reads": func(ctx context.Context) error {
			_, err := c.PutTree(ctx, node.PutRequest{}, &endless{}, nil)
			return err
		},
		"put that waits": func(ctx context.Context) error {
			_, err := c.PutTree(ctx, node.PutRequest{Name: "waits"}, &endless{}, nil)
			return err
		},
		"get": func(ctx context.Context) error { return c.GetTree(ctx, node.GetRequest{}, &testSink{}, nil) },
		"get begun": func(ctx context.Context) error {
			return c.GetTree(ctx, node.GetRequest{Source: "begun"}, &testSink{}, nil)
		},
		"list": func(ctx context.Context) error {
			return c.List(ctx, "", false, func(node.Item) error { return nil })
		},
	}
	for name, f := range requests {
		endsWhenCancelled(t, name, f, began, ended)
	}
	// A node that stops ends them too.
	done := make(chan error, 1)
	go func() {
		_, err := c.PutTree(t.Context(), node.PutRequest{}, &stuck{}, nil)
		done <- err
	}()
	<-began
	stop()
	if err := <-done; node.CodeOf(err) != node.Failed || !strings.Contains(err.Error(), "the node is stopping") {
		t.Errorf("got %v, want that the node is stopping", err)
	}
	<-ended
}

func FuzzItemReader(f *testing.F) {
	for _, all := range [][]entryIn{{aRoot}, {aRoot, {Item: aFile.Item, Content: "hello", LeftOut: "it changed"}}} {
		var b bytes.Buffer
		if _, err := io.Copy(&b, &treeReader{ctx: f.Context(), src: &testSource{all: all, step: 3}}); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add(endFrame(&node.Error{Code: node.Short, Hint: "wait", Err: errDisk}))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readAll(t.Context(), &wireSource{items: newItemReader(bytes.NewReader(b))}, false)
		if err != nil {
			return
		}
		skipped, err := readAll(t.Context(), &wireSource{items: newItemReader(bytes.NewReader(b))}, true)
		if err != nil || len(skipped) != len(got) {
			t.Fatalf("without content: got %d items, %v; want %d", len(skipped), err, len(got))
		}
		var again bytes.Buffer
		if _, err := io.Copy(&again, &treeReader{ctx: t.Context(), src: &testSource{all: got, step: 1 << 20}}); err != nil {
			return // varints of the same item may be longer than they were
		}
		back, err := readAll(t.Context(), &wireSource{items: newItemReader(&again)}, false)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got { // what is said of why is kept as far as it is text
			got[i].LeftOut, back[i].LeftOut = "", ""
		}
		if d := cmp.Diff(got, back, sameEntries); d != "" {
			t.Fatalf("want - got +:\n%s", d)
		}
	})
}

// sameSource gives one file without content between two that have some.
type sameSource struct{ n int }

func (s *sameSource) Next(context.Context) (node.Item, io.Reader, error) {
	if s.n++; s.n > 3 {
		return node.Item{}, nil, io.EOF
	}
	name := fmt.Sprint(s.n)
	item := node.Item{Path: name, Entry: volume.Entry{Kind: volume.FileEntry, Name: name, Size: 3, Inode: uint64(s.n)}}
	if s.n == 2 {
		return item, nil, nil
	}
	return item, strings.NewReader("abc"), nil
}

func TestAFileAsItWasTravelsWithoutContent(t *testing.T) {
	encoded, err := io.ReadAll(&treeReader{ctx: t.Context(), src: &sameSource{}})
	if err != nil {
		t.Fatal(err)
	}
	items := newItemReader(bytes.NewReader(encoded))
	items.put = true
	src := &wireSource{items: items}
	for i, want := range []string{"abc", "", "abc"} {
		item, r, err := src.Next(t.Context())
		if err != nil || item.Entry.Inode != uint64(i+1) || (r == nil) != (want == "") {
			t.Fatalf("got %+v, %v, %v", item, r, err)
		}
		if r != nil {
			if b, err := io.ReadAll(r); err != nil || string(b) != want {
				t.Errorf("got %q, %v, want %q", b, err, want)
			}
		}
	}
	if _, _, err := src.Next(t.Context()); err != io.EOF {
		t.Errorf("got %v, want the end", err)
	}
	// A node that sends a tree cannot leave out content that way.
	if got, err := readAll(t.Context(), &wireSource{items: newItemReader(bytes.NewReader(encoded))}, false); !errors.Is(err, errFrame) || len(got) != 1 {
		t.Errorf("got %d items, %v, want %v", len(got), err, errFrame)
	}
}
