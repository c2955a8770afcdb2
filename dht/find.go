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

// Compare is the function of that name; it makes the DHT answer for distance
// where it stands behind an interface.
func (d *DHT) Compare(id ID, a, b peer.ID) int { return Compare(id, a, b) }
