package chunk

import (
	"errors"
	"io"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // registers fastcdc-v1.0.0
)

// algorithm is how the library calls the cutting: FastCDC (Xia et al., USENIX
// ATC 2016) with masks for our sizes. The library's jc-v1.1.0 (Jin et al.,
// IEEE TPDS 2023) cuts nine times as fast, but its masks are those for 8 KiB
// whatever the size asked for: it looks at a few KiB, jumps over 512 KiB, and
// after an insertion seldom falls into step again. BenchmarkSplit: a tar of
// Go's sources (131 MiB), and the same after 5 or 20 random edits of up to
// 3 KB; "again" is what of the edited one is new and stored once more:
//
//	                  MB/s   mean chunk   again, 5   again, 20
//	fastcdc-v1.0.0    1330     1267 KiB       6%        18%
//	jc-v1.0.0         2330     1317 KiB      10%        28%
//	jc-v1.1.0        11470      782 KiB      13%        40%
//
// It is a promise: another one cuts elsewhere, and nothing deduplicates with
// what was stored before. testdata/cuts.hex pins it.
const algorithm = "fastcdc-v1.0.0"

// Splitter cuts a stream into chunks where the content says so: the cuts do
// not depend on how the stream comes, and an edit moves only the cuts near
// it.
type Splitter struct {
	c    *chunkers.Chunker
	done bool
}

// NewSplitter cuts what r gives. It takes 8 MiB of memory: use Reset for
// many streams.
func NewSplitter(r io.Reader) *Splitter {
	c, err := chunkers.NewChunker(algorithm, r, &chunkers.ChunkerOpts{
		MinSize:    MinSize,
		NormalSize: AvgSize,
		MaxSize:    MaxSize,
	})
	if err != nil {
		panic("chunk: " + err.Error()) // refuses bad constants only
	}
	return &Splitter{c: c}
}

// Reset makes the splitter begin anew with r.
func (s *Splitter) Reset(r io.Reader) {
	s.c.Reset(r)
	s.done = false
}

// Next gives the next chunk, of MinSize to MaxSize bytes; only the last may
// be shorter. It is valid until the next call. After the last, the error is
// io.EOF, and so it is at once if the stream is empty. An error of the
// reader is given as it is, and what was read since the last cut is lost.
func (s *Splitter) Next() ([]byte, error) {
	if s.done {
		return nil, io.EOF
	}
	b, err := s.c.Next()
	switch {
	case errors.Is(err, io.EOF) && len(b) > 0: // the library's way to mark a short last chunk
		s.done = true
		return b, nil
	case err != nil:
		return nil, err
	}
	return b, nil
}
