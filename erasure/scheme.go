package erasure

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MaxShards is the most shards a scheme may have. Above, the library
// switches to another code, which works on groups of 64 bytes.
const MaxShards = 256

// Scheme says how a pack is coded: any K of its K+M shards restore it.
type Scheme struct {
	K int // data shards
	M int // parity shards: how many may be lost
}

// ErrScheme is wrapped by every refusal of a scheme.
var ErrScheme = errors.New("bad redundancy")

// ParseScheme reads a scheme as String writes it: 8+12 is K=8, M=12.
func ParseScheme(s string) (Scheme, error) {
	k, m, ok := strings.Cut(s, "+")
	if !ok {
		return Scheme{}, fmt.Errorf("%w %q: want K+M, such as 8+12", ErrScheme, s)
	}
	var sch Scheme
	var err1, err2 error
	sch.K, err1 = strconv.Atoi(k)
	sch.M, err2 = strconv.Atoi(m)
	if err1 != nil || err2 != nil || sch.String() != s {
		return Scheme{}, fmt.Errorf("%w %q: want K+M, such as 8+12", ErrScheme, s)
	}
	if err := sch.Valid(); err != nil {
		return Scheme{}, err
	}
	return sch, nil
}

// N is the number of shards.
func (s Scheme) N() int { return s.K + s.M }

// String gives the scheme as K+M.
func (s Scheme) String() string {
	return strconv.Itoa(s.K) + "+" + strconv.Itoa(s.M)
}

// Valid tells why the scheme cannot be, or nil.
func (s Scheme) Valid() error {
	switch {
	case s.K < 1:
		return fmt.Errorf("%w %v: at least 1 data shard is needed", ErrScheme, s)
	case s.M < 0:
		return fmt.Errorf("%w %v: the parity shards cannot be fewer than 0", ErrScheme, s)
	case s.K > MaxShards || s.M > MaxShards || s.N() > MaxShards:
		return fmt.Errorf("%w %v: at most %d shards", ErrScheme, s, MaxShards)
	}
	return nil
}
