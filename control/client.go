package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// maxAnswerLen bounds an answer in JSON, in bytes.
const maxAnswerLen = 64 << 20

// Client is a node reached through its control socket. It is safe for
// concurrent use.
type Client struct {
	transport *http.Transport
}

var _ API = (*Client)(nil)

// Dial gives a client of the node that answers at path; the error is
// ErrNoNode where none does.
func Dial(path string) (*Client, error) {
	if err := checkDir(path); err != nil {
		return nil, err
	}
	conn, err := dial(context.Background(), path)
	if err != nil {
		return nil, err
	}
	_ = conn.Close() // it has shown that a node answers; requests make their own
	return &Client{transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx, path)
		},
		DisableCompression: true,
	}}, nil
}

// Close ends the connections that no request uses.
func (c *Client) Close() error {
	c.transport.CloseIdleConnections()
	return nil
}

// Put sends what r gives to the node. Where it returns early, for an error or
// because ctx has ended, one last Read of r may still be under way.
func (c *Client) Put(ctx context.Context, q node.PutRequest, r io.Reader, progress func(node.Progress)) (node.PutResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return c.put(ctx, "put", q, newPutBody(r), progress)
}

// put sends body, which it stops when it returns.
func (c *Client) put(ctx context.Context, name string, q node.PutRequest, body *putBody, progress func(node.Progress)) (node.PutResult, error) {
	defer body.stop()
	defer context.AfterFunc(ctx, body.stop)()
	result, err := c.putBody(ctx, name, q, body, progress)
	if cause := body.failed(); cause != nil {
		return node.PutResult{}, cause // the rest is its consequence
	}
	return result, err
}

func (c *Client) putBody(ctx context.Context, name string, q node.PutRequest, body io.ReadCloser, progress func(node.Progress)) (node.PutResult, error) {
	resp, err := c.send(ctx, http.MethodPost, name, putValues(q), body)
	if err != nil {
		return node.PutResult{}, err
	}
	defer resp.Body.Close()
	r, err := readLines[node.Progress, putResult](ctx, resp.Body, progress)
	if r.RawPlace != nil {
		r.Place = string(r.RawPlace)
	}
	return r.PutResult, err
}

// readLines reads the lines of an answer up to its result or error.
func readLines[P, R any](ctx context.Context, r io.Reader, progress func(P)) (R, error) {
	var none R
	for lines := json.NewDecoder(r); ; {
		var l line[P, R]
		if err := lines.Decode(&l); err != nil {
			return none, lost(ctx, err)
		}
		switch {
		case l.Result != nil:
			return *l.Result, nil
		case l.Error != nil && l.Error.Code != node.OK:
			return none, l.Error.err()
		case l.Progress != nil && progress != nil:
			progress(*l.Progress)
		}
	}
}

// Get writes the bytes asked for to the writer that begin returns. Its error is
// nil only if the node has said, after the last byte, that they are all.
func (c *Client) Get(ctx context.Context, q node.GetRequest, begin func(node.FileInfo) (io.Writer, error), progress func(node.Progress)) error {
	resp, err := c.send(ctx, http.MethodGet, "get", url.Values{
		"source": {q.Source},
		"offset": {strconv.FormatInt(q.Offset, 10)},
		"length": {strconv.FormatInt(q.Length, 10)},
	}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var info fileInfo
	if err := json.Unmarshal([]byte(resp.Header.Get(infoHeader)), &info); err != nil {
		return fmt.Errorf("answer of the node: %w", err)
	}
	if info.RawName != nil {
		info.Name = string(info.RawName)
	}
	w, err := begin(info.FileInfo)
	if err != nil {
		return err
	}
	total := max(0, info.Size-q.Offset)
	if q.Length >= 0 {
		total = min(total, q.Length)
	}
	if err := copyBody(ctx, w, resp.Body, total, progress); err != nil {
		return err
	}
	var outcome wireError
	if err := json.Unmarshal([]byte(resp.Trailer.Get(outcomeTrailer)), &outcome); err != nil {
		return lost(ctx, errors.New("no outcome"))
	}
	return outcome.err()
}

// copyBody copies r to w up to its end.
func copyBody(ctx context.Context, w io.Writer, r io.Reader, total int64, progress func(node.Progress)) error {
	buf := make([]byte, copyLen)
	var done int64
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			done += int64(n)
			if progress != nil {
				progress(node.Progress{Done: done, Total: total})
			}
		}
		if err == io.EOF { // not wrapped: a connection cut short is io.ErrUnexpectedEOF
			return nil
		}
		if err != nil {
			return lost(ctx, err)
		}
	}
}

// PutTree sends what src gives to the node.
func (c *Client) PutTree(ctx context.Context, q node.PutRequest, src node.TreeSource, progress func(node.Progress)) (node.PutResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	body := newPutBody(&treeReader{ctx: ctx, src: src})
	defer body.wait()
	defer cancel() // a source that waits for something has to end for it
	return c.put(ctx, "puttree", q, body, progress)
}

