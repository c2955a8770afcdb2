// Package member says who belongs to a network and proves it.
//
// A private network is an Ed25519 key pair. Its private half stays in the
// founder's home and signs two things only: the founder's own certificate
// and the deny list. Every other member carries a [Chain] of certificates
// that leads from the network key to its own peer key, each signed by the
// subject of the one before. An [Invite] is made by any member, offline; a
// newcomer shows it, before it expires, to any member, which signs the
// newcomer's key and so makes its chain. [DenyList] takes members out again.
//
// An open network has no key: its ID is random, everybody who knows it
// belongs, and there are no chains.
//
// The package is formats and checks only: no network, no files, no
// goroutines. Each encoding has exactly one valid form; docs/protocol.md has
// the tables. A [Membership] is one node's credentials, safe for concurrent
// use, which the swarm's gate asks.
package member

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/p2pfs/p2pfs/internal/digest"
)

// Errors that callers branch on. Those that wrap ErrRefused are verdicts on
// a claim of membership; ErrMalformed and ErrVersion come from decoders.
var (
	// ErrMalformed is bytes or text that are not a valid encoding.
	ErrMalformed = errors.New("malformed")
	// ErrVersion is a format from the future.
	ErrVersion = errors.New("made by a newer version of p2pfs")

	// ErrRefused is wrapped by every verdict below.
	ErrRefused = errors.New("not a member")
	// ErrExpired is an invite that is past its date.
	ErrExpired = fmt.Errorf("%w: the invite has expired", ErrRefused)
	// ErrExpelled is a peer on the deny list, or one vouched for by such.
	ErrExpelled = fmt.Errorf("%w: expelled", ErrRefused)
	// ErrNetwork is a claim on another network.
	ErrNetwork = fmt.Errorf("%w: another network", ErrRefused)
	// ErrSignature is a chain, invite or list with a signature that does
	// not hold.
	ErrSignature = fmt.Errorf("%w: bad signature", ErrRefused)
	// ErrChain is a chain that does not lead from the network's key to the
	// peer that shows it.
	ErrChain = fmt.Errorf("%w: the certificates do not lead to this peer", ErrRefused)
	// ErrTooLong is a chain of more than MaxChain certificates.
	ErrTooLong = fmt.Errorf("%w: more than %d certificates", ErrRefused, MaxChain)
	// ErrTime is a certificate dated outside of what clocks can explain.
	ErrTime = fmt.Errorf("%w: certificate dated in the future or before p2pfs", ErrRefused)
	// ErrNoChain is a node that has not been admitted yet.
	ErrNoChain = fmt.Errorf("%w: no certificates yet", ErrRefused)
)

// version of every format in this package.
const version = 1

// Domains of the signatures. Each signature covers its domain, a zero byte,
// the version, the network's ID and what is signed.
const (
	domainCert  = "p2pfs certificate"
	domainDeny  = "p2pfs deny list"
	domainProof = "p2pfs invite proof"
)

// contextNetwork derives a private network's ID from its public key.
const contextNetwork = "p2pfs 2026-11 network id"

// Key is an Ed25519 public key: of a peer, an invite or a network.
type Key [32]byte

// KeyOf returns the public half of priv.
func KeyOf(priv ed25519.PrivateKey) Key { return Key(priv.Public().(ed25519.PublicKey)) }

// IsZero tells whether k is no key.
func (k Key) IsZero() bool { return k == Key{} }

// String returns k in hex.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// Short returns the first 8 hex digits of k, for people.
func (k Key) Short() string { return hex.EncodeToString(k[:4]) }

// Network is the ID of a network: derived from its public key, or random
// where the network is open.
type Network [32]byte

// NetworkOf returns the ID of the private network with the given public key.
func NetworkOf(key Key) Network { return Network(digest.Derive(contextNetwork, key[:])) }

// OpenNetwork returns the ID of a new open network.
func OpenNetwork() Network {
	var n Network
	rand.Read(n[:]) // never fails: crypto/rand ends the program instead
	return n
}

// String returns n in hex.
func (n Network) String() string { return hex.EncodeToString(n[:]) }

// Short returns the first 8 hex digits of n, for people.
func (n Network) Short() string { return hex.EncodeToString(n[:4]) }

// signed returns the bytes that a signature covers.
func signed(domain string, n Network, body ...[]byte) []byte {
	b := make([]byte, 0, len(domain)+2+len(n)+256)
	b = append(b, domain...)
	b = append(b, 0, version)
	b = append(b, n[:]...)
	for _, p := range body {
		b = append(b, p...)
	}
	return b
}

// millis returns t as the formats carry it: milliseconds since 1970.
func millis(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) }
