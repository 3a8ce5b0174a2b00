package durablestreams

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/runnelhq/runnel/wire"
)

// Cursors count intervals since an epoch. Source: PROTOCOL.md, section 10.1.
const (
	cursorInterval  = 20 * time.Second
	cursorMaxJitter = 3600 * time.Second
	maxCursorDigits = 64
)

var cursorEpoch = time.Date(2024, 10, 9, 0, 0, 0, 0, time.UTC)

// cursor is the decimal form of a number of any size, without leading zeros. The empty cursor is less
// than all others.
type cursor string

func cursorAt(t time.Time) cursor {
	return cursor(strconv.FormatInt(max(0, int64(t.Sub(cursorEpoch)/cursorInterval)), 10))
}

func (c cursor) less(d cursor) bool {
	if len(c) != len(d) {
		return len(c) < len(d)
	}
	return c < d
}

// parseCursor reads the cursor that a client sends back. One that is no number was made by somebody else
// and says nothing; so does none at all.
func parseCursor(s string) (cursor, error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return "", nil
		}
	}
	if len(s) > maxCursorDigits {
		return "", wire.Invalid(wire.CodeInvalidRequest, fmt.Sprintf("the cursor has %d digits, the limit is %d", len(s), maxCursorDigits))
	}
	if s == "" {
		return "", nil
	}
	if s = strings.TrimLeft(s, "0"); s == "" {
		s = "0"
	}
	return cursor(s), nil
}

// nextCursor returns the cursor of a response to a client that sent another: that of the current interval,
// or, if the client's is not less, one that is greater than the client's by a random step.
func nextCursor(now time.Time, client cursor) cursor {
	current := cursorAt(now)
	if client.less(current) {
		return current
	}
	if n, err := strconv.ParseUint(string(client), 10, 63); err == nil {
		return cursor(strconv.FormatUint(n+1+rand.Uint64N(uint64(cursorMaxJitter/cursorInterval)), 10))
	}
	return client.increment()
}

// increment returns the next number.
func (c cursor) increment() cursor {
	b := []byte(c)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] != '9' {
			b[i]++
			return cursor(b)
		}
		b[i] = '0'
	}
	return cursor("1" + string(b))
}
