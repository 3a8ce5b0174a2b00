package durablestreams

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/runnelhq/runnel"
)

// oneBatch holds each of its payloads as an entry.
type oneBatch struct {
	runnel.Batch
	first    runnel.Sequence
	payloads [][]byte
}

func (b oneBatch) First() runnel.Sequence { return b.first }
func (b oneBatch) Last() runnel.Sequence  { return b.first + runnel.Sequence(len(b.payloads)) - 1 }
func (b oneBatch) Len() int               { return len(b.payloads) }
func (b oneBatch) Payload(i int) []byte   { return b.payloads[i] }

// viewOf holds payloads, a few to a batch, and overwrites each batch when the next one is asked for.
func viewOf(payloads [][]byte) runnel.View {
	v := runnel.View{Info: runnel.Info{Tail: runnel.Sequence(len(payloads))}}
	v.Stream = func(yield func(runnel.Batch, error) bool) {
		for i := 0; i < len(payloads); i += 2 {
			b := oneBatch{first: runnel.Sequence(i + 1)}
			for _, p := range payloads[i:min(i+2, len(payloads))] {
				b.payloads = append(b.payloads, bytes.Clone(p))
			}
			if !yield(b, nil) {
				return
			}
			for _, p := range b.payloads {
				clear(p)
			}
		}
	}
	return v
}

// parseEvents reads events as the HTML standard says.
func parseEvents(t *testing.T, text string) (names, data []string) {
	t.Helper()
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	if !strings.HasSuffix(text, "\n\n") {
		t.Fatalf("the text does not end an event: %q", text)
	}
	name, lines := "", []string(nil)
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		if line == "" {
			names, data = append(names, name), append(data, strings.Join(lines, "\n"))
			name, lines = "", nil
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "data":
			lines = append(lines, value)
		case "id":
		default:
			t.Fatalf("odd line %q", line)
		}
	}
	return names, data
}

