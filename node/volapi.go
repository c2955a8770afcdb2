package node

import (
	"time"

	"github.com/p2pfs/p2pfs/volume"
)

// Mine is the name of the home's own volume.
const Mine = "mine"

// VolumeInfo describes a volume that this home has a right to.
type VolumeInfo struct {
	Name   string    `json:"name"`
	Right  string    `json:"right"`            // "read", "verify" or "write"
	Owner  string    `json:"owner"`            // public key, hex: the same wherever the volume is known
	Number uint64    `json:"number,omitempty"` // of the newest head seen here; 0: none
	Time   time.Time `json:"time,omitzero"`    // when that was made
	Files  int64     `json:"files"`            // as of that head: entries that are no directories; -1: not known
	Bytes  int64     `json:"bytes"`            // content of them together; -1: not known
	Tips   int       `json:"tips,omitempty"`   // heads that are to be merged, if there are several
}

// HeadInfo is a past or present head of a volume.
type HeadInfo struct {
	Number   uint64    `json:"number"`
	Hash     string    `json:"hash"` // hex
	Time     time.Time `json:"time"`
	Peer     string    `json:"peer"`              // who wrote it
	Snapshot bool      `json:"snapshot"`          // kept until it is pruned; else it goes by itself in a while
	Current  bool      `json:"current,omitempty"` // it is what NAME: shows, or a part of that
}

// PruneRequest says which snapshots stay; those that no rule keeps go, the
// newest never does.
type PruneRequest struct {
	Policy volume.Policy
	Now    bool // what nothing refers to is dropped at once, not after DyingFor
}

// PruneResult says what a prune did.
type PruneResult struct {
	Kept    int   `json:"kept"`    // snapshots
	Removed int   `json:"removed"` // snapshots
	Dying   int   `json:"dying"`   // packs to which nothing refers any more, to be dropped in DyingFor
	Dropped int   `json:"dropped"` // packs dropped now
	Bytes   int64 `json:"bytes"`   // of these, without redundancy
	Untold  int   `json:"untold"`  // packs of which no holder could be told: prune again
	Partial bool  `json:"partial,omitempty"`
}

// AddResult says what has become of a volume added by its link.
type AddResult struct {
	VolumeInfo

	Packs int `json:"packs"` // with the write right: packs that this home may now renew, delete and grow
	Lost  int `json:"lost"`  // those of them of which nobody was found: try again
}
