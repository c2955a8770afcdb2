package volume

import (
	"bytes"
	"context"
	"fmt"

	"github.com/p2pfs/p2pfs/pack"
)

// maxPacks is how many packs an inventory may list: WriteFile makes no more,
// since inventory and root stand in one pack.
const maxPacks = pack.MaxLen / 32

// ReadInventory gives the IDs of all packs under a root, whose inventory is
// at ref: those that the inventory lists in ascending order, and last the pack
// that it stands in itself.
func ReadInventory(ctx context.Context, src Source, ref pack.Ref) ([]pack.ID, error) {
	r := inventoryReader{src: src, root: ref.Pack}
	if err := r.read(ctx, ref, pack.MaxInventoryDepth, true); err != nil {
		return nil, fmt.Errorf("read inventory: %w", err)
	}
	return append(r.ids, ref.Pack), nil
}

// inventoryReader is one ReadInventory.
type inventoryReader struct {
	src  Source
	root pack.ID
	ids  []pack.ID
}

// read takes in the inventory at ref, which is nested depth deep or, at the
// top, at most that.
func (r *inventoryReader) read(ctx context.Context, ref pack.Ref, depth int, top bool) error {
	plain, err := readChunk(ctx, r.src, ref, pack.MaxInventory)
	if err != nil {
		return err
	}
	v, err := pack.DecodeInventory(plain)
	if err != nil {
		return err
	}
	// Only the top may be empty: so whatever is read makes the list longer,
	// and no tree takes for ever.
	if v.Depth > depth || !top && (v.Depth != depth || v.Depth == 0 && len(v.IDs) == 0) {
		return fmt.Errorf("%w: nested wrongly", ErrCorrupt)
	}
	if len(r.ids)+len(v.IDs) >= maxPacks {
		return fmt.Errorf("%w: more than %d packs", ErrCorrupt, maxPacks)
	}
	for _, id := range v.IDs {
		if n := len(r.ids); id == r.root || n > 0 && bytes.Compare(r.ids[n-1][:], id[:]) >= 0 {
			return fmt.Errorf("%w: not in order, or with its own pack", ErrCorrupt)
		}
		r.ids = append(r.ids, id)
	}
	for _, sub := range v.Refs {
		sub, err := sub.In(ref.Pack, ref.Off)
		if err != nil {
			return err
		}
		if err := r.read(ctx, sub, v.Depth-1, false); err != nil {
			return err
		}
	}
	return nil
}

// Packs gives the IDs of all packs of the file, as [ReadInventory] does.
func (f *File) Packs(ctx context.Context) ([]pack.ID, error) {
	ref, ok := f.Inventory()
	if !ok {
		return []pack.ID{f.root.Pack}, nil
	}
	ids, err := ReadInventory(ctx, f.src, ref)
	if err != nil {
		return nil, fmt.Errorf("packs of %q: %w", f.entry.Name, err)
	}
	return ids, nil
}
