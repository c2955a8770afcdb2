package node

import (
	"context"
	"errors"
	"io"

	"github.com/p2pfs/p2pfs/volume"
)

// Item is an entry of a tree on its way between a file system and the network.
// Items come in the order of a walk: a directory before what is in it, the
// names in a directory ascending by their bytes, everything below a name before
// the next name.
type Item struct {
	Path  string       // below the root, with slashes; "" is the root itself
	Entry volume.Entry // its Name is the last element of Path, or the root's own
}

// TreeSource gives the items of a tree that is put. The root comes first; it is
// a directory.
type TreeSource interface {
	// Next gives the next item, or io.EOF. The reader gives the content of a
	// file and is nil for all else; it is good until Next is called again, which
	// may be before all was read. A reader that fails with an error that wraps
	// ErrLeftOut takes its file out of the put and nothing else; any other
	// error ends the put.
	Next(ctx context.Context) (Item, io.Reader, error)
}

// ErrLeftOut is wrapped by errors of what could not be read and is left out of
// a put.
var ErrLeftOut = errors.New("left out")

// TreeSink takes the items of a tree that is fetched.
type TreeSink interface {
	// Take gets the next item and gives where the content of a file goes; a nil
	// writer stands for nowhere. All content of a file is written before the
	// next Take.
	Take(item Item) (io.Writer, error)
}

// PutTree stores what src gives as a tree and returns its link, as Put does.
// Name, mode, time and size of q are not looked at: the root says its own, and
// what is expected in bytes, for progress, or -1, is q.Size.
func (n *Node) PutTree(ctx context.Context, q PutRequest, src TreeSource, progress func(Progress)) (PutResult, error) {
	return PutResult{}, errors.New("not yet")
}

// GetTree gives sink what a source names: a tree with all below it, or one file
// or other entry of it. q.Offset and q.Length are not looked at.
func (n *Node) GetTree(ctx context.Context, q GetRequest, sink TreeSink, progress func(Progress)) error {
	return errors.New("not yet")
}

// List gives what is in the directory that a source names, or with recursive all
// that is below it; of anything else the entry itself, with the path "". yield
// ends it with an error.
func (n *Node) List(ctx context.Context, source string, recursive bool, yield func(Item) error) error {
	return errors.New("not yet")
}
