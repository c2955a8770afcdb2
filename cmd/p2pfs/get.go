package main

import (
	"cmp"
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
never before. What there is of it until then is .NAME.p2pfs-part beside it, and
stays if the get is interrupted or fails: the same command goes on from there.

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
	err := a.goOn(t, func(at mark, look bool, p *progress) error {
		x.restart(at, look)
		q.After, q.Offset = at.After, at.Offset
		if look {
			q.After = behindAll
		}
		err := api.GetTree(ctx, q, x, p.update)
		if err == nil {
			err = x.finish()
		}
		return err
	})
	if err != nil {
		x.discard()
		a.keep(t, err)
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

// behindAll is a path behind all that there can be: with it a tree is given
// without content.
var behindAll = strings.Repeat("\xff", 256)

// goOn has get fetch, from where its partial ends: from the beginning where there
// is none. Which it is is known once the node has said what the content is, so
// where one may be that is asked first, with look.
func (a *app) goOn(t *target, get func(at mark, look bool, p *progress) error) error {
	p := a.progress("get")
	defer p.end()
	var at mark
	look := t.leftOver()
	for range 8 {
		err := get(at, look, p)
		if !errors.Is(err, errElsewhere) {
			return err
		}
		look = false
		at = t.part.mark
		p.begin(at.Bytes)
		if at.Bytes > 0 {
			a.say("%s: %s of it are here already", show(t.path), formatSize(at.Bytes))
		}
	}
	return errors.New("what it leads to changes all the time")
}

// keep ends the partial of a get that has failed, and tells what is kept.
func (a *app) keep(t *target, err error) {
	if t.part == nil {
		return
	}
	if errors.Is(err, errOrder) { // there is no going on with that
		t.part.wipe()
	}
	if kept := t.part.leave(); kept > 0 {
		a.say("%s: %s of it are kept in %s: the same command goes on from there", show(t.path), formatSize(kept), show(t.part.path))
	}
	t.part = nil
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
	var info node.FileInfo
	err := a.goOn(t, func(at mark, look bool, p *progress) error {
		t.discard()
		q.Offset, q.Length = at.Offset, -1
		if look {
			q.Length = 0
		}
		err := api.Get(ctx, q, func(i node.FileInfo) (io.Writer, error) {
			info = i
			return t, t.create(i, at, look)
		}, func(n node.Progress) {
			if n.Total >= 0 {
				n.Total += at.Offset
			}
			p.update(node.Progress{Done: n.Done + at.Offset, Total: n.Total})
		})
		if err != nil {
			return err
		}
		if t.tmp == nil {
			return errors.New("the node sent no file")
		}
		if t.written != info.Size {
			return fmt.Errorf("the node sent %d bytes, the file has %d", t.written, info.Size)
		}
		return t.finish(info)
	})
	if err != nil {
		t.discard()
		a.keep(t, err)
		return 0, err
	}
	return info.Size, nil
}

// target is where a get writes: a partial in the directory of the file or tree
// that it becomes when it is whole.
type target struct {
	dir   string
	name  string // empty: it is called as, in dir
	as    string // empty: what the file itself is called
	force bool

	path string   // of the file, once its name is known
	part *partial // nil: nothing has begun

	tmp     *os.File // of a file: what is written to
	written int64    // bytes, with those that were there

	flushLen int   // in place of the constant, for tests; 0: that
	keepLen  int64 // in place of the constant, for tests; 0: that
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

// leftOver tells whether there may be a partial of it.
func (t *target) leftOver() bool { return leftOver(t.dir, cmp.Or(t.name, t.as)) }

// begin takes the partial of what has that ID into use. Where the get does not go
// on from its mark the error is errElsewhere.
func (t *target) begin(id string, at mark, look bool) error {
	if t.part == nil {
		var err error
		if t.part, err = openPartial(t.dir, filepath.Base(t.path)); err != nil {
			return err
		}
		t.part.flushLen, t.part.keepLen = cmp.Or(t.flushLen, flushLen), cmp.Or(t.keepLen, keepLen)
	}
	if m := t.part.of(id); m != at || look {
		return errElsewhere
	}
	return nil
}

// create begins, or goes on with, a file.
func (t *target) create(info node.FileInfo, at mark, look bool) error {
	if err := t.named(info.Name); err != nil {
		return err
	}
	if err := t.mayReplace(); err != nil {
		return err
	}
	if err := t.begin(info.ID, at, look); err != nil {
		return err
	}
	dir, err := os.OpenRoot(t.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	t.written = at.Offset
	t.tmp, err = t.part.open(dir, filepath.Base(t.part.path), at.Offset, true)
	if errors.Is(err, errElsewhere) {
		err = t.part.back(mark{})
	}
	return err
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
	if err == nil {
		err = t.part.wrote(n, t.point)
	}
	return n, err
}

// point is how far it is, and what makes that durable.
func (t *target) point() (mark, func() error) {
	return mark{Offset: t.written, Bytes: t.written}, t.tmp.Sync
}

// finish makes the partial the file that was asked for, durably.
func (t *target) finish(info node.FileInfo) error {
	if err := t.part.wait(); err != nil {
		return err
	}
	if err := t.tmp.Chmod(fs.FileMode(info.Mode).Perm()); err != nil && runtime.GOOS != "windows" {
		return err
	}
	m, sync := t.point()
	if err := sync(); err != nil {
		return err
	}
	if err := t.part.record(m); err != nil {
		return err
	}
	if err := t.tmp.Close(); err != nil {
		return err
	}
	t.tmp = nil
	if err := os.Chtimes(t.part.path, time.Time{}, info.ModTime); err != nil {
		return err
	}
	if err := t.place(); err != nil {
		return err
	}
	err := syncDir(t.dir)
	t.part.done()
	t.part = nil
	return err
}

// place gives the partial its name. Without force it does not replace
// what has come there meanwhile.
func (t *target) place() error {
	if t.force {
		return os.Rename(t.part.path, t.path)
	}
	err := os.Link(t.part.path, t.path)
	switch {
	case err == nil:
		return os.Remove(t.part.path)
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
	if err := os.Rename(t.part.path, t.path); err != nil {
		_ = os.Remove(t.path)
		return err
	}
	return nil
}

// discard ends the writing of a file that is not whole; what there is of it
// is made durable.
func (t *target) discard() {
	if t.tmp == nil {
		return
	}
	m, sync := t.point()
	if t.part.wait() == nil && sync() == nil {
		_ = t.part.record(m)
	}
	_ = t.tmp.Close()
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
