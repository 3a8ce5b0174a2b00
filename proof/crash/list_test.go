package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/runnelhq/runnel"
)

// listed is what the listing over HTTP says of a segment.
type listed struct {
	Path           string `json:"path"`
	ContentType    string `json:"contentType"`
	CreatedAt      int64  `json:"createdAt"`
	NextOffset     string `json:"nextOffset"`
	EarliestOffset string `json:"earliestOffset"`
	Closed         bool   `json:"closed"`
	TTL            int64  `json:"ttl"`
	ExpiresAt      int64  `json:"expiresAt"`
}

// list reads the listing in pages.
func (f overHTTP) list(ctx context.Context, prefix string, page int) ([]listed, error) {
	var all []listed
	for after := ""; ; {
		w, err := f.do(ctx, "GET", fmt.Sprintf("?limit=%d&prefix=%s&after=%s", page, url.QueryEscape(prefix), url.QueryEscape(after)), "")
		if err != nil {
			return nil, err
		}
		var one struct {
			Streams []listed `json:"streams"`
			Next    string   `json:"next"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &one); err != nil {
			return nil, err
		}
		all = append(all, one.Streams...)
		if after = one.Next; after == "" {
			return all, nil
		}
	}
}

// listedAs is a segment as the listing over HTTP should have it.
func listedAs(in *runnel.Info) listed {
	l := listed{
		Path: in.Segment.Path(), ContentType: in.ContentType, CreatedAt: in.Created.UnixMilli(),
		NextOffset: in.Tail.Offset(), Closed: in.Closed, TTL: int64(in.TTL.Seconds()),
	}
	if in.Earliest > 0 {
		l.EarliestOffset = in.Earliest.Offset()
	}
	if !in.ExpiresAt.IsZero() {
		l.ExpiresAt = in.ExpiresAt.UnixMilli()
	}
	return l
}

// verifyList compares the listing with the model, in both ways.
func (s *sim) verifyList() {
	now := s.now()
	var all []listed
	found := make(map[runnel.Segment]*runnel.Info)
	for info, err := range s.log.List(s.ctx, runnel.Store{}, runnel.ListOptions{}) {
		if err != nil {
			s.fail(listsAll, "%v", err)
		}
		if info.Segment.Space != deskName { // which is another matter
			found[info.Segment] = &info
		}
		all = append(all, listedAs(&info))
	}
	s.check(listsAll, slices.IsSortedFunc(all, func(a, b listed) int { return comparePaths(a.Path, b.Path) }), "not in order: %v", all)
	for _, space := range spaceNames {
		for _, name := range segmentNames {
			s.verifyListed(s.spaces[space].base[name], found[runnel.Segment{Space: space, Name: name}], now)
			delete(found, runnel.Segment{Space: space, Name: name})
		}
	}
	s.check(listsAll, len(found) == 0, "%d segments are listed that never were", len(found))
	web, _ := s.fronts[1].(overHTTP)
	for _, prefix := range []string{"", "a/", "b/c/y"} {
		want := slices.DeleteFunc(slices.Clone(all), func(l listed) bool { return !strings.HasPrefix(l.Path, prefix) })
		got, err := web.list(s.ctx, prefix, 1+s.ops%4)
		s.check(listsAll, err == nil && slices.Equal(got, want), "what begins with %q: want %v, got %v, %v", prefix, want, got, err)
	}
}

// verifyListed compares what a listing says of a segment, nil for nothing, with the model.
func (s *sim) verifyListed(sg *segment, is *runnel.Info, now moment) {
	switch v := sg.verdict(now); {
	case v == unsure && is == nil:
	case v == alive || v == unsure:
		s.check(listsAll, is != nil, "%s is missing", sg.addr())
		want := sg.told(now)
		if sg.retention.Age > 0 && is.Earliest <= sg.earliest(now.last()) {
			want.Info.Earliest = max(want.Info.Earliest, is.Earliest)
		}
		d := differs(inProcess{}, outcome{ok: want}, answer{Info: is}, nil)
		s.check(listsAll, d == "", "%s: %s", sg.addr(), d)
	default:
		s.check(listsAll, is == nil, "a segment that is gone: %+v", is)
	}
}

// comparePaths orders by space and then by name.
func comparePaths(a, b string) int {
	split := func(path string) (space, name string) {
		i := strings.LastIndexByte(path, '/')
		return path[:max(i, 0)], path[i+1:]
	}
	aSpace, aName := split(a)
	bSpace, bName := split(b)
	if c := strings.Compare(aSpace, bSpace); c != 0 {
		return c
	}
	return strings.Compare(aName, bName)
}
