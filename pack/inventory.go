package pack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

const (
	inventoryMagic   = "p2pI"
	inventoryVersion = 1

	// MaxInventoryIDs is how many IDs one inventory lists itself (256 KiB,
	// for 256 GiB of packs). Longer ones are nested.
	MaxInventoryIDs = 8 << 10
	// MaxInventoryRefs is how many inventories one inventory may refer to.
	MaxInventoryRefs = 4 << 10
	// MaxInventoryDepth is how deep inventories nest: for 2^37 packs.
	MaxInventoryDepth = 2
	// MaxInventory is the length in bytes of the longest encoded inventory.
	MaxInventory = headerLen + 1 + 4 + MaxInventoryRefs*RefLen
)

// Inventory lists packs in ascending order, each once. A long list is a tree:
// at depth 0 an inventory holds IDs, above that refs to inventories of the
// depth below, of which none is empty. A zero pack in a ref means what it does
// everywhere: see [Ref.In].
type Inventory struct {
	Depth int
	IDs   []ID  // at depth 0, at most MaxInventoryIDs
	Refs  []Ref // else, 1 to MaxInventoryRefs
}

// NewInventory sorts ids in place and gives the inventories of depth 0 that
// together list them; one empty inventory if there are none.
func NewInventory(ids []ID) []Inventory {
	slices.SortFunc(ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	ids = slices.Compact(ids)
	if len(ids) == 0 {
		return []Inventory{{}}
	}
	var invs []Inventory
	for part := range slices.Chunk(ids, MaxInventoryIDs) {
		invs = append(invs, Inventory{IDs: part})
	}
	return invs
}

// Encode gives the one encoding of v.
func (v Inventory) Encode() []byte {
	b := make([]byte, 0, headerLen+1+4+32*len(v.IDs)+RefLen*len(v.Refs))
	b = appendHeader(b, inventoryMagic, inventoryVersion)
	b = append(b, byte(v.Depth))
	if v.Depth == 0 {
		b = binary.BigEndian.AppendUint32(b, uint32(len(v.IDs)))
		for i := range v.IDs {
			b = append(b, v.IDs[i][:]...)
		}
		return b
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(v.Refs)))
	for _, r := range v.Refs {
		b = r.Append(b)
	}
	return b
}

// DecodeInventory reads what [Inventory.Encode] gave.
func DecodeInventory(b []byte) (Inventory, error) {
	v, err := decodeInventory(b)
	if err != nil {
		return Inventory{}, fmt.Errorf("decode inventory: %w", err)
	}
	return v, nil
}

func decodeInventory(b []byte) (v Inventory, err error) {
	r := reader{b: b}
	r.header("inventory", inventoryMagic, inventoryVersion)
	v.Depth = int(r.u8())
	n := int(r.u32())
	switch {
	case r.err != nil:
		return v, r.err
	case v.Depth > MaxInventoryDepth:
		r.fail("nested %d deep", v.Depth)
	case v.Depth == 0 && n > MaxInventoryIDs:
		r.fail("%d IDs", n)
	case v.Depth > 0 && (n < 1 || n > MaxInventoryRefs):
		r.fail("%d refs", n)
	case v.Depth == 0:
		for i, h := range r.hashes(n) {
			if i > 0 && bytes.Compare(v.IDs[i-1][:], h[:]) >= 0 {
				r.fail("not in order")
				break
			}
			v.IDs = append(v.IDs, h)
		}
	default:
		v.Refs = readRefs(&r, n)
	}
	return v, r.end()
}

// readRefs reads n refs; nothing is allocated unless all are there.
func readRefs(r *reader, n int) []Ref {
	sub := reader{b: r.take(n * RefLen), err: r.err}
	if sub.err != nil {
		return nil
	}
	refs := make([]Ref, 0, n)
	for range n {
		refs = append(refs, readRef(&sub))
	}
	r.err = sub.err
	return refs
}