// GetTree gives sink what the node sends. Its error is nil only if the node has
// said, after the last item, that they are all.
func (c *Client) GetTree(ctx context.Context, q node.GetRequest, sink node.TreeSink, progress func(node.Progress)) error {
	v := url.Values{"source": {q.Source}}
	if q.After != "" {
		v.Set("after", q.After)
	}
	if q.Offset != 0 {
		v.Set("offset", strconv.FormatInt(q.Offset, 10))
	}
	resp, err := c.send(ctx, http.MethodGet, "gettree", v, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	items := newItemReader(resp.Body)
	buf := make([]byte, copyLen)
	var p node.Progress
	for first := true; ; first = false {
		item, err := items.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return items.cause(ctx, err)
		}
		if first {
			p.Total = item.Entry.Bytes // of a directory
			if item.Entry.Kind == volume.FileEntry {
				p.Total = item.Entry.Size
			}
		}
		w, err := sink.Take(item)
		if err != nil {
			return err
		}
		if item.Entry.Kind != volume.FileEntry {
			continue
		}
		p.Done += item.From
		if w == nil {
			w = io.Discard
		}
		for {
			n, err := items.read(buf)
			if n > 0 {
				if _, err := w.Write(buf[:n]); err != nil {
					return err
				}
				p.Done += int64(n)
				if progress != nil {
					progress(p)
				}
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				return items.cause(ctx, err)
			}
		}
	}
}

// List gives yield what the node lists, and ends with its first error.
func (c *Client) List(ctx context.Context, source string, recursive bool, yield func(node.Item) error) error {
	q := url.Values{"source": {source}, "recursive": {strconv.FormatBool(recursive)}}
	resp, err := c.send(ctx, http.MethodGet, "list", q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	items := newItemReader(resp.Body)
	items.bare = true
	for {
		item, err := items.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return items.cause(ctx, err)
		}
		if err := yield(item); err != nil {
			return err
		}
	}
}

// Stat asks the node for Stat.
func (c *Client) Stat(ctx context.Context, source string) (node.Stat, error) {
	var s stat
	err := c.call(ctx, http.MethodGet, "stat", url.Values{"source": {source}}, &s)
	if s.RawName != nil {
		s.Name = string(s.RawName)
	}
	return s.Stat, err
}

// Health asks the node for Health.
func (c *Client) Health(ctx context.Context, source string) (node.Health, error) {
	var h node.Health
	err := c.call(ctx, http.MethodGet, "health", url.Values{"source": {source}}, &h)
	return h, err
}

// Repair has the node repair source.
func (c *Client) Repair(ctx context.Context, source string, progress func(node.RepairProgress)) (node.RepairResult, error) {
	resp, err := c.send(ctx, http.MethodPost, "repair", url.Values{"source": {source}}, nil)
	if err != nil {
		return node.RepairResult{}, err
	}
	defer resp.Body.Close()
	return readLines[node.RepairProgress, node.RepairResult](ctx, resp.Body, progress)
}

// Leave has the node hand its shards over and end.
func (c *Client) Leave(ctx context.Context, progress func(node.LeaveProgress)) (node.LeaveResult, error) {
	resp, err := c.send(ctx, http.MethodPost, "leave", nil, nil)
	if err != nil {
		return node.LeaveResult{}, err
	}
	defer resp.Body.Close()
	return readLines[node.LeaveProgress, node.LeaveResult](ctx, resp.Body, progress)
}

// Remove has the node delete what source names.
func (c *Client) Remove(ctx context.Context, source string) (node.RemoveResult, error) {
	var r node.RemoveResult
	err := c.call(ctx, http.MethodPost, "remove", url.Values{"source": {source}}, &r)
	return r, err
}

// Link asks the node for a link.
func (c *Client) Link(ctx context.Context, source string, verify bool) (string, error) {
	var a linkAnswer
	err := c.call(ctx, http.MethodGet, "link", url.Values{"source": {source}, "verify": {strconv.FormatBool(verify)}}, &a)
	return a.Link, err
}

// Parent asks the node for Parent.
func (c *Client) Parent(ctx context.Context, q node.PutRequest) (string, error) {
	var a linkAnswer
	err := c.call(ctx, http.MethodGet, "parent", putValues(q), &a)
	return a.Link, err
}

// Peers asks the node for Peers.
func (c *Client) Peers(ctx context.Context) ([]node.Peer, error) {
	var ps []node.Peer
	err := c.call(ctx, http.MethodGet, "peers", nil, &ps)
	return ps, err
}

// Status asks the node for Status.
func (c *Client) Status(ctx context.Context) (node.Status, error) {
	var s node.Status
	err := c.call(ctx, http.MethodGet, "status", nil, &s)
	return s, err
}

// Invite asks the node for an invite.
func (c *Client) Invite(ctx context.Context, expires time.Duration) (string, error) {
	var a inviteAnswer
	err := c.call(ctx, http.MethodPost, "invite", url.Values{"expires": {strconv.FormatInt(int64(expires), 10)}}, &a)
	return a.Invite, err
}