func FuzzEventsCarryWhatTheyAreGiven(f *testing.F) {
	f.Add([]byte("a\nb"), byte(1), "7")
	f.Add([]byte("\r\n\r \n  x|\ry|| z\n|\n"), byte(1), "99999999999999999999")
	f.Add([]byte("\x00\x01|\x02|\x03\x04\x05|\xff"), byte(0), "")
	f.Add([]byte(`{"a":1}|[2]|" "|3`), byte(2), "0")
	f.Add([]byte("||"), byte(0), "1")
	f.Fuzz(func(t *testing.T, raw []byte, kind byte, client string) {
		payloads := bytes.Split(raw, []byte{'|'})
		c := codec(kind % 3)
		lines := strings.NewReplacer("\r\n", "\n", "\r", "\n")
		var want []string
		var ends []int // behind which entry each event ends, if not one to each
		switch c {
		case codecText:
			if !utf8.Valid(bytes.Join(payloads, nil)) {
				return
			}
			event := ""
			for i, p := range payloads {
				event += string(p)
				if i == len(payloads)-1 || utf8.ValidString(event) {
					want, ends = append(want, lines.Replace(event)), append(ends, i+1)
					event = ""
				}
			}
		case codecJSON:
			for _, p := range payloads {
				if !json.Valid(p) {
					return
				}
			}
			want = []string{lines.Replace("[" + string(bytes.Join(payloads, []byte{','})) + "]")}
		case codecBinary:
			for _, p := range payloads {
				want = append(want, base64.StdEncoding.EncodeToString(p))
			}
		}
		own, err := parseCursor(client)
		if err != nil {
			return
		}
		frames := 0
		err = c.frames(viewOf(payloads), runnel.Sequence(len(payloads)), "5", nil, func(f *frame) error {
			frames++
			for _, f := range []*frame{f, f.atLeast(own), f.with(own)} {
				if chunk := string(f.chunk); !strings.HasSuffix(chunk, "\r\n"+string(f.text)+"\r\n") {
					t.Fatalf("chunk %q is not the text %q", chunk, f.text)
				}
				body, err := http.ReadResponse(newReader("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+string(f.chunk)+"0\r\n\r\n"), nil)
				if err != nil {
					t.Fatal(err)
				}
				var whole bytes.Buffer
				_, err = whole.ReadFrom(body.Body)
				body.Body.Close()
				if err != nil || whole.String() != string(f.text) {
					t.Fatalf("the chunk reads as %q, %v", whole.String(), err)
				}
				names, data := parseEvents(t, string(f.text))
				if len(names) != 2*len(want) {
					t.Fatalf("events %q, want %d pairs", names, len(want))
				}
				for i, want := range want {
					if names[2*i] != "data" || data[2*i] != want || names[2*i+1] != "control" {
						t.Fatalf("event %d: %s %q, then %s, want %q", i, names[2*i], data[2*i], names[2*i+1], want)
					}
					at := runnel.Sequence(i + 1)
					if ends != nil {
						at = runnel.Sequence(ends[i])
					}
					if c == codecJSON {
						at = runnel.Sequence(len(payloads))
					}
					var control struct {
						StreamCursor, StreamNextOffset string
						UpToDate                       bool
					}
					if err := json.Unmarshal([]byte(data[2*i+1]), &control); err != nil || control.StreamCursor != string(f.number) ||
						control.StreamNextOffset != at.Offset() || control.UpToDate != (int(at) == len(payloads)) {
						t.Fatalf("control %q, %v", data[2*i+1], err)
					}
				}
			}
			return nil
		})
		if err != nil || len(raw) < 100 && frames != 1 {
			t.Fatalf("%d frames, %v", frames, err)
		}
	})
}

func FuzzQuery(f *testing.F) {
	for _, seed := range []string{"", "offset=-1", "offset=now&live=sse&cursor=5&timeout=1", "offset=%2d1", "offset=0000000000000001_0000000000000000", "%6fffset=-1", "&&=&", "offset=%zz", "offset=-1;live=sse"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := parseQuery(raw)
		if err != nil {
			return
		}
		if q.live != "" && !q.from.given {
			t.Fatalf("%q: a live read without an offset", raw)
		}
		if q.from.after > runnel.MaxSequence {
			t.Fatalf("%q: the place %d", raw, q.from.after)
		}
	})
}

func FuzzOffset(f *testing.F) {
	for _, seed := range []string{"-1", "now", "", "0000000000000000_0000000000000000", "9999999999999999_9999999999999999", "0000000000000001_0000000000000001"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		p, err := parsePlace(token)
		if err != nil || p.start || p.now {
			return
		}
		if again := p.after.Offset(); again != token && token != "9999999999999999_9999999999999999" {
			t.Fatalf("%q is %d, which is %q", token, p.after, again)
		}
	})
}

func FuzzInteger(f *testing.F) {
	for _, seed := range []string{"0", "00", "-0", "+1", "1", "9007199254740991", "9007199254740992", "18446744073709551616", "1e3", " 1", "１"} {
		f.Add(seed)
	}
	form := regexp.MustCompile(`^(0|[1-9][0-9]*)$`)
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseInteger("it", s, maxInteger)
		want, ok := new(big.Int).SetString(s, 10)
		ok = ok && form.MatchString(s) && want.Cmp(big.NewInt(maxInteger)) <= 0
		if (err == nil) != ok || ok && want.Uint64() != n {
			t.Fatalf("parseInteger(%q) = %d, %v", s, n, err)
		}
	})
}

