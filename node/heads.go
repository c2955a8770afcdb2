package node

import (
	"context"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/wire"
)

// Heads gives the heads kept here of a volume.
func (s *server) Heads(_ context.Context, _ string, owner pack.Owner) ([][]byte, error) {
	if !s.holder {
		return nil, nil
	}
	heads, err := s.store.Heads(owner)
	return heads, refusal(err)
}

// PutHead refuses every head.
func (s *server) PutHead(context.Context, string, []byte) error {
	return wire.Refuse(wire.NotFound, "no heads are kept here")
}
