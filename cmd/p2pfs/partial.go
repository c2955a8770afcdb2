package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// A partial is what a get has made so far, a file or a directory under a name of
// its own beside the target, which it becomes when it is whole. Beside it is a
// file that says how much of it is on the disk, synced, and of what content that
// is: so that the same get again goes on there, whatever has ended this one.
// Nothing but what was synced counts: of what was written after that a power cut
// may leave rubbish.
//
// Only who has that file locked writes to either. Where it cannot be had, or
// the node does not say what the content is, the partial has a name that nobody
// finds again, and goes away if it does not become whole.
type partial struct {
	dir    string
	path   string   // of what is made
	state  *os.File // locked; nil: nobody goes on with it
	id     string   // what it is of
	mark   mark     // what is durable; the goroutine behind running sets it
	forget func()   // takes it off what a signal removes

	pending int        // bytes written since the last sync began
	running chan error // of a sync under way, else nil
	failed  error      // of a sync: the system may tell of it once only
	synced  time.Time  // when the state was last

	flushLen int   // bytes; fewer than the constant in tests
	keepLen  int64 // bytes; fewer than the constant in tests
}

const (
	// flushLen is how many bytes are written before the disk is set to work on
	// them, and as many more before that is waited for: with what the node has
	// under way it bounds what is fetched twice by a get that was interrupted.
	// Without it a large file would wait for all of the disk at its end.
	flushLen = 6 << 20

	// keepLen is from how many bytes on it is worth to leave a partial behind.
	keepLen = 1 << 20

	// stateSync is how often the state is synced itself, at most: if a power
	// cut takes the last of it, more is fetched again.
	stateSync = time.Second

	// maxAfter is the longest path in a mark, in bytes: it has to fit a request
	// to the node.
	maxAfter = 8 << 10
)

// mark is how far a get has come: all entries up to After, and Offset bytes of
// the file behind that; of a file alone Offset bytes.
type mark struct {
	After  string
	Offset int64
	Bytes  int64 // of content, in all
}

// beyond tells whether m is farther than o.
func (m mark) beyond(o mark) bool {
	if c := volume.ComparePaths(m.After, o.After); c != 0 {
		return c > 0
	}
	return m.Offset > o.Offset
}

// stateLine is a line of the state, behind its checksum. The last that is whole
// counts.
type stateLine struct {
	ID     string `json:"id"`
	After  []byte `json:"after,omitempty"` // a path, which need not be UTF-8
	Offset int64  `json:"offset,omitempty"`
	Bytes  int64  `json:"bytes,omitempty"`
}

// The names beside the target.
const (
	partSuffix  = ".p2pfs-part"
	stateSuffix = ".p2pfs-state"
)

// errElsewhere is the error of a sink that is given what it does not need, or
// not what it needs: the partial's mark says where to begin.
var errElsewhere = errors.New("the get has to begin elsewhere")

// partNames gives the names of what is made of name, and of its state.
func partNames(name string) (part, state string) {
	if len(name) > 255-len("."+stateSuffix) {
		sum := sha256.Sum256([]byte(name))
		name = hex.EncodeToString(sum[:])
	}
	return "." + name + partSuffix, "." + name + stateSuffix
}

// openPartial takes what there is of a target in dir, or begins anew. The caller
// ends it with done or leave. The error is that of another get at the same time.
func openPartial(dir, name string) (*partial, error) {
	p := &partial{dir: dir, flushLen: flushLen, keepLen: keepLen, forget: func() {}}
	part, state := partNames(name)
	f, err := lockState(filepath.Join(dir, state))
	if errors.Is(err, errLocked) {
		return nil, &node.Error{
			Code: node.Failed,
			Hint: "wait for it, or name another place with -o PATH",
			Err:  fmt.Errorf("another get is writing to %s", show(filepath.Join(dir, name))),
		}
	}
	if err != nil {
		p.anonymous()
		return p, nil
	}
	p.path, p.state = filepath.Join(dir, part), f
	p.read()
	return p, nil
}

// lockState opens and locks the state of a partial, which is made if it is not
// there.
func lockState(path string) (*os.File, error) {
	for range 100 {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		made := err == nil
		if errors.Is(err, fs.ErrExist) {
			f, err = os.OpenFile(path, os.O_RDWR|noFollow, 0)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		opened, err := f.Stat()
		if err == nil && (!opened.Mode().IsRegular() || !ours(opened)) {
			err = fs.ErrPermission
		}
		if err == nil {
			err = lockFile(f)
		}
		if err == nil {
			// Who had it locked may have removed it before that.
			if now, err := os.Lstat(path); err == nil && os.SameFile(opened, now) {
				return f, nil
			}
		}
		_ = f.Close()
		if err != nil {
			if made && !errors.Is(err, errLocked) { // it cannot be had here
				_ = os.Remove(path)
			}
			return nil, err
		}
	}
	return nil, errLocked
}

// errLocked is the error of a file that another process has locked.
var errLocked = errors.New("locked by another process")

// anonymous has the partial be one that nobody goes on with.
func (p *partial) anonymous() {
	if p.state != nil {
		p.dropState()
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	p.path, p.mark, p.id = filepath.Join(p.dir, ".p2pfs-get-"+hex.EncodeToString(b[:])), mark{}, ""
	p.forget = removeAtExit(p.path)
}

// read reads the state.
func (p *partial) read() {
	r := bufio.NewReader(p.state)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return // with or without a part of a line
		}
		sum, body, _ := bytes.Cut(line[:len(line)-1], []byte(" "))
		var l stateLine
		if string(sum) != stateSum(body) || json.Unmarshal(body, &l) != nil || l.Offset < 0 || l.Bytes < 0 {
			return
		}
		p.id, p.mark = l.ID, mark{After: string(l.After), Offset: l.Offset, Bytes: l.Bytes}
	}
}

