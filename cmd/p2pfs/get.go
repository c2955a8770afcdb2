package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

func getCommand(a *app) *cobra.Command {
	var out string
	var force bool
	c := &cobra.Command{
		Use:   "get SOURCE [-o PATH] [--force]",
		Short: "Fetch a file or a tree",
		Long: `get fetches the file or tree that a link leads to, and gives it its name, mode and
time. LINK/PATH is a file or directory in a tree. NAME:PATH is one in a volume, NAME:
all of it, NAME@N:PATH as it was at head N. -o names another place: a file, a
directory to put it into, or - for stdout. What is there already is not replaced
without --force, and then as a whole. The file or tree appears when it is whole,
never before.

In a tree, symbolic and hard links, holes and extended attributes are as they were.
Owners, setuid and setgid bits and devices are made by root only; devices that are
left out are listed, and the exit status is 3.`,
		Example: `  p2pfs get LINK
  p2pfs get LINK -o copies/
  p2pfs get LINK/2026/report.pdf
  p2pfs get docs:2026/report.pdf
  p2pfs get LINK -o report.pdf --force`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.Partial, node.NotFound, node.Short, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return about("get "+showSource(args[0]), a.get(c.Context(), args[0], out, force))
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "file or directory to write to, - for stdout")
	c.Flags().BoolVar(&force, "force", false, "replace what is there")
	return c
}

