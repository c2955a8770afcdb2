package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/volume"
)

// putOptions are the flags of put, and its target.
type putOptions struct {
	redundancy schemeFlag
	expires    durationFlag
	exclude    excludes
	target     string // NAME:DIR in a volume; empty: there is none
}

func putCommand(a *app) *cobra.Command {
	var o putOptions
	c := &cobra.Command{
		Use:   "put [--redundancy K+M] [--expires D] [--exclude PATTERN]... PATH... [NAME:DIR]",
		Short: "Store files and trees and print their links",
		Long: `put stores files and directories with all that is below them, and prints a link
for each, one a line. It returns when the shards are durable on distinct peers, and
says how many losses that survives. PATH - is stdin. A link is all that is needed to
get the file or tree.

NAME:DIR, if it comes last, is the directory in a volume in which they appear, each
under its own name; NAME: is the volume's top. What has such a name there is
replaced, and stays in the volume's past. Without it they appear in mine:put/DATE:
mine is the home's own volume, so that a lost link is not a lost file. A local file
with a colon in its name is written ./a:b.

A tree keeps modes, times, owners, extended attributes, symbolic and hard links,
pipes and devices. Files of it that cannot be read, or change meanwhile, are left out
and listed, and the exit status is 3.

--exclude leaves out what a pattern matches, as a line of a .gitignore does: *.o by
name anywhere, /build at the top only, doc/*.txt by path, tmp/ directories only, **
any number of directories. !PATTERN puts it after all; the last that matches counts.

How redundant a file is follows from how many peers there are, up to any 8 of 20
shards, unless --redundancy says it: 8+12 makes 20 shards any 8 of which restore
the file.

A put that is interrupted, or killed, goes on where it was if the same command comes
again within a day: what is stored already is not sent again.`,
		Example: `  p2pfs put report.pdf
  tar -c photos | p2pfs put --redundancy 4+6 -
  p2pfs put --exclude '*.o' --exclude /build/ src
  p2pfs put report.pdf photos docs:2026
  p2pfs put --expires 90d --json *.log`,
		Args:                  arguments(1, -1),
		Annotations:           exits(node.Partial, node.NotFound, node.Short, node.NoPeers, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			paths, err := o.aim(args)
			if err != nil {
				return err
			}
			return a.put(c.Context(), paths, o)
		},
	}
	c.Flags().Var(&o.redundancy, "redundancy", "K+M: K+M shards, any K of which restore the file (default: by the number of peers)")
	c.Flags().Var(&o.expires, "expires", "let holders drop it after this time, such as 90d (default: never)")
	c.Flags().Var(&o.exclude, "exclude", "leave out of trees what matches, as .gitignore does (any number of times)")
	return c
}

// schemeFlag is a flag that holds a scheme.
type schemeFlag struct{ scheme *erasure.Scheme }

func (f *schemeFlag) Set(s string) error {
	scheme, err := erasure.ParseScheme(s)
	if err != nil {
		return err
	}
	if err := pack.CheckScheme(scheme); err != nil {
		return err
	}
	f.scheme = &scheme
	return nil
}

func (f *schemeFlag) String() string {
	if f.scheme == nil {
		return ""
	}
	return f.scheme.String()
}

func (f *schemeFlag) Type() string { return "K+M" }

// putLine is what put prints for a path with --json.
type putLine struct {
	Path string `json:"path"`
	node.PutResult
	RawPlace []byte `json:"raw_place,omitempty"` // where Place is not exact, for JSON is UTF-8
}

// aim cuts the target off the end of what put is given.
func (o *putOptions) aim(args []string) (paths []string, err error) {
	last := len(args) - 1
	if last == 0 || !volume.IsPlace(args[last]) {
		return args, nil
	}
	paths, o.target = args[:last], args[last]
	if _, err := parseChange(o.target); err != nil {
		return nil, about("put "+show(o.target), err)
	}
	if o.expires != 0 {
		return nil, usagef("'p2pfs volume prune' removes what is not in it any more",
			"put %s: --expires is not for what is in a volume: that stays until it is pruned", show(o.target))
	}
	names := make(map[string]string)
	for _, p := range paths {
		name := putName(p)
		if other, twice := names[name]; twice && p != "" {
			return nil, usagef("put them into directories of their own", "put %s: %s and %s would both be %s there", show(o.target), show(other), show(p), show(name))
		}
		names[name] = p
	}
	return paths, nil
}

// putName is the name under which a path is stored.
func putName(path string) string {
	if path == "-" {
		return "stdin"
	}
	return rootName(path)
}

