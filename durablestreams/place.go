package durablestreams

import (
	"net/url"
	"strings"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// place is where a read begins: at the beginning, at the tail of the moment, or after an entry.
type place struct {
	given bool // else it is the beginning
	start bool
	now   bool
	after runnel.Sequence
}

// parsePlace reads an offset: a token, or one of the words that stand for a place.
func parsePlace(token string) (place, error) {
	switch token {
	case wire.OffsetStart:
		return place{given: true, start: true}, nil
	case wire.OffsetNow:
		return place{given: true, now: true}, nil
	}
	s, err := runnel.ParseOffset(token)
	return place{given: true, after: s}, err
}

// sequence is the place in the words of the log.
func (p place) sequence() runnel.Sequence {
	if p.now {
		return runnel.Latest
	}
	return p.after
}

// query is what the URL of a read asks for.
type query struct {
	from    place
	live    string
	cursor  cursor
	timeout string
	hasTime bool
}

// parseQuery reads the query of a URL. Parameters that the protocol does not know are ignored, those that
// it knows may be given once.
func parseQuery(raw string) (query, error) {
	q := query{from: place{start: true}}
	var seen [4]bool
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			continue
		}
		var which int
		switch name {
		case wire.QueryOffset:
			which = 0
		case wire.QueryLive:
			which = 1
		case wire.QueryCursor:
			which = 2
		case wire.QueryTimeout:
			which = 3
		default:
			continue
		}
		if seen[which] {
			return q, wire.Invalid(wire.CodeInvalidRequest, "the parameter "+name+" is given more than once")
		}
		seen[which] = true
		if value, err = url.QueryUnescape(value); err != nil {
			return q, wire.Invalid(wire.CodeInvalidRequest, "the parameter "+name+" has an invalid escape")
		}
		switch which {
		case 0:
			if q.from, err = parsePlace(value); err != nil {
				return q, err
			}
		case 1:
			if value != wire.LiveLongPoll && value != wire.LiveSSE {
				return q, wire.Invalid(wire.CodeInvalidRequest, "live must be long-poll or sse, not "+shown(value))
			}
			q.live = value
		case 2:
			if q.cursor, err = parseCursor(value); err != nil {
				return q, err
			}
		case 3:
			q.timeout, q.hasTime = value, true
		}
	}
	if q.live != "" && !q.from.given {
		return q, wire.Invalid(wire.CodeInvalidOffset, "a live read needs an offset")
	}
	return q, nil
}
