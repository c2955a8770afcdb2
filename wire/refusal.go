package wire

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/p2pfs/p2pfs/pack"
)

// Code says why a request was refused. The numbers are on the wire: add at the
// end, never reorder. None is above 255, for beside blocks they are one byte.
type Code uint16

// The codes of refusals.
const (
	Internal     Code = 1  // a fault of the peer's own; it says no more
	Malformed    Code = 2  // the request is not the protocol
	Unsupported  Code = 3  // an unknown request or version
	NotFound     Code = 4  // it has no such pack, shard or block, or does not keep that volume's heads
	Full         Code = 5  // it has no space left
	Quota        Code = 6  // it keeps as much for this member as it is willing to
	Old          Code = 7  // it knows a newer state of the pack, or that it is deleted
	OtherCoding  Code = 8  // its shards of the pack are of another coding
	Corrupt      Code = 9  // the bytes are not what they ought to be
	Busy         Code = 10 // not now
	NotMember    Code = 11 // the asking peer is not a member of the network
	Denied       Code = 12 // the asking peer may not do this
	Signature    Code = 13 // a signature is not its owner's
	OtherNetwork Code = 14 // the pack or the head belongs to another network
	Another      Code = 15 // it holds another shard of that state of the pack
)

var codeTexts = [...]string{
	Internal:     "internal error",
	Malformed:    "malformed request",
	Unsupported:  "not supported",
	NotFound:     "not found",
	Full:         "no space left",
	Quota:        "over quota",
	Old:          "a newer state is known",
	OtherCoding:  "coded differently",
	Corrupt:      "corrupt data",
	Busy:         "busy",
	NotMember:    "not a member",
	Denied:       "not allowed",
	Signature:    "bad signature",
	OtherNetwork: "of another network",
	Another:      "another shard of the pack is held",
}

// String gives a few words for people.
func (c Code) String() string {
	if int(c) < len(codeTexts) && codeTexts[c] != "" {
		return codeTexts[c]
	}
	return fmt.Sprintf("code %d", uint16(c))
}

// Refusal is a peer's answer to a request that it does not grant.
type Refusal struct {
	Code   Code
	Reason string // at most [MaxReason] bytes of printable UTF-8; "": nothing beyond the code
}

// Error says it to people.
func (r *Refusal) Error() string {
	if r.Reason == "" {
		return "refused: " + r.Code.String()
	}
	return "refused: " + r.Code.String() + ": " + r.Reason
}

// Is makes a refusal match the refusal of the same code that has no reason,
// so that errors.Is(err, [ErrFull]) holds for every one with [Full].
func (r *Refusal) Is(target error) bool {
	t, ok := target.(*Refusal)
	return ok && t.Code == r.Code && t.Reason == ""
}

// Refuse makes a refusal, for a [Handler] to return.
func Refuse(code Code, format string, args ...any) error {
	return &Refusal{Code: code, Reason: clean(fmt.Sprintf(format, args...), MaxReason)}
}

// Refusals without a reason, to return and to compare with.
var (
	ErrNotFound     error = &Refusal{Code: NotFound}
	ErrFull         error = &Refusal{Code: Full}
	ErrQuota        error = &Refusal{Code: Quota}
	ErrOld          error = &Refusal{Code: Old}
	ErrOtherCoding  error = &Refusal{Code: OtherCoding}
	ErrCorrupt      error = &Refusal{Code: Corrupt}
	ErrBusy         error = &Refusal{Code: Busy}
	ErrNotMember    error = &Refusal{Code: NotMember}
	ErrDenied       error = &Refusal{Code: Denied}
	ErrOtherNetwork error = &Refusal{Code: OtherNetwork}
	ErrAnother      error = &Refusal{Code: Another}
)

// ErrHave is what [Handler.Store] returns where the shard is already held: no
// refusal, for the asking side has what it wants.
var ErrHave = errors.New("shard is already held")

// CodeOf gives the code that says err to a peer: that of a [Refusal] in it,
// else that of the errors of this package and of pack, else [Internal]; 0 for
// nil.
func CodeOf(err error) Code {
	if err == nil {
		return 0
	}
	return refusalOf(err).Code
}

// refusalOf gives the refusal that says err to a peer. A cause that is our own
// stays here: it may name paths and is of no use to the peer.
func refusalOf(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok && r.Code != 0 {
		return r
	}
	var code Code
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &Refusal{Code: Busy}
	case errors.Is(err, pack.ErrVersion):
		code = Unsupported
	case errors.Is(err, ErrProtocol):
		code = Malformed
	case errors.Is(err, pack.ErrSignature):
		code = Signature
	case errors.Is(err, pack.ErrCorrupt):
		code = Corrupt
	default:
		return &Refusal{Code: Internal}
	}
	return &Refusal{Code: code, Reason: clean(err.Error(), MaxReason)}
}

// clean makes s fit for people's eyes: valid UTF-8, nothing that moves a
// cursor or reverses the text, at most limit bytes.
func clean(s string, limit int) string {
	if len(s) > 4*limit {
		s = s[:4*limit] // what is behind that is cut below anyway
	}
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
