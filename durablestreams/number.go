package durablestreams

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// maxSeconds is the longest duration that fits a time.Duration, in seconds: 292 years.
const maxSeconds = 1<<63/uint64(time.Second) - 1

// maxInteger is the largest integer that is accepted where nothing else bounds it: the largest that all
// JSON parsers keep exactly.
const maxInteger = runnel.MaxProducerNumber

// parseInteger reads a non-negative decimal integer without sign, leading zeros, point or exponent.
func parseInteger(name, s string, most uint64) (uint64, error) {
	ok := s != "" && len(s) <= 20 && (s[0] != '0' || len(s) == 1)
	for i := 0; ok && i < len(s); i++ {
		ok = '0' <= s[i] && s[i] <= '9'
	}
	if ok {
		if n, err := strconv.ParseUint(s, 10, 64); err == nil && n <= most {
			return n, nil
		}
	}
	return 0, wire.Invalid(wire.CodeInvalidRequest,
		fmt.Sprintf("%s must be an integer from 0 to %d, in digits without leading zeros, not %s", name, most, shown(s)))
}

// parseTime reads an RFC 3339 timestamp. Package time also takes hours of one digit, a comma before the
// fraction, and zones beyond 23 hours, which the standard does not know.
func parseTime(name, s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err == nil && s[len("2006-01-02T15")] == ':' && !strings.Contains(s, ",") && (s[len(s)-1] == 'Z' || s[len(s)-len("07:00"):] < "24") {
		return t, nil
	}
	return time.Time{}, wire.Invalid(wire.CodeInvalidRequest, name+" must be an RFC 3339 timestamp, not "+shown(s))
}

// shown is a value from outside as a message shows it: escaped, and cut so that the message stays short.
func shown(s string) string {
	const most = 64
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}