func (a *app) put(ctx context.Context, paths []string, o putOptions) error {
	stdin := 0
	for _, p := range paths {
		switch {
		case p == "":
			return usagef("", "put: an empty path")
		case volume.IsPlace(p):
			return usagef("write ./"+show(p)+" for a local file of that name; into a volume it is p2pfs put PATH... "+show(p),
				"put %s: a path in a volume where a local one is to be", show(p))
		case p == "-":
			stdin++
		}
	}
	if stdin > 1 {
		return usagef("", "put: stdin can be read once only")
	}
	return a.withNodeFor("put "+show(paths[0]), ctx, func(ctx context.Context, api control.API) error {
		return a.putAll(ctx, api, paths, o)
	})
}

// withNodeFor is withNode with what for the errors that come before f.
func (a *app) withNodeFor(what string, ctx context.Context, f func(context.Context, control.API) error) error {
	begun := false
	err := a.withNode(ctx, func(ctx context.Context, api control.API) error {
		begun = true
		return f(ctx, api)
	})
	if !begun {
		return about(what, err)
	}
	return err
}

// putAll puts one path after the other. Those that fail do not keep the others
// from being put.
func (a *app) putAll(ctx context.Context, api control.API, paths []string, o putOptions) error {
	var code node.Code
	done, failed := 0, 0
	for _, p := range paths {
		res, whole, err := a.putOne(ctx, api, p, o)
		if err == nil {
			if err := a.putDone(p, res); err != nil {
				return about("put "+show(p), err)
			}
			done++
			if res.Partial || !whole {
				code = node.Partial
			}
			continue
		}
		err = about("put "+show(p), err)
		if ctx.Err() != nil {
			a.say("%s: what is stored of it stays for a day: the same command goes on from there", show(p))
		}
		if len(paths) == 1 || ctx.Err() != nil {
			return err
		}
		failed++
		if c := a.report(err); failed > 1 && c != code {
			code = node.Failed
		} else {
			code = c
		}
	}
	switch {
	case failed > 0 && done > 0:
		return quietError(node.Partial)
	case code != node.OK:
		return quietError(code)
	}
	return nil
}

// putDone tells of a file that is stored.
func (a *app) putDone(path string, res node.PutResult) error {
	if a.json {
		l := putLine{Path: path, PutResult: res}
		if !utf8.ValidString(res.Place) {
			l.RawPlace = []byte(res.Place)
		}
		return a.printJSON(l)
	}
	if err := a.print("%s", res.Link); err != nil {
		return err
	}
	if res.Warning != "" {
		a.warn("%s: %s", show(path), res.Warning)
	}
	what := formatSize(res.Bytes)
	if res.Files > 0 {
		what = count(int(res.Files), "file") + ", " + what
		if res.NewBytes < res.Bytes/2 {
			what += fmt.Sprintf(" (%s new)", formatSize(res.NewBytes))
		}
	}
	where := ""
	if res.Place != "" {
		where = " as " + show(res.Place)
	}
	a.say("%s: %s stored in %s%s, any %d of %d shards restore it, survives %s", show(path), what,
		formatDuration(time.Duration(res.Seconds*float64(time.Second))), where, res.K, res.N, losses(res.Survives))
	return nil
}

func losses(n int) string {
	switch {
	case n <= 0:
		return "no loss"
	case n == 1:
		return "the loss of any 1 holder"
	}
	return fmt.Sprintf("the loss of any %d holders", n)
}

var errDirectory = &node.Error{
	Code: node.Usage,
	Hint: "put it again",
	Err:  errors.New("it has become a directory"),
}

// putOne stores a path. Whole tells whether nothing of it is left out.
func (a *app) putOne(ctx context.Context, api control.API, path string, o putOptions) (res node.PutResult, whole bool, err error) {
	q := node.PutRequest{Redundancy: o.redundancy.scheme, Expires: time.Duration(o.expires), Target: o.target}
	p := a.progress("put " + show(filepath.Base(path)))
	defer p.end()
	if path == "-" {
		q.Name, q.Mode, q.ModTime, q.Size = putName(path), 0o600, time.Now(), -1
		res, err = api.Put(ctx, q, interruptible(ctx, a.stdin), p.update)
		return res, true, err
	}
	if i, err := os.Stat(path); err == nil && i.IsDir() {
		return a.putTree(ctx, api, path, q, &o.exclude, p)
	}
	f, err := openStable(path)
	if err != nil {
		return node.PutResult{}, false, err
	}
	defer f.close()
	// Of a link it is the file that is stored, but under the name that was given.
	q.Name, q.Mode, q.ModTime, q.Size = filepath.Base(path), uint32(f.begun.Mode().Perm()), f.begun.ModTime(), f.begun.Size()
	res, err = api.Put(ctx, q, f, p.update)
	return res, true, err
}

