package swarm

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"

	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/member"
)

const (
	contextMDNS = "p2pfs 2026-11 mdns service"
	// maxFinds bounds the dials that answers on the LAN set off at a time.
	maxFinds = 8
	findTime = 15 * time.Second
)

// serviceName returns the mDNS service of a network: one for each, so that
// nodes of other networks are not even dialed, and not the network's ID, which
// is part of links.
func serviceName(n member.Network) string {
	d := digest.Derive(contextMDNS, n[:])
	return "_p2pfs-" + hex.EncodeToString(d[:4]) + "._udp"
}

// finder finds peers on the LAN.
type finder struct {
	swarm     *Swarm
	service   mdns.Service
	slots     chan struct{}
	connected chan struct{} // a hint: something was connected
}

func (s *Swarm) newFinder() *finder {
	f := &finder{swarm: s, slots: make(chan struct{}, maxFinds), connected: make(chan struct{}, 1)}
	name := "_p2pfs._udp"
	if s.member != nil {
		name = serviceName(s.member.Network())
	}
	f.service = mdns.NewMdnsService(s.Host, name, f)
	// No multicast here, or nothing to announce (a node that does not
	// listen): the node works without.
	if err := f.service.Start(); err != nil {
		s.log.Info("no discovery on the LAN", "err", err)
	}
	return f
}

// HandlePeerFound connects to a peer that answered, unless it is already or
// there are connections enough.
func (f *finder) HandlePeerFound(p peer.AddrInfo) {
	s := f.swarm
	net := s.Host.Network()
	if s.ctx.Err() != nil || net.Connectedness(p.ID) == network.Connected || len(net.Peers()) >= defaultLowWater {
		return
	}
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	case <-s.ctx.Done():
		return
	default: // it will answer again
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, findTime)
	defer cancel()
	if err := s.Connect(ctx, p); err != nil {
		s.log.Debug("peer found on the LAN", "err", err)
		return
	}
	select {
	case f.connected <- struct{}{}:
	default:
	}
}

// close ends discovery and waits for the dials under way.
func (f *finder) close() {
	f.service.Close()
	for range maxFinds {
		f.slots <- struct{}{}
	}
}
