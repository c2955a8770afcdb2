package swarm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/zeroconf/v2"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/member"
)

const (
	contextMDNS = "p2pfs 2026-11 mdns service"
	domainMDNS  = "local"
	prefixMDNS  = "dnsaddr=" // of an address in a TXT record, as libp2p has it

	// maxFinds bounds the dials that answers on the LAN set off at a time,
	// maxFound the addresses that are taken from an answer.
	maxFinds = 8
	maxFound = 32
	findTime = 15 * time.Second

	// A look asks at once and then ever more seldom, and tells of each node
	// once. Looks therefore end and begin anew, after firstLook and then
	// twice as long each time up to lastLook, or when the peer's addresses
	// change: who could not be reached is tried again, and interfaces that
	// have come up since are asked on.
	firstLook = 5 * time.Second
	lastLook  = 10 * time.Minute
)

// serviceName returns the mDNS service of a network: one for each, so that
// nodes of other networks are not even dialed, and not the network's ID, which
// is part of links.
func serviceName(n member.Network) string {
	d := digest.Derive(contextMDNS, n[:])
	return "_p2pfs-" + hex.EncodeToString(d[:4]) + "._udp"
}

// finder announces the peer on the LAN where it listens, and finds others.
// libp2p's own mDNS service will not look where it has nothing to announce, as
// clients and newcomers have not, nor where there is no IPv6.
type finder struct {
	swarm     *Swarm
	name      string // of the service
	slots     chan struct{}
	connected chan struct{} // a hint: something was connected
	wg        sync.WaitGroup

	// Of the goroutine that runs:
	server    *zeroconf.Server // nil while nothing is announced
	announced []string         // its TXT records
}

func (s *Swarm) newFinder() *finder {
	f := &finder{swarm: s, name: "_p2pfs._udp", slots: make(chan struct{}, maxFinds), connected: make(chan struct{}, 1)}
	if s.member != nil {
		f.name = serviceName(s.member.Network())
	}
	f.wg.Go(f.run)
	return f
}

// run announces and looks until the swarm ends.
func (f *finder) run() {
	ctx := f.swarm.ctx
	var moved <-chan any // nil: only the end of a look shows it
	if sub, err := f.swarm.Host.EventBus().Subscribe(new(event.EvtLocalAddressesUpdated)); err == nil {
		defer sub.Close()
		moved = sub.Out()
	}
	for d := firstLook; ctx.Err() == nil; d = min(2*d, lastLook) {
		select {
		case <-moved: // it tells of the first addresses too
		default:
		}
		f.announce()
		look, cancel := context.WithTimeout(ctx, d)
		var looking sync.WaitGroup
		looking.Go(func() {
			if err := f.look(look); err != nil { // no multicast here: the node works without
				f.swarm.log.Debug("no discovery on the LAN", "err", err)
				<-look.Done()
			}
		})
		select {
		case <-moved:
			d = firstLook / 2 // the next is firstLook
		case <-look.Done():
		}
		cancel()
		looking.Wait()
	}
	if f.server != nil {
		f.server.Shutdown()
	}
}

// announce sees to it that the addresses at which the peer listens now, if
// any, are what is announced.
func (f *finder) announce() {
	var addrs []ma.Multiaddr
	var err error
	// Not the network's InterfaceListenAddresses, which may be a minute old.
	if listen := f.swarm.Host.Network().ListenAddresses(); len(listen) > 0 {
		addrs, err = manet.ResolveUnspecifiedAddresses(listen, nil)
	}
	if err != nil {
		f.swarm.log.Debug("no addresses to announce on the LAN", "err", err)
		return
	}
	text, ips := records(f.swarm.ID(), addrs)
	if slices.Equal(text, f.announced) {
		return
	}
	if f.server != nil {
		f.server.Shutdown()
		f.server = nil
	}
	f.announced = text // also where it fails: to be tried again when they change
	if len(text) == 0 {
		return
	}
	// The name says nothing, and is new each time, so that those who have
	// heard of another take it for one that they have not been told of. The
	// port has to be there; nobody reads it.
	name := strings.ToLower(rand.Text())
	f.server, err = zeroconf.RegisterProxy(name, f.name, domainMDNS, DefaultPort, name, ips, text, nil)
	if err != nil {
		f.server = nil
		f.swarm.log.Info("not announced on the LAN", "err", err)
	}
}

