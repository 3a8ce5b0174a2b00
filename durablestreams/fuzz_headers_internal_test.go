package durablestreams

import (
	"context"
	"encoding/json"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
)

// FuzzQueryAgreesWithTheStandardLibrary compares the query of a read with package url's reading of it.
func FuzzQueryAgreesWithTheStandardLibrary(f *testing.F) {
	for _, seed := range []string{
		"", "offset=-1", "offset=now&live=sse&cursor=5&timeout=1", "offset=%2d1", "%6fffset=-1", "&&=&", "offset=-1&offset=now",
		"live=long-poll&offset=0000000000000001_0000000000000000", "offset=%zz", "cursor=+7&offset=-1", "timeout=\xff&offset=now", "off%73et=-1;live=sse",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := parseQuery(raw)
		if err != nil || strings.Contains(raw, ";") { // which package url refuses, and the protocol does not know
			return
		}
		values, _ := url.ParseQuery(raw) // it yields what it can read
		for _, name := range []string{"offset", "live", "cursor", "timeout"} {
			if len(values[name]) > 1 {
				t.Fatalf("%q: accepted with %s twice", raw, name)
			}
		}
		from := place{start: true}
		if values.Has("offset") {
			from, err = parsePlace(values.Get("offset"))
		}
		client, cerr := parseCursor(values.Get("cursor"))
		if err != nil || cerr != nil || q.from != from || q.live != values.Get("live") || q.cursor != client ||
			q.hasTime != values.Has("timeout") || q.timeout != values.Get("timeout") {
			t.Fatalf("%q is %+v, and %v for package url", raw, q, values)
		}
	})
}

func FuzzListingQuery(f *testing.F) {
	for _, seed := range []string{
		"", "prefix=a%2F&after=a/b&limit=10", "limit=0", "limit=1000", "limit=1001", "limit=01", "prefix=a&prefix=b", "after=%ff", "a;b", "prefix=" + strings.Repeat("x", 769),
		"prefix=" + strings.Repeat("%C3%BC", 384), "limit=-1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		o, err := parseListing(raw)
		if err != nil {
			return
		}
		values, err := url.ParseQuery(raw)
		limit := defaultListLimit
		if s := values.Get("limit"); values.Has("limit") {
			limit, _ = strconv.Atoi(s)
			if strconv.Itoa(limit) != s {
				t.Fatalf("%q: the limit %q was taken", raw, s)
			}
		}
		const most = runnel.MaxSpaceBytes + 1 + runnel.MaxSegmentBytes
		if err != nil || o.Prefix != values.Get("prefix") || o.After != values.Get("after") || o.Limit != limit ||
			limit < 1 || limit > maxListLimit || len(o.Prefix) > most || len(o.After) > most {
			t.Fatalf("%q is %+v", raw, o)
		}
	})
}

func FuzzContentType(f *testing.F) {
	for _, seed := range []string{
		"application/json", "Application/JSON; charset=utf-8", "text/plain;charset=\"a;b\"", "a/b;", "a/", "/b", "a", "a/b/c", "a/b ;x=y", "a/b\n;", "a/b;\tx=y", "a/b\r\nX: y",
		"text/ü", "application/json;" + strings.Repeat("x", 300), "", " a/b", "a/b;x", "a/b;x=1;x=2", "multipart/form-data; boundary=x",
	} {
		f.Add(seed)
	}
	plain := regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
	f.Fuzz(func(t *testing.T, s string) {
		err := checkContentType(s)
		if !strings.Contains(s, ";") && (err == nil) != (plain.MatchString(s) && len(s) <= DefaultMaxContentType) {
			t.Fatalf("checkContentType(%q) = %v", s, err)
		}
		if err != nil {
			return
		}
		parsed, _, perr := mime.ParseMediaType(s)
		if perr != nil || parsed != runnel.MediaType(s) || isJSON(s) != (parsed == "application/json") {
			t.Fatalf("%q is of type %q, and for package mime %q, %v", s, runnel.MediaType(s), parsed, perr)
		}
		if strings.ContainsAny(s, "\r\n\x00") {
			t.Fatalf("%q goes back into a header", s)
		}
	})
}

