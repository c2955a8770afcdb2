// Package control joins commands to the node that runs on their home: HTTP
// and JSON on a Unix socket.
//
// The node's end is [Listen] and [Serve], the command's end is [Dial], which
// gives a [Client]. A Client offers the same [API] as the node itself does, so
// that a command need not know whether it speaks to a running node or to one
// it has started inside itself; errors arrive as the *node.Error that the node
// returned, with its code, its hint and its causes.
//
// Only the user the node runs as gets in: the socket has mode 0600, and both
// ends refuse a socket in a directory that belongs to somebody else. All paths
// begin with the version of the protocol, /v1/. A file's bytes travel as they
// are, in the body of a request (put) or a response (get), at several GB/s; those
// of trees, with all that is known of them, as a stream of frames (tree.go).
// docs/operations.md has every request and answer.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/p2pfs/p2pfs/node"
)

// API is what a node offers to commands. *node.Node and *Client are its two
// implementations.
type API interface {
	// Put stores what r gives, up to io.EOF, as one file. If r fails, so
	// does Put, and nothing is kept. If ctx ends, the same put again goes on
	// where this one was, for a day. progress may be nil.
	Put(ctx context.Context, q node.PutRequest, r io.Reader, progress func(node.Progress)) (node.PutResult, error)

	// Get calls begin once with what is known of the file, writes the bytes
	// asked for to the writer that begin returns, and says at the end
	// whether they are all. progress may be nil.
	Get(ctx context.Context, q node.GetRequest, begin func(node.FileInfo) (io.Writer, error), progress func(node.Progress)) error

	// PutTree stores what src gives as a tree, as Put does. It has returned
	// when src is used no more. If src fails, so does PutTree, and nothing is
	// kept; what fails with node.ErrLeftOut is missing in the tree.
	PutTree(ctx context.Context, q node.PutRequest, src node.TreeSource, progress func(node.Progress)) (node.PutResult, error)

	// Parent gives the link to the tree that was put last with q's source, on
	// which a put like q can build, or "".
	Parent(ctx context.Context, q node.PutRequest) (string, error)

	// GetTree gives sink what a source names: a tree, or an entry of one, but
	// not the content that q leaves out. They are all only if the error is
	// nil. progress may be nil.
	GetTree(ctx context.Context, q node.GetRequest, sink node.TreeSink, progress func(node.Progress)) error

	// List gives what is in the directory that source names, with recursive
	// all that is below it; of anything else the entry itself.
	List(ctx context.Context, source string, recursive bool, yield func(node.Item) error) error

	// Stat says what source is and how safe it is now.
	Stat(ctx context.Context, source string) (node.Stat, error)

	// Health says how safe the packs of source are by what has been verified;
	// with "", those that the node holds shards of.
	Health(ctx context.Context, source string) (node.Health, error)

	// Repair checks every shard of source and rebuilds what is missing.
	// progress may be nil.
	Repair(ctx context.Context, source string, progress func(node.RepairProgress)) (node.RepairResult, error)

	// Leave hands the node's shards over; when it has returned without an
	// error the node ends. progress may be nil.
	Leave(ctx context.Context, progress func(node.LeaveProgress)) (node.LeaveResult, error)

	// Remove deletes what the home has put under source; NAME:PATH it takes out
	// of the volume, whose past keeps it.
	Remove(ctx context.Context, source string) (node.RemoveResult, error)

	// Move gives what is at the place from the place to, in the same volume.
	Move(ctx context.Context, from, to string) error

	// Mkdir makes a directory in a volume, with parents those above it too, and
	// then one that is there already is no error.
	Mkdir(ctx context.Context, place string, parents bool) error

	// VolumeCreate makes a volume, to which this home has the right to write.
	VolumeCreate(ctx context.Context, name string) (node.VolumeInfo, error)

	// Volumes lists the volumes that this home has a right to, in the order of
	// their names. It asks no peer.
	Volumes(ctx context.Context) ([]node.VolumeInfo, error)

	// VolumeLink gives a link with that right to a volume: "read", "verify" or
	// "write".
	VolumeLink(ctx context.Context, name, right string) (string, error)

	// VolumeAdd gives this home the right that link has, and the volume a name.
	VolumeAdd(ctx context.Context, link, name string) (node.AddResult, error)

	// VolumeLog lists the heads of a volume, the newest first.
	VolumeLog(ctx context.Context, name string) ([]node.HeadInfo, error)

	// VolumePrune removes the snapshots of a volume that no rule keeps.
	VolumePrune(ctx context.Context, name string, q node.PruneRequest) (node.PruneResult, error)

	// VolumeDrop forgets a volume and the right to it; forAll deletes its
	// packs and heads before that, for all who have it.
	VolumeDrop(ctx context.Context, name string, forAll bool) (node.PruneResult, error)

	// Link gives a link to source, with verify one that lets nothing be read.
	// What is in a volume it gives as it is now: the link does not change with it.
	Link(ctx context.Context, source string, verify bool) (string, error)

	// Peers lists the known members of the network.
	Peers(ctx context.Context) ([]node.Peer, error)

	// Status describes the node.
	Status(ctx context.Context) (node.Status, error)

	// Invite makes an invite to the node's network, good for expires.
	Invite(ctx context.Context, expires time.Duration) (string, error)

	// Expel shuts a peer out of the network, and with withInvited those that
	// it let in afterwards.
	Expel(ctx context.Context, peer string, withInvited bool) error
}

