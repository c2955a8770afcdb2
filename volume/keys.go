package volume

import (
	"crypto/ed25519"

	"github.com/p2pfs/p2pfs/chunk"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

// The contexts that keys are derived under. They never change.
const (
	ownerContext       = "p2pfs 2026-11 volume owner key"
	convergenceContext = "p2pfs 2026-11 volume convergence secret"
	readContext        = "p2pfs 2026-11 volume read key"
	verifyContext      = "p2pfs 2026-11 volume verify key"
	catalogContext     = "p2pfs 2026-11 home catalog key"
)

// Seed is what a volume is made of: 32 random bytes. Who has it has every
// right to the volume.
type Seed [32]byte

// Keys are what derives from a seed.
type Keys struct {
	Owner       ed25519.PrivateKey // signs the states of the volume's packs
	Convergence chunk.Secret       // seals its chunks, so that equal content gives equal chunks within it
	Read        [32]byte           // opens its heads
	Verify      [32]byte           // opens what is needed to check and repair it
	Catalog     [32]byte           // seals, in a home, the list of what was put from there
}

// Keys derives the keys of the volume.
func (s Seed) Keys() Keys {
	owner := digest.Derive(ownerContext, s[:])
	read := digest.Derive(readContext, s[:])
	return Keys{
		Owner:       ed25519.NewKeyFromSeed(owner[:]),
		Convergence: digest.Derive(convergenceContext, s[:]),
		Read:        read,
		Verify:      VerifyKey(read),
		Catalog:     digest.Derive(catalogContext, s[:]),
	}
}

// VerifyKey derives the verify key of a volume from its read key.
func VerifyKey(read [32]byte) [32]byte { return digest.Derive(verifyContext, read[:]) }

// Public is the owner's public key, which is the volume's name.
func (k *Keys) Public() pack.Owner {
	return pack.Owner(k.Owner.Public().(ed25519.PublicKey))
}
