package durablestreams

import (
	"strconv"
	"strings"

	"github.com/runnelhq/runnel"
)

// cachePolicy holds the values of Cache-Control for successful reads.
type cachePolicy struct {
	// data is for responses that hold data, or that end a closed stream.
	data []string
	// level is for empty responses at the tail of an open stream. To cache one would hide the data that
	// comes next from the client that asks again; it may only be kept for a question with its ETag.
	level []string
}

// newCachePolicy follows PROTOCOL.md, section 10.1.
func newCachePolicy(private bool) cachePolicy {
	scope := "public"
	if private {
		scope = "private"
	}
	return cachePolicy{
		data:  []string{scope + ", max-age=60, stale-while-revalidate=300"},
		level: []string{scope + ", no-cache"},
	}
}

// entityTag names the bytes of a read: the incarnation of the stream, the place it begins after, the tail
// it reaches, and whether it says that the stream is closed. Source: PROTOCOL.md, section 10.1.
func entityTag(info runnel.Info, from runnel.Sequence) string {
	b := make([]byte, 0, 64)
	b = append(b, '"')
	b = strconv.AppendUint(b, info.ID, 10)
	b = append(b, ':')
	b = strconv.AppendUint(b, uint64(from), 10)
	b = append(b, ':')
	b = strconv.AppendUint(b, uint64(info.Tail), 10)
	if info.Closed {
		b = append(b, ":c"...)
	}
	return string(append(b, '"'))
}

// noneMatch tells whether the values of If-None-Match allow an answer in full: whether none of their tags
// is tag. Tags compare weakly, as RFC 9110, section 13.1.2, has it. What is no tag matches nothing.
func noneMatch(values []string, tag string) bool {
	for _, list := range values {
		for list = strings.TrimLeft(list, " \t,"); list != ""; list = strings.TrimLeft(list, " \t,") {
			if list[0] == '*' {
				return false
			}
			list = strings.TrimPrefix(list, "W/")
			if list == "" || list[0] != '"' {
				_, list, _ = strings.Cut(list, ",")
				continue
			}
			end := strings.IndexByte(list[1:], '"')
			if end < 0 {
				break
			}
			if list[:end+2] == tag {
				return false
			}
			list = list[end+2:]
		}
	}
	return true
}
