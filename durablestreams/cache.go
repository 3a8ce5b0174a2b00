package durablestreams

import (
	"strconv"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
)

// How long a response with data may be used, and how long after that while another one is fetched.
const (
	freshFor = 60 * time.Second
	staleFor = 300 * time.Second
)

// cachePolicy holds the values of Cache-Control for successful reads.
type cachePolicy struct {
	scope string
	// data is for responses that hold data, or that end a closed stream, if nothing bounds how long they
	// stay true.
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
		scope: scope,
		data:  []string{cacheFor(scope, freshFor+staleFor)},
		level: []string{scope + ", no-cache"},
	}
}

// of returns the value for a response with data of a stream. No cache may serve what the stream itself
// would no longer: a response is usable for no longer than the stream, or an entry, may have left.
// Source: PROTOCOL.md, section 5.6.
func (p cachePolicy) of(info runnel.Info) []string {
	if info.ExpiresAt.IsZero() && info.TTL <= 0 && info.Retention.Age <= 0 {
		return p.data
	}
	left := freshFor + staleFor
	if !info.ExpiresAt.IsZero() {
		left = min(left, time.Until(info.ExpiresAt))
	}
	if info.TTL > 0 {
		left = min(left, info.TTL)
	}
	if info.Retention.Age > 0 {
		left = min(left, info.Retention.Age)
	}
	if left < time.Second {
		return valueNoStore
	}
	return []string{cacheFor(p.scope, left)}
}

// cacheFor is the value for a response that may be used for so long, at least a second.
func cacheFor(scope string, left time.Duration) string {
	fresh := min(left, freshFor)
	stale := min(left-fresh, staleFor)
	value := scope + ", max-age=" + seconds(fresh)
	if stale >= time.Second {
		value += ", stale-while-revalidate=" + seconds(stale)
	}
	return value
}

// entityTag names the bytes of a read: the incarnation of the stream, the place it begins after, the tail
// it reaches, and whether it says that the stream is closed. Another database may use the same ids, so the
// time of creation is part of the incarnation. Source: PROTOCOL.md, section 10.1.
func entityTag(info runnel.Info, from runnel.Sequence) string {
	b := make([]byte, 0, 64)
	b = append(b, '"')
	b = strconv.AppendUint(b, info.ID, 10)
	b = append(b, '-')
	b = strconv.AppendInt(b, info.Created.UnixMicro(), 36)
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