// FuzzLifetime gives all headers of lifetime and retention, each absent where it is empty.
func FuzzLifetime(f *testing.F) {
	f.Add("", "", "", "", "")
	f.Add("0", "", "0", "0", "0")
	f.Add("3600", "", "60", "1048576", "100")
	f.Add("", "2030-01-02T03:04:05.678+01:00", "", "9007199254740991", "9007199254740992")
	f.Add("9223372036", "", "9223372036", "", "")
	f.Add("9223372037", "2030-01-02T03:04:05Z", "01", "-1", "1e3")
	number := regexp.MustCompile(`^(0|[1-9][0-9]*)$`)
	f.Fuzz(func(t *testing.T, ttl, expires, age, bytes, count string) {
		header := http.Header{}
		for name, value := range map[string]string{
			"Stream-Ttl": ttl, "Stream-Expires-At": expires, "Stream-Retention-Age": age, "Stream-Retention-Bytes": bytes, "Stream-Retention-Count": count,
		} {
			if value != "" {
				header[name] = []string{value}
			}
		}
		var o runnel.CreateOptions
		if setLifetime(&o, header) != nil {
			return
		}
		for value, got := range map[string]uint64{
			ttl: uint64(o.TTL / time.Second), age: uint64(o.Retention.Age / time.Second), bytes: o.Retention.Bytes, count: o.Retention.Entries,
		} {
			if value != "" && !number.MatchString(value) {
				t.Fatalf("%q was taken as %d", value, got)
			}
		}
		seconds := func(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }
		same := func(given, got string) bool { return given == got || given == "" && got == "0" }
		if !same(ttl, seconds(o.TTL)) || !same(age, seconds(o.Retention.Age)) || !same(bytes, strconv.FormatUint(o.Retention.Bytes, 10)) ||
			!same(count, strconv.FormatUint(o.Retention.Entries, 10)) || o.HasTTL != (ttl != "") || o.ExpiresAt.IsZero() && expires != "" && !strings.HasPrefix(expires, "0001-01-0") ||
			ttl != "" && expires != "" || o.TTL < 0 || o.Retention.Age < 0 {
			t.Fatalf("%q is %+v", header, o)
		}
	})
}

// FuzzFork gives the three headers of a fork, each absent where it is empty.
func FuzzFork(f *testing.F) {
	f.Add("/v1/stream/a", "", "")
	f.Add("/v1/stream/a", "-1", "5")
	f.Add("/v1/stream/a", "now", "0")
	f.Add("/v1/stream/a", "now", "1")
	f.Add("/v1/stream/a%2Fb", "0000000000000003_0000000000000000", "9007199254740991")
	f.Add("", "-1", "")
	f.Add("http://other.example/v1/stream/a", "", "")
	f.Add("/v1/stream/\xff", "9999999999999999_9999999999999999", "00")
	h := New(nil, Config{NoRegistry: true})
	f.Fuzz(func(t *testing.T, from, offset, sub string) {
		r := httptest.NewRequest("PUT", "/v1/stream/b", nil)
		for name, value := range map[string]string{"Stream-Forked-From": from, "Stream-Fork-Offset": offset, "Stream-Fork-Sub-Offset": sub} {
			if value != "" {
				r.Header[name] = []string{value}
			}
		}
		fork, err := h.forkOf(r, runnel.Store{})
		if err != nil {
			return
		}
		if fork == nil {
			if from != "" || offset != "" || sub != "" {
				t.Fatalf("%q counts for nothing", r.Header)
			}
			return
		}
		at, perr := place{now: true}, error(nil)
		if offset != "" {
			at, perr = parsePlace(offset)
		}
		if perr != nil || fork.Source.Validate() != nil || fork.Latest != at.now || fork.At != at.after || fork.Latest && fork.Sub > 0 ||
			strconv.FormatUint(fork.Sub, 10) != sub && (sub != "" || fork.Sub != 0) {
			t.Fatalf("%q is %+v", r.Header, fork)
		}
	})
}

// FuzzIfMatchAgreesWithItsGrammar checks that an append expects a tail that its If-Match names, and no other.
func FuzzIfMatchAgreesWithItsGrammar(f *testing.F) {
	for _, seed := range []string{
		"*", `"0000000000000001_0000000000000000"`, `0000000000000001_0000000000000000,"-1"`, `W/"x"`, `"`, ``, `""`, `"a", *`, ` -1 `, `W/"0000000000000001_0000000000000000"`, "\"\xff\"",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		tails, any, err := parseIfMatch([]string{list})
		if err != nil {
			return
		}
		if any != slices.ContainsFunc(strings.Split(list, ","), func(s string) bool { return strings.TrimSpace(s) == "*" }) {
			t.Fatalf("parseIfMatch(%q): any is %v", list, any)
		}
		for _, tail := range tails {
			if tail == neverTail || tail == 0 && strings.Contains(list, "-1") || tail == runnel.MaxSequence {
				continue
			}
			if !strings.Contains(list, tail.Offset()) {
				t.Fatalf("parseIfMatch(%q) expects %s", list, tail.Offset())
			}
		}
		if !any && len(tails) != strings.Count(list, ",")+1 {
			t.Fatalf("parseIfMatch(%q) has %d conditions", list, len(tails))
		}
	})
}

