package durablestreams

import (
	"bufio"
	"context"
	"strings"

	"github.com/runnelhq/runnel"
)

func newReader(s string) *bufio.Reader { return bufio.NewReader(strings.NewReader(s)) }

// nowhere has no streams, and only takes names that are valid.
type nowhere struct{ Log }

func (nowhere) Delete(_ context.Context, seg runnel.Segment) error {
	if err := seg.Validate(); err != nil {
		panic(err)
	}
	return &runnel.NotFoundError{Segment: seg}
}