// putTree stores a directory, as far as it can on top of what was put of it
// before.
func (a *app) putTree(ctx context.Context, api control.API, path string, q node.PutRequest, x *excludes, p *progress) (res node.PutResult, whole bool, err error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return res, false, err
	}
	q.Name, q.Size, q.Source = rootName(abs), -1, abs
	if q.Parent, err = api.Parent(ctx, q); err != nil && ctx.Err() != nil {
		return res, false, err
	}
	res, whole, err = a.walkTree(ctx, api, path, q, x, p)
	if err == nil || q.Parent == "" || ctx.Err() != nil {
		return res, whole, err
	}
	switch node.CodeOf(err) {
	case node.Failed, node.NotFound, node.Short, node.Corrupt: // perhaps of the parent
	default:
		return res, whole, err
	}
	a.warn("%s: what was put before is of no use, all of it is stored anew: %v", show(path), err)
	q.Parent = ""
	return a.walkTree(ctx, api, path, q, x, p)
}

func (a *app) walkTree(ctx context.Context, api control.API, path string, q node.PutRequest, x *excludes, p *progress) (res node.PutResult, whole bool, err error) {
	w, err := newWalker(path, x)
	if err != nil {
		return res, false, err
	}
	defer w.close()
	w.tell = a.leftOut
	w.say = func(path, what string) { a.warn("%s: %s", show(path), what) }
	if q.Parent != "" {
		w.was = newWas(ctx, api, q.Parent)
		defer w.was.close()
	}
	res, err = api.PutTree(ctx, q, w, p.update)
	return res, w.partial() == 0, err
}

// interruptible gives what r gives until ctx ends: a terminal or a pipe may
// never give anything again. The goroutine that reads r may then be left in its
// last Read, up to the end of the process.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	out, in := io.Pipe()
	stop := context.AfterFunc(ctx, func() { in.CloseWithError(ctx.Err()) })
	go func() {
		defer stop()
		_, err := io.CopyBuffer(in, struct{ io.Reader }{r}, make([]byte, stdinLen))
		in.CloseWithError(err) // nil: io.EOF
	}()
	return out
}

// stdinLen is the length of the buffer between stdin and a put, in bytes.
const stdinLen = 512 << 10

// stableFile reads a file that must not change meanwhile: what is stored would
// be a file that never was.
type stableFile struct {
	f     *os.File
	begun fs.FileInfo
	read  int64 // bytes
}

var errChanged = &node.Error{
	Code: node.Failed,
	Hint: "nothing was kept; put it again when nobody writes to it",
	Err:  errors.New("the file changed while it was read"),
}

func openStable(path string) (*stableFile, error) {
	i, err := os.Stat(path) // before it is opened: a pipe would wait for a writer
	if err == nil {
		err = regular(i)
	}
	if err != nil {
		return nil, bare(err, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, bare(err, path)
	}
	opened, err := f.Stat()
	if err == nil {
		err = regular(opened)
	}
	if err != nil {
		_ = f.Close()
		return nil, bare(err, path)
	}
	return &stableFile{f: f, begun: opened}, nil
}

func regular(i fs.FileInfo) error {
	switch {
	case i.IsDir():
		return errDirectory
	case !i.Mode().IsRegular():
		return usagef("use 'p2pfs put -' to put what can be read from it", "it is not a regular file")
	}
	return nil
}

// bare takes the path out of an error that tells of it once more.
func bare(err error, path string) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok && e.Path == path {
		return e.Err
	}
	return err
}

func (s *stableFile) close() { _ = s.f.Close() }

// Read fails, rather than give io.EOF, where the file is not as it was.
func (s *stableFile) Read(p []byte) (int, error) {
	n, err := s.f.Read(p)
	s.read += int64(n)
	if s.read > s.begun.Size() {
		return 0, errChanged
	}
	if err != io.EOF {
		return n, err
	}
	now, err := s.f.Stat()
	if err != nil {
		return n, err
	}
	if s.read != s.begun.Size() || now.Size() != s.begun.Size() || !now.ModTime().Equal(s.begun.ModTime()) {
		return 0, errChanged
	}
	return n, io.EOF
}