// records returns the TXT records that announce a peer's addresses, in order,
// and one IP address of each family that it has: mDNS wants those, p2pfs goes
// by the TXT records.
func records(id peer.ID, addrs []ma.Multiaddr) (text, ips []string) {
	for _, family := range []int{ma.P_IP4, ma.P_IP6} {
		found := false
		for _, a := range addrs {
			ip, err := a.ValueForProtocol(family)
			if err != nil {
				continue
			}
			if !found {
				found, ips = true, append(ips, ip)
			}
			text = append(text, prefixMDNS+a.String()+"/p2p/"+id.String())
		}
	}
	slices.Sort(text)
	return slices.Compact(text), ips
}

// look asks who is there, on IPv4 and IPv6 or what there is of them, and dials
// those who answer, until ctx ends. It returns an error only where it cannot
// ask at all.
func (f *finder) look(ctx context.Context) error {
	var err error
	for _, ip := range []zeroconf.IPType{zeroconf.IPv4AndIPv6, zeroconf.IPv4, zeroconf.IPv6} {
		entries, ended := make(chan *zeroconf.ServiceEntry), make(chan struct{})
		var reader sync.WaitGroup
		reader.Go(func() {
			for {
				select {
				case e := <-entries:
					if e == nil {
						return
					}
					f.answer(e.Text)
				case <-ended: // where it could not begin, entries stays open
					return
				}
			}
		})
		err = zeroconf.Browse(ctx, f.name, domainMDNS, entries, zeroconf.SelectIPTraffic(ip))
		close(ended)
		reader.Wait()
		if ctx.Err() != nil {
			return nil
		}
	}
	return err
}

// answer dials the peers that an answer tells of.
func (f *finder) answer(text []string) {
	for _, p := range answers(text) {
		if !f.wanted(p.ID) {
			continue
		}
		select {
		case f.slots <- struct{}{}:
		default: // the next look finds it again
			return
		}
		f.wg.Go(func() {
			defer func() { <-f.slots }()
			f.dial(p)
		})
	}
}

// answers returns the peers in TXT records, with the addresses that can be
// dialed without asking anybody else where they are.
func answers(text []string) []peer.AddrInfo {
	var addrs []ma.Multiaddr
	for _, t := range text {
		t, ok := strings.CutPrefix(t, prefixMDNS)
		if !ok || len(addrs) == maxFound {
			continue
		}
		a, err := ma.NewMultiaddr(t)
		if err != nil || len(a) == 0 {
			continue
		}
		if c := a[0].Protocol().Code; c != ma.P_IP4 && c != ma.P_IP6 {
			continue
		}
		if _, id := peer.SplitAddr(a); id == "" {
			continue
		}
		addrs = append(addrs, a)
	}
	infos, err := peer.AddrInfosFromP2pAddrs(addrs...)
	if err != nil {
		return nil
	}
	return infos
}

// wanted tells whether a peer is another one, not connected yet, and there is
// room for it.
func (f *finder) wanted(p peer.ID) bool {
	net := f.swarm.Host.Network()
	return p != f.swarm.ID() && net.Connectedness(p) != network.Connected && len(net.Peers()) < defaultLowWater
}

// dial connects to a peer, whose addresses of just now join those known.
// Having failed to reach it at those is no reason to wait.
func (f *finder) dial(p peer.AddrInfo) {
	s := f.swarm
	ctx, cancel := context.WithTimeout(s.ctx, findTime)
	defer cancel()
	s.forgive(p.ID)
	if err := s.Connect(ctx, p); err != nil {
		s.log.Debug("peer found on the LAN", "err", err)
		return
	}
	select {
	case f.connected <- struct{}{}:
	default:
	}
}

// forgive lets a peer be dialed at once even where that has just failed.
func (s *Swarm) forgive(p peer.ID) {
	if sw, ok := s.Host.Network().(*swarm.Swarm); ok {
		sw.Backoff().Clear(p)
	}
}

// close waits until discovery has ended, which the end of the swarm's context
// sets off.
func (f *finder) close() { f.wg.Wait() }
