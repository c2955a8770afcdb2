package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

// Types of frames. Requests have the high bit clear, replies have it set.
// Numbers are on the wire: add, never reuse.
const (
	typeStore    byte = 0x01
	typeRead     byte = 0x02
	typeHave     byte = 0x03
	typeManifest byte = 0x04
	typeHolders  byte = 0x05
	typeState    byte = 0x06
	typeFacts    byte = 0x07
	typeAlive    byte = 0x08
	typeDeny     byte = 0x09
	typeList     byte = 0x0a // the holders of one pack; follows typeHolders, is no request
	typeGiveUp   byte = 0x0b
	typeGetState byte = 0x0c
	typeProve    byte = 0x0d
	typeHeads    byte = 0x0e
	typePutHead  byte = 0x0f

	replyOK       byte = 0x80
	replyGo       byte = 0x81 // send the shard
	replyHave     byte = 0x82 // the shard is held already
	replyHoldings byte = 0x83
	replyManifest byte = 0x84
	replyFacts    byte = 0x85
	replyResults  byte = 0x86 // a status for each pack of typeHolders
	replyState    byte = 0x87
	replyProof    byte = 0x88
	replyHeads    byte = 0x89
	replyRefused  byte = 0xff
)

const (
	// frameLen is the length of what stands before a header: type and length.
	frameLen = 4

	// defaultLimit bounds the header of a frame that has no bound of its own.
	defaultLimit = 64 << 10

	storeLimit = 128 << 10 // a manifest and a list of holders
	listLimit  = 32 << 10
)

// newFrame begins a frame of a given type with room for n bytes of header,
// which are to be appended.
func newFrame(typ byte, n int) []byte {
	b := make([]byte, frameLen, frameLen+n)
	b[0] = typ
	return b
}

// seal writes the length of the header into the frame b. Headers are bounded
// far below the 16 MiB that it can say.
func seal(b []byte) []byte {
	n := len(b) - frameLen
	b[1], b[2], b[3] = byte(n>>16), byte(n>>8), byte(n)
	return b
}

// writeFrame writes a frame made by newFrame, in one Write.
func writeFrame(w io.Writer, b []byte) error {
	_, err := w.Write(seal(b))
	return err
}

// readFrame reads a frame whose header is at most limit(type) bytes. It gives
// io.EOF where the stream ends before the frame, and never reads beyond it.
func readFrame(r io.Reader, limit func(typ byte) int) (typ byte, head []byte, err error) {
	var p [frameLen]byte
	if _, err := io.ReadFull(r, p[:]); err != nil {
		return 0, nil, err
	}
	typ = p[0]
	n := int(p[1])<<16 | int(binary.BigEndian.Uint16(p[2:]))
	if most := limit(typ); n > most {
		return typ, nil, fmt.Errorf("%w: frame %#02x has a header of %d bytes, at most %d are allowed", ErrProtocol, typ, n, most)
	}
	if n == 0 {
		return typ, nil, nil
	}
	head = make([]byte, n)
	if _, err := io.ReadFull(r, head); err != nil {
		return typ, nil, unexpected(err)
	}
	return typ, head, nil
}

// unexpected makes the end of a stream what it is where more was to come.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// replyLimit bounds the headers of replies.
func replyLimit(typ byte) int {
	switch typ {
	case replyOK, replyGo, replyHave:
		return 0
	case replyHoldings:
		return MaxIDs * holdingLen
	case replyManifest, replyState:
		return pack.MaxManifest
	case replyFacts:
		return factsLen + 2*MaxName
	case replyResults:
		return MaxPacks
	case replyProof:
		return digest.MaxProof
	case replyHeads:
		return maxHeads
	case replyRefused:
		return 2 + MaxReason
	}
	return 0
}

// readReply reads a reply of one of the types wanted; a refusal comes as the
// error.
func readReply(r io.Reader, want ...byte) (typ byte, head []byte, err error) {
	typ, head, err = readFrame(r, replyLimit)
	if err != nil {
		return 0, nil, fmt.Errorf("read reply: %w", unexpected(err))
	}
	if typ == replyRefused {
		refusal, err := decodeRefusal(head)
		if err != nil {
			return 0, nil, fmt.Errorf("read reply: %w", err)
		}
		return 0, nil, refusal
	}
	if slices.Contains(want, typ) {
		return typ, head, nil
	}
	return 0, nil, fmt.Errorf("read reply: %w: frame %#02x is no answer to this request", ErrProtocol, typ)
}
