package node

import (
	"errors"
	"fmt"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
)

// Code says what kind of outcome an operation had. The numbers are the exit
// codes of the command line: add only, never change.
type Code int

// The outcomes of operations.
const (
	OK          Code = 0
	Failed      Code = 1   // any error without a code of its own
	Usage       Code = 2   // wrong usage, malformed link
	Partial     Code = 3   // partly done: fewer shards than asked, but above the repair threshold
	NotFound    Code = 11  // no such link, volume or path: no manifest found
	Short       Code = 12  // too few shards to restore
	NoPeers     Code = 13  // too few peers or no space to store
	Corrupt     Code = 14  // corrupt data or bad signature
	Refused     Code = 15  // no right, quota, not a member, another network
	Interrupted Code = 130 // the caller gave up
)

// Error is an error with its outcome and, where something can be done, what.
type Error struct {
	Code Code
	Hint string // empty, or one line that says what to do
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// fail makes an Error.
func fail(code Code, hint, format string, args ...any) error {
	return &Error{Code: code, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// CodeOf gives the outcome of err: OK for nil, Failed where err says nothing
// better.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return codeOfCause(err)
}

// HintOf gives what the user can do about err, or "".
func HintOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Hint
	}
	return ""
}

// PutRequest says what is to be stored and how.
type PutRequest struct {
	Name       string          // base name, 1 to 255 bytes
	Mode       uint32          // permission bits
	ModTime    time.Time       // time of last modification
	Size       int64           // bytes to come, -1 if unknown
	Redundancy *erasure.Scheme // nil: chosen by the number of peers that accept
	Expires    time.Duration   // 0: never

	// Source says what is put, such as a path with the name of the machine: by
	// it Parent finds what was put of the same before. Parent is the link to an
	// earlier tree, as Parent gave it: of that files are taken over which the
	// source gives without a reader. Both are for trees, and may be "".
	Source string
	Parent string

	// Target is NAME:DIR, the directory in a volume that it goes into; "" is
	// mine:put/DATE.
	Target string
}

// PutResult says what a put stored.
type PutResult struct {
	Link     string  `json:"link"`
	Bytes    int64   `json:"bytes"`  // plain bytes
	Packs    int     `json:"packs"`  // packs of the file or tree, metadata included
	K        int     `json:"k"`      // of the pack that survives the fewest losses: its own k′
	N        int     `json:"n"`      // and its k′ + m
	Stored   int     `json:"stored"` // shards of that pack that are durable
	Survives int     `json:"survives"`
	Seconds  float64 `json:"seconds"`
	Warning  string  `json:"warning,omitempty"` // in plain words: nothing is safe yet, fewer shards than asked
	Partial  bool    `json:"partial,omitempty"` // some pack has fewer shards than asked: outcome Partial
	Files    int64   `json:"files,omitempty"`   // of a tree: entries that are no directories
	NewBytes int64   `json:"new_bytes"`         // of its packs that were not there before, without redundancy
	Place    string  `json:"place,omitempty"`   // NAME:PATH, where it is in a volume; "": nowhere
	Head     uint64  `json:"head,omitempty"`    // number of the head with which it came there
}

// RemoveResult says what was removed.
type RemoveResult struct {
	Packs   int   `json:"packs"`             // packs that are deleted
	Kept    int   `json:"kept"`              // packs that something else of this home refers to
	Holders int   `json:"holders"`           // holders told, over all packs
	Bytes   int64 `json:"bytes"`             // of the deleted packs, without redundancy
	Untold  int   `json:"untold"`            // packs of which no holder could be told: remove it again
	Partial bool  `json:"partial,omitempty"` // there are some: outcome Partial
}

// Progress of a put or get.
type Progress struct {
	Done  int64 `json:"done"`  // bytes
	Total int64 `json:"total"` // bytes, -1 if unknown
}

// FileInfo describes the file behind a source.
type FileInfo struct {
	Name    string    `json:"name"`
	Mode    uint32    `json:"mode"`
	ModTime time.Time `json:"mtime"`
	Size    int64     `json:"size"`
	ID      string    `json:"id,omitempty"` // of the content, with mode, time and the like, but not the name: the same is the same; hex
}

// GetRequest asks for the bytes [Offset, Offset+Length) of a source.
type GetRequest struct {
	Source string
	Offset int64 // bytes
	Length int64 // bytes, -1: to the end

	// After is for trees: the path of the last entry whose content is not wanted,
	// nor that of those before it. Offset is in the next file then, which is the
	// first for "".
	After string
}

// Stat describes a source and how safe it is now.
type Stat struct {
	Kind     string    `json:"kind"` // "file", "tree", "verify", or as KindName has it
	Name     string    `json:"name,omitempty"`
	Mode     uint32    `json:"mode,omitempty"`
	ModTime  time.Time `json:"mtime,omitzero"`
	Bytes    int64     `json:"bytes"`           // plain bytes; of the packs where the source cannot be read
	Files    int64     `json:"files,omitempty"` // of a tree: entries that are no directories
	Packs    int       `json:"packs"`           // packs it consists of
	K        int       `json:"k"`               // of the pack that survives the fewest further losses
	N        int       `json:"n"`               // its k′ + m
	Live     int       `json:"live"`            // its distinct shards on distinct peers of which a sample was verified now
	Unknown  int       `json:"unknown"`         // its shards whose holders gave no sample
	Survives int       `json:"survives"`        // further losses survived now: live − k, the lowest over the packs; negative: not restorable now
	Expires  time.Time `json:"expires,omitzero"`
}