// FuzzConditions gives the headers of an append: what is accepted is what was written.
func FuzzConditions(f *testing.F) {
	f.Add("p", "0", "0", "", "")
	f.Add("", "", "", "a", "true")
	f.Add("é\xff", "9007199254740991", "9007199254740992", strings.Repeat("s", runnel.MaxStreamSeqBytes+1), "TRUE")
	f.Add("p", "", "0", " ", "false")
	f.Fuzz(func(t *testing.T, id, epoch, seq, streamSeq, closed string) {
		header := http.Header{}
		for name, value := range map[string]string{
			"Producer-Id": id, "Producer-Epoch": epoch, "Producer-Seq": seq, "Stream-Seq": streamSeq, "Stream-Closed": closed,
		} {
			if value != "" {
				header[name] = []string{value}
			}
		}
		if closes(header) != (len(closed) == 4 && strings.ToLower(closed) == "true") {
			t.Fatalf("Stream-Closed: %q closes: %v", closed, closes(header))
		}
		var o runnel.AppendOptions
		if setConditions(&o, header) != nil {
			return
		}
		if p := o.Producer; p == nil != (id == "" && epoch == "" && seq == "") ||
			p != nil && (p.ID != id || strconv.FormatUint(p.Epoch, 10) != epoch || strconv.FormatUint(p.Seq, 10) != seq || len(id) > runnel.MaxProducerBytes) {
			t.Fatalf("%q is %+v", header, p)
		}
		if o.HasStreamSeq != (streamSeq != "") || o.StreamSeq != streamSeq || len(streamSeq) > runnel.MaxStreamSeqBytes {
			t.Fatalf("%q is %+v", header, o)
		}
	})
}

// holding is a log whose only segment holds some payloads.
type holding struct {
	Log
	view runnel.View
}

func (l holding) Read(context.Context, runnel.Segment, uint64, runnel.Sequence) (runnel.View, error) {
	return l.view, nil
}

func (l holding) ReadStart(context.Context, runnel.Segment) (runnel.View, error) { return l.view, nil }

// FuzzRegistryIsFoldedWhateverOthersWriteIntoIt gives a registry entries of anybody, between its own.
func FuzzRegistryIsFoldedWhateverOthersWriteIntoIt(f *testing.F) {
	for _, seed := range []string{
		``, `{}|[]|null|"x"`, `{"type":"stream","key":"a","headers":{"operation":"insert"}}`, `{"type":"stream","key":"a","value":{"path":7},"headers":{}}`,
		`{"type":"stream","key":"own","headers":{"operation":"delete"}}`, `{"type":"other","key":"own","headers":{"operation":"delete"}}`,
		"{\"type\":\"stream\",\"key\":\"\xff\",\"value\":{\"path\":\"b\"},\"headers\":{\"operation\":\"update\"}}", `{"TYPE":"stream","Key":"own","headers":null}`,
	} {
		f.Add([]byte(seed), "own", "text/plain", int64(5))
	}
	f.Fuzz(func(t *testing.T, foreign []byte, path, contentType string, created int64) {
		own := registered{Path: path, ContentType: contentType, CreatedAt: created}
		written := changeRecord(opInsert, path, &own).Payload
		var back change
		if err := json.Unmarshal(written, &back); err != nil || back.Value == nil {
			t.Fatalf("%s is read as %+v, %v", written, back, err)
		}
		payloads := slices.Collect(func(yield func([]byte) bool) {
			for part := range strings.SplitSeq(string(foreign), "|") {
				if !yield([]byte(part)) {
					return
				}
			}
		})
		g := &registry{h: &Handler{own: holding{view: viewOf(append(payloads, written))}}}
		says, err := g.fold(context.Background())
		if err != nil || says[back.Key] != *back.Value {
			t.Fatalf("the registry says %+v of %q, want %+v, %v", says[back.Key], path, back.Value, err)
		}
		g.h.own = holding{view: viewOf(append(payloads, written, changeRecord(opDelete, path, nil).Payload))}
		if says, err = g.fold(context.Background()); err != nil {
			t.Fatal(err)
		}
		if _, ok := says[back.Key]; ok {
			t.Fatalf("%q is still there", path)
		}
	})
}