// getLine is what get prints with --json.
type getLine struct {
	Path    string  `json:"path"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	Files   *int64  `json:"files,omitempty"` // of a tree
}

func (a *app) get(ctx context.Context, text, out string, force bool) error {
	s, err := readSource(text)
	if err != nil {
		return err
	}
	q := node.GetRequest{Source: text, Length: -1}
	if out == "-" {
		if a.json {
			return usagef("", "--json and -o - would both write to stdout")
		}
		return a.withNode(ctx, func(ctx context.Context, api control.API) error {
			p := a.progress("get")
			defer p.end()
			if s.mayBeTree() {
				return api.GetTree(ctx, q, &outSink{w: a.stdout}, p.update)
			}
			return api.Get(ctx, q, func(node.FileInfo) (io.Writer, error) { return a.stdout, nil }, p.update)
		})
	}
	t, err := newTarget(out, force)
	if err != nil {
		return err
	}
	t.as = s.name()
	return a.withNode(ctx, func(ctx context.Context, api control.API) error {
		if s.mayBeTree() {
			return a.getTree(ctx, api, q, t)
		}
		begun := time.Now()
		size, err := a.fetch(ctx, api, q, t)
		if err != nil {
			return err
		}
		took := time.Since(begun)
		if a.json {
			return a.printJSON(getLine{Path: t.path, Bytes: size, Seconds: took.Seconds()})
		}
		a.say("%s: %s in %s", show(t.path), formatSize(size), formatDuration(took))
		return nil
	})
}

// getTree gets a tree, or an entry of one, into t.
func (a *app) getTree(ctx context.Context, api control.API, q node.GetRequest, t *target) error {
	begun := time.Now()
	x := &extraction{t: t, asRoot: os.Geteuid() == 0, tell: a.leftOut}
	defer x.discard()
	p := a.progress("get")
	err := api.GetTree(ctx, q, x, p.update)
	if err == nil {
		err = x.finish()
	}
	p.end()
	if err != nil {
		return err
	}
	took := time.Since(begun)
	if a.json {
		err = a.printJSON(getLine{Path: t.path, Bytes: x.bytes, Seconds: took.Seconds(), Files: &x.files})
	} else {
		a.say("%s: %s, %s in %s", show(t.path), count(int(x.files), "file"), formatSize(x.bytes), formatDuration(took))
	}
	if err == nil && x.leftOut > 0 {
		return quietError(node.Partial)
	}
	return err
}

// outSink writes the content of one file.
type outSink struct{ w io.Writer }

// Take refuses all but a file.
func (s *outSink) Take(item node.Item) (io.Writer, error) {
	switch item.Entry.Kind {
	case volume.FileEntry:
		return s.w, nil
	case volume.DirEntry:
		return nil, usagef("'p2pfs cat LINK/PATH', or NAME:PATH, writes a file in it", "it is a directory, which cannot go to stdout")
	}
	return nil, usagef("'p2pfs get' makes it", "it is not a file, and cannot go to stdout")
}

// fetch gets a source into t and gives its size.
func (a *app) fetch(ctx context.Context, api control.API, q node.GetRequest, t *target) (int64, error) {
	defer t.discard()
	p := a.progress("get")
	defer p.end()
	var info node.FileInfo
	err := api.Get(ctx, q, func(i node.FileInfo) (io.Writer, error) {
		info = i
		return t, t.create(i.Name)
	}, p.update)
	if err != nil {
		return 0, err
	}
	if t.tmp == nil {
		return 0, errors.New("the node sent no file")
	}
	if t.written != info.Size {
		return 0, fmt.Errorf("the node sent %d bytes, the file has %d", t.written, info.Size)
	}
	return info.Size, t.finish(info)
}

// target is where a get writes: a temporary file in the directory of the one it
// becomes when it is whole.
type target struct {
	dir   string
	name  string // empty: it is called as, in dir
	as    string // empty: what the file itself is called
	force bool

	path    string // of the file, once its name is known
	tmp     *os.File
	forget  func() // takes tmp off what a signal removes
	written int64  // bytes
	flush   flusher
}

// newTarget finds out what -o means, and refuses early what will be refused
// anyway.
func newTarget(out string, force bool) (*target, error) {
	t := &target{dir: ".", force: force}
	if out == "" {
		return t, nil
	}
	i, err := os.Stat(out)
	switch {
	case err == nil && i.IsDir():
		t.dir = out
		return t, nil
	case os.IsPathSeparator(out[len(out)-1]):
		return nil, fmt.Errorf("%s is not a directory", show(out))
	}
	t.dir, t.name = filepath.Split(out)
	if t.dir == "" {
		t.dir = "."
	}
	if i, err := os.Stat(t.dir); err != nil || !i.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", show(t.dir))
	}
	t.path = out
	return t, t.mayReplace()
}

// there is what stands at the path, nil where nothing does or that cannot be
// told.
func (t *target) there() (fs.FileInfo, error) {
	i, err := os.Lstat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return i, err
}

// mayReplace refuses a path at which something stands that is not to go.
func (t *target) mayReplace() error {
	i, err := t.there()
	switch {
	case i == nil:
		return err
	case i.IsDir():
		return fmt.Errorf("%s is a directory", show(t.path))
	case !t.force:
		return t.errExists()
	case !i.Mode().IsRegular() && i.Mode().Type() != fs.ModeSymlink:
		return &node.Error{Code: node.Failed, Hint: "-o - writes to stdout", Err: fmt.Errorf("%s is not a regular file", show(t.path))}
	}
	return nil
}

// mayReplaceTree is mayReplace for a directory that is to stand there.
func (t *target) mayReplaceTree() error {
	i, err := t.there()
	switch {
	case i == nil:
		return err
	case !t.force:
		return t.errExists()
	case !i.IsDir():
		return &node.Error{
			Code: node.Failed,
			Hint: "remove it, or name another place with -o PATH",
			Err:  fmt.Errorf("%s is not a directory, what is fetched is one", show(t.path)),
		}
	}
	return nil
}

// named says, once it is known, what the file or tree is called, which whoever
// made the link has chosen. Where the source has said it that counts.
func (t *target) named(name string) error {
	if t.name != "" {
		return nil
	}
	if t.as != "" {
		name = t.as
	}
	if err := checkName(name); err != nil {
		return err
	}
	t.path = filepath.Join(t.dir, name)
	return nil
}

func (t *target) errExists() error {
	return &node.Error{Code: node.Failed, Hint: "--force replaces it, -o PATH names another", Err: fmt.Errorf("%s exists", show(t.path))}
}

// create makes the temporary file. name is what the file says it is called.
func (t *target) create(name string) error {
	if err := t.named(name); err != nil {
		return err
	}
	if err := t.mayReplace(); err != nil {
		return err
	}
	f, err := os.CreateTemp(t.dir, ".p2pfs-get-*")
	if err != nil {
		return err
	}
	t.tmp, t.forget = f, removeAtExit(f.Name())
	t.flush.f = f
	return nil
}

// checkName refuses names that would put a file elsewhere than the user thinks.
func checkName(name string) error {
	bad := name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") ||
		!filepath.IsLocal(name) || filepath.Base(name) != name
	if bad {
		return &node.Error{
			Code: node.Failed,
			Hint: "-o PATH gives it another name",
			Err:  fmt.Errorf("the file is called %s, which is no name for a file here", show(name)),
		}
	}
	return nil
}

func (t *target) Write(p []byte) (int, error) {
	n, err := t.tmp.Write(p)
	t.written += int64(n)
	t.flush.wrote(n)
	return n, err
}

// finish makes the temporary file the one that was asked for, durably.
func (t *target) finish(info node.FileInfo) error {
	if err := t.flush.wait(); err != nil {
		return err
	}
	if err := t.tmp.Chmod(fs.FileMode(info.Mode).Perm()); err != nil && runtime.GOOS != "windows" {
		return err
	}
	if err := t.tmp.Sync(); err != nil {
		return err
	}
	if err := t.tmp.Close(); err != nil {
		return err
	}
	if err := os.Chtimes(t.tmp.Name(), time.Time{}, info.ModTime); err != nil {
		return err
	}
	if err := t.place(); err != nil {
		return err
	}
	t.forget()
	t.tmp = nil
	return syncDir(t.dir)
}

// place gives the temporary file its name. Without force it does not replace
// what has come there meanwhile.
func (t *target) place() error {
	if t.force {
		return os.Rename(t.tmp.Name(), t.path)
	}
	err := os.Link(t.tmp.Name(), t.path)
	switch {
	case err == nil:
		return os.Remove(t.tmp.Name())
	case errors.Is(err, fs.ErrExist):
		return t.errExists()
	}
	// The file system has no hard links: take the name first.
	f, err := os.OpenFile(t.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return t.errExists()
	}
	if err != nil {
		return err
	}
	_ = f.Close()
	if err := os.Rename(t.tmp.Name(), t.path); err != nil {
		_ = os.Remove(t.path)
		return err
	}
	return nil
}

// discard removes the temporary file, if it has not become the file.
func (t *target) discard() {
	if t.tmp == nil {
		return
	}
	_ = t.flush.wait()
	_ = t.tmp.Close()
	_ = os.Remove(t.tmp.Name())
	t.forget()
	t.tmp = nil
}

// syncDir makes the names in a directory durable, where systems have that.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// flushLen is how many bytes are written before the disk is set to work on
// them. Without that a large file would wait for all of the disk at its end.
const flushLen = 32 << 20

// flusher syncs a file while it is written.
type flusher struct {
	f       *os.File
	pending int        // bytes written since the last sync began
	running chan error // of a sync under way, else nil
}

// wrote starts a sync after every flushLen bytes, one at a time.
func (w *flusher) wrote(n int) {
	w.pending += n
	if w.pending < flushLen || w.running != nil && len(w.running) == 0 {
		return
	}
	if w.wait() != nil {
		return // the sync at the end will tell
	}
	w.pending = 0
	done := make(chan error, 1)
	w.running = done
	go func() { done <- w.f.Sync() }()
}

// wait waits for a sync that is under way.
func (w *flusher) wait() error {
	if w.running == nil {
		return nil
	}
	err := <-w.running
	w.running = nil
	return err
}