// Peer is a known member of the network.
type Peer struct {
	ID        string    `json:"id"`
	Addrs     []string  `json:"addrs"`
	Zone      string    `json:"zone"`
	HeldBytes int64     `json:"held_bytes"`
	FreeBytes int64     `json:"free_bytes"`
	LatencyMS float64   `json:"latency_ms"`
	LastSeen  time.Time `json:"last_seen"`
	Voucher   string    `json:"voucher,omitempty"` // peer ID of the member that vouched for it
	Connected bool      `json:"connected"`
	Client    bool      `json:"client,omitempty"` // holds nothing for others
	Version   string    `json:"version,omitempty"`
}

// Status describes this node.
type Status struct {
	ID            string   `json:"id"`
	Version       string   `json:"version"`
	Network       string   `json:"network"` // hex
	Open          bool     `json:"open,omitempty"`
	Founder       bool     `json:"founder,omitempty"`
	Running       bool     `json:"running"` // false: a client started for this command
	Addrs         []string `json:"addrs"`
	Zone          string   `json:"zone"`
	Reachability  string   `json:"reachability"` // "public", "private", "unknown"
	Peers         int      `json:"peers"`        // connected members
	Shards        int      `json:"shards"`
	HeldBytes     int64    `json:"held_bytes"`
	CapacityBytes int64    `json:"capacity_bytes"` // 0: no limit but the disk
	FreeBytes     int64    `json:"free_bytes"`
	SentBytes     int64    `json:"sent_bytes"`     // to peers since the start
	ReceivedBytes int64    `json:"received_bytes"` // from peers since the start
	Seconds       float64  `json:"uptime_seconds"`

	// What keeping packs at their redundancy is at; the counts are since the start.
	Repairs      int   `json:"repairs"`       // under way
	Repaired     int64 `json:"repaired"`      // packs done
	RepairFailed int64 `json:"repair_failed"` // packs given up, to be tried again
	Suspected    int   `json:"suspected"`     // holders not heard of now
	Due          int   `json:"due"`           // packs held here whose repair is due, here or elsewhere
	Unplaced     int   `json:"unplaced"`      // packs of which shards find no peer
	Audits       int64 `json:"audits"`        // samples asked of holders
	AuditFailed  int64 `json:"audit_failed"`  // those that were wrong or refused
}

// Health says how safe packs are, as far as samples verified in the past tell:
// what nobody has looked at counts as unknown, not as live.
type Health struct {
	Kind     string        `json:"kind"`              // "node": what this node holds; "file", "verify"
	Packs    int           `json:"packs"`             // packs looked at
	Bytes    int64         `json:"bytes"`             // of these packs
	K        int           `json:"k"`                 // of the pack that survives the fewest further losses
	N        int           `json:"n"`                 // its k′ + m
	Live     int           `json:"live"`              // its distinct shards on distinct peers that have verified samples
	Unknown  int           `json:"unknown"`           // its shards whose holders could not be asked or gave no sample
	Survives int           `json:"survives"`          // live − k of that pack; negative: not restorable now
	Verified time.Time     `json:"verified,omitzero"` // the oldest sample that this rests on
	Levels   []HealthLevel `json:"levels"`            // all packs, worst first
	Worst    []PackHealth  `json:"worst"`             // at most 100 packs, worst first
	Repairs  int           `json:"repairs"`           // of these packs, under way here
	Unplaced int           `json:"unplaced"`          // packs of which shards find no peer
}

// HealthLevel is a number of packs that survive as many further losses.
type HealthLevel struct {
	Survives int `json:"survives"`
	Packs    int `json:"packs"`
}

// PackHealth says how safe one pack is.
type PackHealth struct {
	ID       string    `json:"id"` // hex, whole
	K        int       `json:"k"`
	N        int       `json:"n"`
	Live     int       `json:"live"`
	Unknown  int       `json:"unknown"` // shards whose holders could not be asked or gave no verified sample
	Survives int       `json:"survives"`
	Verified time.Time `json:"verified,omitzero"` // the oldest sample that Live rests on
	Repair   string    `json:"repair,omitempty"`  // "due", "urgent", "running", "unplaced", "lost"
}

// RepairProgress is how far a repair is.
type RepairProgress struct {
	Done  int `json:"done"`  // packs
	Total int `json:"total"` // packs
}

// RepairResult says what a repair did.
type RepairResult struct {
	Packs    int     `json:"packs"`    // packs looked at
	Checked  int     `json:"checked"`  // shards that holders were asked for
	Rebuilt  int     `json:"rebuilt"`  // shards restored and placed on peers
	Unplaced int     `json:"unplaced"` // shards that are missing still, for want of peers
	Lost     int     `json:"lost"`     // packs of which too little is left
	Bytes    int64   `json:"bytes"`    // moved between peers
	Seconds  float64 `json:"seconds"`
	Partial  bool    `json:"partial,omitempty"` // some pack has fewer shards than it should: outcome Partial
}

// LeaveProgress is how far a leave is.
type LeaveProgress struct {
	Done  int   `json:"done"`  // shards
	Total int   `json:"total"` // shards
	Bytes int64 `json:"bytes"` // handed over
}

// LeaveResult says what became of the shards of a node that leaves.
type LeaveResult struct {
	Shards  int      `json:"shards"`            // held when it began
	Handed  int      `json:"handed"`            // another peer holds it now, or did already
	Left    int      `json:"left"`              // not handed over: outcome Partial
	Bytes   int64    `json:"bytes"`             // handed over
	Reasons []string `json:"reasons,omitempty"` // why some were left, a few
}