// Expel asks the node to expel peer.
func (c *Client) Expel(ctx context.Context, peer string, withInvited bool) error {
	return c.call(ctx, http.MethodPost, "expel", url.Values{"peer": {peer}, "with_invited": {strconv.FormatBool(withInvited)}}, nil)
}

// call sends a request and reads its answer into v, which may be nil.
func (c *Client) call(ctx context.Context, method, name string, q url.Values, v any) error {
	resp, err := c.send(ctx, method, name, q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerLen))
	if err != nil {
		return lost(ctx, err)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("answer of the node: %w", err)
	}
	return nil
}

// send makes one request. It goes to the transport itself: http.Client would
// put the URL into its errors, and with it the link.
func (c *Client) send(ctx context.Context, method, name string, q url.Values, body io.ReadCloser) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "p2pfs", Path: "/v1/" + name, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("control request %s: %w", name, err)
	}
	if body != nil {
		req.Body, req.ContentLength = body, -1
	}
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, lost(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswerLen))
	var e wireError
	if json.Unmarshal(b, &e) != nil || e.Code == node.OK {
		return nil, &node.Error{
			Code: node.Failed,
			Hint: "restart the node: it may be of another version of p2pfs",
			Err:  fmt.Errorf("the running node answers %q", resp.Status),
		}
	}
	return nil, e.err()
}

// lost is the error of a connection that ended before its answer did.
func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &node.Error{
		Code: node.Failed,
		Hint: "see the log of the node, and whether it still runs",
		Err:  fmt.Errorf("connection to the node lost: %w", err),
	}
}

// errPutOver is what the transport gets when it asks for more of a put that is
// over. It must not be io.EOF: that would make a part of a file a whole one.
var errPutOver = errors.New("put is over")

// putBody is the body of a put. A goroutine reads ahead of the transport, so
// that disk and socket work side by side, and so that a reader that hangs (a
// terminal, a pipe) cannot hold up the end of the put.
type putBody struct {
	pieces chan []byte   // read, in order; closed after the last
	free   chan []byte   // buffers to read into
	over   chan struct{} // closed by stop
	stop   func()
	rest   []byte // of the piece that Read is at
	buf    []byte // the buffer of that piece

	mu    sync.Mutex // guards what follows
	cause error      // of the reader, where it failed
}

// newPutBody begins to read r. Its goroutine ends when r does or, after stop,
// with the Read that is under way.
func newPutBody(r io.Reader) *putBody {
	const ahead = 2
	b := &putBody{
		pieces: make(chan []byte, ahead),
		free:   make(chan []byte, ahead),
		over:   make(chan struct{}),
	}
	b.stop = sync.OnceFunc(func() { close(b.over) })
	for range ahead {
		b.free <- make([]byte, copyLen)
	}
	go b.read(r)
	return b
}

func (b *putBody) read(r io.Reader) {
	defer close(b.pieces)
	for {
		var buf []byte
		select {
		case buf = <-b.free:
		case <-b.over:
			return
		}
		n, err := r.Read(buf)
		if err != nil && err != io.EOF { // not wrapped: that would be an error like others
			b.mu.Lock()
			b.cause = err
			b.mu.Unlock()
		}
		if n > 0 {
			b.pieces <- buf[:n]
		} else {
			b.free <- buf
		}
		if err != nil {
			return
		}
	}
}

// wait waits, after stop, until nothing reads any more.
func (b *putBody) wait() {
	for range b.pieces { // what was read and is not wanted
	}
}

// failed is the error of the reader, if it had one.
func (b *putBody) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cause
}

// next gives the next piece, which is to be given back to free.
func (b *putBody) next() ([]byte, error) {
	select {
	case <-b.over:
		return nil, errPutOver
	case p, ok := <-b.pieces:
		if ok {
			return p, nil
		}
	}
	if err := b.failed(); err != nil {
		return nil, err
	}
	select {
	case <-b.over: // the goroutine ended because of this
		return nil, errPutOver
	default:
		return nil, io.EOF
	}
}

// WriteTo spares the transport a copy, in pieces of 32 KiB.
func (b *putBody) WriteTo(w io.Writer) (int64, error) {
	var done int64
	for {
		p, err := b.next()
		if err == io.EOF {
			return done, nil
		}
		if err != nil {
			return done, err
		}
		n, err := w.Write(p)
		done += int64(n)
		if err != nil {
			return done, err
		}
		b.free <- p[:copyLen]
	}
}

func (b *putBody) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.buf != nil {
			b.free <- b.buf
			b.buf = nil
		}
		piece, err := b.next()
		if err != nil {
			return 0, err
		}
		b.rest, b.buf = piece, piece[:copyLen]
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Close is the transport's: it will not read on.
func (b *putBody) Close() error {
	b.stop()
	return nil
}
