package dht

import (
	"context"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"
)

// FindPeer looks up the addresses of a peer.
func (d *DHT) FindPeer(ctx context.Context, p peer.ID) (peer.AddrInfo, error) {
	info, err := d.kad.FindPeer(ctx, p)
	if err != nil {
		return peer.AddrInfo{}, fmt.Errorf("find %s: %w", p, err)
	}
	return info, nil
}