func FuzzTimestamp(f *testing.F) {
	for _, seed := range []string{"2099-01-02T03:04:05Z", "2099-01-02T03:04:05.123456789+23:59", "2099-02-29T00:00:00Z", "2099-01-02t03:04:05z", "2099-01-02T24:00:00Z", "2099-01-02T03:04:60Z", "2099-01-02T3:04:05Z", "2099-01-02T03:04:05,1Z"} {
		f.Add(seed)
	}
	form := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$`)
	f.Fuzz(func(t *testing.T, s string) {
		at, err := parseTime("it", s)
		if err != nil {
			return
		}
		if !form.MatchString(s) {
			t.Fatalf("parseTime(%q) = %s", s, at)
		}
		if again, err := time.Parse(time.RFC3339Nano, at.Format(time.RFC3339Nano)); err != nil || !again.Equal(at) {
			t.Fatalf("parseTime(%q) = %s, which is written as %s, %v", s, at, again, err)
		}
	})
}

func FuzzIfNoneMatch(f *testing.F) {
	for _, seed := range []string{"", "*", `"a"`, `W/"a", "b"`, `"a,b"`, `"`, `W/`, `,,,`, `"a" "b"`, `x, "1:2:3"`} {
		f.Add(seed, `"1:2:3"`)
	}
	f.Fuzz(func(t *testing.T, list, tag string) {
		if len(tag) < 2 || tag[0] != '"' || strings.Count(tag, `"`) != 2 || tag[len(tag)-1] != '"' {
			return
		}
		noneMatch([]string{list}, tag)
		if noneMatch([]string{list, tag}, tag) || noneMatch([]string{`"x", W/` + tag + `,` + list}, tag) {
			t.Fatalf("%s is not found beside %q", tag, list)
		}
		if !strings.Contains(list, tag) && !strings.Contains(list, "*") && !noneMatch([]string{list}, tag) {
			t.Fatalf("%s is found in %q", tag, list)
		}
	})
}

func FuzzIfMatch(f *testing.F) {
	for _, seed := range []string{"*", `"0000000000000001_0000000000000000"`, `0000000000000001_0000000000000000,"-1"`, `W/"x"`, `"`, ``} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		tails, any, err := parseIfMatch([]string{list})
		if err == nil && !any && len(tails) == 0 {
			t.Fatalf("parseIfMatch(%q) has no condition", list)
		}
	})
}

func FuzzProducer(f *testing.F) {
	f.Add("p", "0", "0")
	f.Add("", "1", "x")
	f.Add("é", "9007199254740991", "9007199254740992")
	f.Fuzz(func(t *testing.T, id, epoch, seq string) {
		var o runnel.AppendOptions
		err := setConditions(&o, http.Header{"Producer-Id": {id}, "Producer-Epoch": {epoch}, "Producer-Seq": {seq}})
		if err != nil {
			return
		}
		if p := o.Producer; p.ID == "" || len(p.ID) > runnel.MaxProducerBytes || p.Epoch > maxInteger || p.Seq > maxInteger {
			t.Fatalf("accepted %+v", p)
		}
	})
}

func FuzzCursor(f *testing.F) {
	for _, seed := range []string{"", "0", "000", "3343468", "9223372036854775807", "99999999999999999999", "abc", "-1"} {
		f.Add(seed)
	}
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		client, err := parseCursor(s)
		if err != nil {
			return
		}
		next := nextCursor(now, client)
		a, okA := new(big.Int).SetString(string(next), 10)
		b, okB := new(big.Int).SetString(string(client), 10)
		if !okA || !client.less(next) || okB && a.Cmp(b) <= 0 || next.less(cursorAt(now)) {
			t.Fatalf("the cursor %q follows %q", next, client)
		}
	})
}

func FuzzForkSource(f *testing.F) {
	for _, seed := range []string{"/v1/stream/a", "a", "/", "//host/a", "http://example.com/v1/stream/a%2fb", "/v1/stream/../a", "?x", "#", "mailto:x", "/v1/stream/__ds/x", "%"} {
		f.Add(seed)
	}
	h := New(nil, Config{NoRegistry: true})
	f.Fuzz(func(t *testing.T, from string) {
		seg, err := h.parseSource(httptest.NewRequest("PUT", "/v1/stream/b", nil), runnel.Store{}, from)
		if err == nil && seg.Validate() != nil {
			t.Fatalf("%q is %+v", from, seg)
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, seed := range []string{"/v1/stream/a", "/v1/stream/a/../b", "/v1/stream//a", "/v1/stream/%2e%2e", "/v1/stream", "/", "/v1/stream/__ds/x", "/v1/stream/\x00"} {
		f.Add(seed)
	}
	h := New(nowhere{}, Config{NoRegistry: true})
	f.Fuzz(func(t *testing.T, path string) {
		r := httptest.NewRequest("DELETE", "/", nil)
		r.URL.Path, r.URL.RawPath = path, ""
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code == http.StatusInternalServerError || w.Header().Get("X-Content-Type-Options") == "" {
			t.Fatalf("%q: %d %s", path, w.Code, w.Body)
		}
	})
}
