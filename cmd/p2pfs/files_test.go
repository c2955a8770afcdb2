package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
)

// reading is an API whose Put reads as told.
type reading struct {
	control.API

	during func() // after the first piece
}

func (r reading) Put(_ context.Context, _ node.PutRequest, f io.Reader, _ func(node.Progress)) (node.PutResult, error) {
	if _, err := io.ReadFull(f, make([]byte, 4)); err != nil {
		return node.PutResult{}, err
	}
	r.during()
	_, err := io.Copy(io.Discard, f)
	return node.PutResult{}, err
}

func TestFileThatChangesIsNotStored(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(path string) error{
		"grows": func(path string) error {
			return errors.Join(os.WriteFile(path, []byte("0123456789+"), 0o600))
		},
		"shrinks": func(path string) error { return os.Truncate(path, 6) },
		"is written to": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("9")
			return errors.Join(err, f.Close(), os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
				t.Fatal(err)
			}
			a := &app{stdout: io.Discard, stderr: &errWriter{w: io.Discard}}
			_, _, err := a.putOne(t.Context(), reading{during: func() {
				if err := change(path); err != nil {
					t.Error(err)
				}
			}}, path, putOptions{})
			if !errors.Is(err, errChanged) {
				t.Errorf("got %v, want %v", err, errChanged)
			}
			if _, _, err := a.putOne(t.Context(), reading{during: func() {}}, path, putOptions{}); err != nil {
				t.Errorf("left alone: got %v, want nil", err)
			}
		})
	}
}

func TestPutOfStdinThatHangsCanBeInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	stdin, w := io.Pipe()
	defer w.Close()
	go func() { _, _ = io.WriteString(w, "0123") }() // and no more
	a := &app{stdin: stdin, stdout: io.Discard, stderr: &errWriter{w: io.Discard}}
	if _, _, err := a.putOne(ctx, reading{during: cancel}, "-", putOptions{}); node.CodeOf(err) != node.Interrupted {
		t.Errorf("got %v, want that it was interrupted", err)
	}
	whole := &app{stdin: strings.NewReader("0123456789"), stdout: io.Discard, stderr: &errWriter{w: io.Discard}}
	if _, _, err := whole.putOne(t.Context(), reading{during: func() {}}, "-", putOptions{}); err != nil {
		t.Errorf("whole: got %v, want nil", err)
	}
}

// giving is an API whose Get gives a file; before it ends it does something.
type giving struct {
	control.API

	body   string
	before func()
	err    error
}

func (g giving) Get(_ context.Context, _ node.GetRequest, begin func(node.FileInfo) (io.Writer, error), _ func(node.Progress)) error {
	w, err := begin(node.FileInfo{Name: "f", Mode: 0o600, Size: int64(len(g.body)), ModTime: time.Unix(1e9, 0)})
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, g.body); err != nil {
		return err
	}
	g.before()
	return g.err
}

func TestGetNeverReplacesWhatAppearsMeanwhile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	appear := func() {
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Error(err)
		}
	}
	a := &app{stdout: io.Discard, stderr: &errWriter{w: io.Discard}}
	fetch := func(force bool, g giving) error {
		tg, err := newTarget(dir, force)
		if err != nil {
			return err
		}
		_, err = a.fetch(t.Context(), g, node.GetRequest{Length: -1}, tg)
		return err
	}
	if err := fetch(false, giving{body: "new", before: appear}); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("got %v, want that it exists", err)
	}
	holds(t, dir, "f", "precious")
	if err := fetch(true, giving{body: "newer", before: func() {}, err: errors.New("torn")}); err == nil {
		t.Error("got no error of a get that failed")
	}
	holds(t, dir, "f", "precious")
	if err := fetch(true, giving{body: "newer", before: appear}); err != nil {
		t.Errorf("with --force: got %v, want nil", err)
	}
	holds(t, dir, "f", "newer")
}

// holds checks that dir has one file, with that name and content.
func holds(t *testing.T, dir, name, content string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil || len(all) != 1 || all[0].Name() != name {
		t.Errorf("got %v, %v; want %s alone", all, err, name)
	}
	if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != content {
		t.Errorf("got %q, %v; want %q", b, err, content)
	}
}

func TestNamesThatLeadElsewhereAreRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", ".", "..", "/", "a/b", "../a", "/etc/passwd", "a\x00b", "a/"} {
		if checkName(name) == nil {
			t.Errorf("%q: got no error, want one", name)
		}
	}
	for _, name := range []string{"a", "...", "a b", ".hidden", "-", "\xff", "a\nb", strings.Repeat("x", 255)} {
		if err := checkName(name); err != nil {
			t.Errorf("%q: got %v, want nil", name, err)
		}
	}
}

func TestProgressLines(t *testing.T) {
	t.Parallel()
	t0 := time.Unix(1e9, 0)
	r := rate{begun: t0, told: t0}
	for _, c := range []struct {
		after time.Duration
		n     node.Progress
		want  string
	}{
		{time.Second, node.Progress{Done: 1 << 20, Total: 1 << 30}, ""},
		{10 * time.Second, node.Progress{Done: 256 << 20, Total: 1 << 30}, "256 MiB of 1.0 GiB, 26 MiB/s, 30s left"},
		{11 * time.Second, node.Progress{Done: 260 << 20, Total: 1 << 30}, ""},
		{20 * time.Second, node.Progress{Done: 512 << 20, Total: -1}, "512 MiB, 26 MiB/s"},
		{30 * time.Second, node.Progress{Total: 1 << 30}, "0 B of 1.0 GiB, 0 B/s"},
	} {
		if got := r.line(t0.Add(c.after), c.n); got != c.want {
			t.Errorf("after %v: got %q, want %q", c.after, got, c.want)
		}
	}
}

func TestErrorsStayOnTheirLineAndHideLinks(t *testing.T) {
	t.Parallel()
	link := testLink(1)
	var b strings.Builder
	a := &app{stderr: &errWriter{w: &b}, verbose: true}
	code := a.report(about("get "+showSource(link), &node.Error{Code: node.Short, Hint: "wait", Err: errors.Join(errors.New("a\x1b[31m\nb"), errors.New("c"))}))
	if want := "p2pfs: get p2pfs:EQEAAAAAAAAA...: a?[31m?b?c\nhint: wait\ncause: a?[31m?b\ncause: c\n"; code != node.Short || b.String() != want {
		t.Errorf("got %d %q, want %d %q", code, b.String(), node.Short, want)
	}
}