// The names in HTTP headers and trailers.
const (
	infoHeader     = "P2pfs-Info"    // before the bytes of a get: the file's fileInfo
	outcomeTrailer = "P2pfs-Outcome" // after them: a wireError, its code 0 where all went well
)

// copyLen is the length of buffers between socket and file, in bytes: long
// enough that system calls are not what a copy costs.
const copyLen = 512 << 10

// wireError is a node.Error on its way.
type wireError struct {
	Code    node.Code `json:"code"`
	Message string    `json:"message,omitempty"`
	Hint    string    `json:"hint,omitempty"`
	Causes  []string  `json:"causes,omitempty"` // errors behind it that say more than the message
}

// toWire gives err the form in which it travels.
func toWire(err error) wireError {
	if err == nil {
		return wireError{}
	}
	return wireError{
		Code:    node.CodeOf(err),
		Message: err.Error(),
		Hint:    node.HintOf(err),
		Causes:  Causes(err),
	}
}

// err rebuilds the error, nil where the outcome was good.
func (w wireError) err() error {
	if w.Code == node.OK {
		return nil
	}
	r := &remoteError{message: w.Message}
	for _, c := range w.Causes {
		r.causes = append(r.causes, errors.New(c))
	}
	return &node.Error{Code: w.Code, Hint: w.Hint, Err: r}
}

// remoteError is an error that a node returned to a client.
type remoteError struct {
	message string
	causes  []error
}

func (e *remoteError) Error() string   { return e.message }
func (e *remoteError) Unwrap() []error { return e.causes }

// maxCauses bounds what travels with an error.
const maxCauses = 64

// Causes lists the messages of the errors at the ends of err's tree of causes,
// each once, but for one that is all of err's own message.
func Causes(err error) []string {
	var all []string
	var walk func(error)
	walk = func(e error) {
		switch u := e.(type) {
		case interface{ Unwrap() error }:
			if c := u.Unwrap(); c != nil {
				walk(c)
				return
			}
		case interface{ Unwrap() []error }:
			if cs := u.Unwrap(); len(cs) > 0 {
				for _, c := range cs {
					walk(c)
				}
				return
			}
		}
		if m := e.Error(); m != err.Error() && !slices.Contains(all, m) && len(all) < maxCauses {
			all = append(all, m)
		}
	}
	if err != nil {
		walk(err)
	}
	return all
}

// line is one line of the answer to a request that takes long: progress any
// number of times, then a result or an error.
type line[P, R any] struct {
	Progress *P         `json:"progress,omitempty"`
	Result   *R         `json:"result,omitempty"`
	Error    *wireError `json:"error,omitempty"`
}

// fileInfo is a node.FileInfo on its way. JSON has no place for bytes that are
// not UTF-8, file names do: RawName is the name where it is not.
type fileInfo struct {
	node.FileInfo
	RawName []byte `json:"raw_name,omitempty"`
}

// stat is a node.Stat on its way.
type stat struct {
	node.Stat
	RawName []byte `json:"raw_name,omitempty"`
}

// putResult is a node.PutResult on its way.
type putResult struct {
	node.PutResult
	RawPlace []byte `json:"raw_place,omitempty"`
}

// linkAnswer is the answer to a request for a link.
type linkAnswer struct {
	Link string `json:"link"`
}

// inviteAnswer is the answer to an invite.
type inviteAnswer struct {
	Invite string `json:"invite"`
}

// rawName gives name's bytes where JSON would lose some.
func rawName(name string) []byte {
	b, err := json.Marshal(name)
	var back string
	if err == nil && json.Unmarshal(b, &back) == nil && back == name {
		return nil
	}
	return []byte(name)
}
