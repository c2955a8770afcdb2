package member

import (
	"encoding/binary"
	"fmt"
)

// versionErr is the error for a version byte that this program does not
// know: newer ones are named as such.
func versionErr(v byte) error {
	if v > version {
		return ErrVersion
	}
	return ErrMalformed
}

// decoder takes an encoding apart from the front and keeps the first error.
type decoder struct {
	what string // for errors
	b    []byte
	err  error
}

func (d *decoder) fail(format string, a ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%s: %w: %s", d.what, ErrMalformed, fmt.Sprintf(format, a...))
	}
	d.b = nil
}

// take returns the next n bytes, nil after an error.
func (d *decoder) take(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n > len(d.b) {
		d.fail("cut short")
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint16() uint16 {
	if b := d.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) key() (k [32]byte) {
	copy(k[:], d.take(32))
	return k
}

func (d *decoder) sig() (s [64]byte) {
	copy(s[:], d.take(64))
	return s
}

// version takes the version byte.
func (d *decoder) version() {
	if v := d.byte(); d.err == nil && v != version {
		d.err = fmt.Errorf("%s: version %d: %w", d.what, v, versionErr(v))
		d.b = nil
	}
}

// header takes magic and version.
func (d *decoder) header(magic string) {
	if b := d.take(len(magic)); d.err == nil && string(b) != magic {
		d.fail("does not begin with %q", magic)
	}
	d.version()
}

// cert takes one certificate.
func (d *decoder) cert() Cert {
	b := d.take(certLen)
	if d.err != nil {
		return Cert{}
	}
	c, err := decodeCert(b)
	if err != nil {
		d.err = fmt.Errorf("%s: %w", d.what, err)
		d.b = nil
	}
	return c
}

// chain takes a count and so many certificates.
func (d *decoder) chain() Chain {
	n := int(d.byte())
	if n > MaxChain {
		d.fail("%d certificates", n)
	}
	if d.err != nil || n == 0 {
		return nil
	}
	if len(d.b) < n*certLen {
		d.fail("cut short")
		return nil
	}
	c := make(Chain, n)
	for i := range c {
		c[i] = d.cert()
	}
	return c
}

// end returns the first error, or one where bytes are left.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes too many", len(d.b))
	}
	return d.err
}