func stateSum(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:8])
}

// of says what content the partial is to be of, and gives how much there is of
// it. What there is of another is removed.
func (p *partial) of(id string) mark {
	switch {
	case p.state == nil:
	case id == "" && p.mark != mark{}: // what there is stays for whoever knows what it is
		_ = closeLocked(p.state)
		p.state = nil
		p.anonymous()
	case id == "":
		p.anonymous()
	case p.id != id || p.mark == mark{}:
		p.id = id
		p.wipe()
	}
	return p.mark
}

// wipe removes what has been made, and begins anew.
func (p *partial) wipe() {
	if p.state == nil {
		_ = removeTree(p.path)
		return
	}
	err := p.state.Truncate(0) // first: then nothing is left that could be taken for content
	if err == nil {
		_, err = p.state.Seek(0, 0)
	}
	if err == nil {
		err = removeTree(p.path)
	}
	if err == nil {
		err = p.record(mark{})
	}
	if err != nil { // it is another's, perhaps
		p.anonymous()
	}
}

// record writes down what is durable.
func (p *partial) record(m mark) error {
	if p.state == nil || len(m.After) > maxAfter {
		return nil
	}
	body, err := json.Marshal(stateLine{ID: p.id, After: []byte(m.After), Offset: m.Offset, Bytes: m.Bytes})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(p.state, "%s %s\n", stateSum(body), body); err != nil {
		return err
	}
	p.mark = m
	return nil
}

// syncState makes the state durable, if it is time.
func (p *partial) syncState() error {
	now := time.Now()
	if p.state == nil || now.Sub(p.synced) < stateSync {
		return nil
	}
	if p.synced.IsZero() { // the names too
		if err := syncDir(p.dir); err != nil {
			return err
		}
	}
	p.synced = now
	return p.state.Sync()
}

// back goes back to a mark: what is behind it is not as it should be. The error
// is errElsewhere.
func (p *partial) back(m mark) error {
	if err := p.wait(); err != nil {
		return err
	}
	if len(m.After) > maxAfter {
		m = mark{}
	}
	if m == (mark{}) {
		p.wipe()
	} else if err := p.record(m); err != nil {
		return err
	}
	return errElsewhere
}

// wrote notes n bytes more. Where that is due what has been written is synced
// behind the caller's back: point gives how far that is, and what syncs it.
func (p *partial) wrote(n int, point func() (mark, func() error)) error {
	p.pending += n
	if p.pending < p.flushLen {
		return nil
	}
	if err := p.wait(); err != nil {
		return err
	}
	p.pending = 0
	done := make(chan error, 1)
	p.running = done
	m, sync := point()
	go func() {
		err := sync()
		if err == nil {
			err = p.record(m)
		}
		if err == nil {
			err = p.syncState()
		}
		done <- err
	}()
	return nil
}

// wait waits for a sync that is under way.
func (p *partial) wait() error {
	if p.running != nil {
		err := <-p.running
		p.running = nil
		if p.failed == nil {
			p.failed = err
		}
	}
	return p.failed
}

// done ends a partial that has become the target.
func (p *partial) done() {
	_ = p.wait()
	p.forget()
	if p.state != nil {
		p.dropState()
	}
}

// dropState removes the state and unlocks it: in this order, so that nobody
// locks it that finds it.
func (p *partial) dropState() {
	if !removesOpen {
		_ = closeLocked(p.state)
	}
	_ = os.Remove(p.state.Name())
	_ = closeLocked(p.state)
	p.state = nil
}

// leave ends a partial that has not become whole: what is durable of it stays,
// if it is worth it, and is told.
func (p *partial) leave() (kept int64) {
	_ = p.wait()
	if p.state == nil || p.mark.Bytes < p.keepLen {
		_ = removeTree(p.path)
		p.done()
		return 0
	}
	_ = p.state.Sync()
	_ = closeLocked(p.state)
	p.state = nil
	return p.mark.Bytes
}

// open opens a file to be written from an offset on. The error is errElsewhere
// where it is not as it should be: with alone it is beside the target, where
// others may have put it.
func (p *partial) open(at *os.Root, name string, offset int64, alone bool) (*os.File, error) {
	if offset == 0 {
		return at.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	}
	i, err := at.Lstat(name)
	if err != nil || !i.Mode().IsRegular() || alone && !ours(i) || i.Size() < offset {
		return nil, errElsewhere
	}
	if i.Mode().Perm()&0o600 != 0o600 {
		if err := at.Chmod(name, 0o600); err != nil {
			return nil, err
		}
	}
	f, err := at.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	now, err := f.Stat()
	switch {
	case err != nil:
	case !os.SameFile(i, now):
		err = errElsewhere
	default: // what is behind it was not synced
		err = f.Truncate(offset)
	}
	if err == nil {
		_, err = f.Seek(offset, 0)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// leftOver tells whether there may be a partial of a target; with "", of any in
// dir.
func leftOver(dir, name string) bool {
	if name != "" {
		_, state := partNames(name)
		_, err := os.Lstat(filepath.Join(dir, state))
		return err == nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(1000)
		for _, n := range names {
			if strings.HasSuffix(n, stateSuffix) {
				return true
			}
		}
		if err != nil {
			return false
		}
	}
}
