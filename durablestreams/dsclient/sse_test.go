package dsclient

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// plainEvents is the event stream format of the HTML standard, read the slow and obvious way.
func plainEvents(stream string) (names, datas []string) {
	stream = strings.TrimPrefix(stream, "\xef\xbb\xbf")
	stream = strings.ReplaceAll(stream, "\r\n", "\n")
	stream = strings.ReplaceAll(stream, "\r", "\n")
	lines := strings.Split(stream, "\n")
	name, data, has := "", "", false
	for _, line := range lines[:len(lines)-1] {
		if line == "" {
			if has {
				names, datas = append(names, name), append(datas, strings.TrimSuffix(data, "\n"))
			}
			name, data, has = "", "", false
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "data":
			data, has = data+value+"\n", true
		}
	}
	return names, datas
}

func readEvents(t *testing.T, r io.Reader) (names, datas []string) {
	t.Helper()
	in := newEvents(r, 1<<20)
	for {
		e, err := in.next()
		if errors.Is(err, io.EOF) {
			return names, datas
		}
		if err != nil {
			t.Fatal(err)
		}
		names, datas = append(names, e.name), append(datas, string(e.data))
	}
}

func FuzzEventsAreReadAsTheStandardSays(f *testing.F) {
	for _, seed := range []string{
		"event: data\ndata:[1,\ndata:2]\n\nevent: control\ndata:{\"streamNextOffset\":\"1_0\"}\n\n",
		"data:a\r\rdata:b\r\n\r\ndata: c\n\n",
		"\xef\xbb\xbfdata: marked\n\n: heartbeat\n\nevent: lonely\n\n",
		"data\n\ndata:\ndata:\n\nid: 1\nretry: 5\ndata: x\n\ndata: cut short\n",
		"data:\r\n", "\r", "\n\r\n", "data: x\r",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, stream string) {
		wantNames, wantDatas := plainEvents(stream)
		for how, r := range map[string]io.Reader{
			"at once":       strings.NewReader(stream),
			"byte by byte":  iotest.OneByteReader(strings.NewReader(stream)),
			"half a buffer": iotest.HalfReader(strings.NewReader(stream)),
		} {
			names, datas := readEvents(t, r)
			if strings.Join(names, "|") != strings.Join(wantNames, "|") || strings.Join(datas, "|") != strings.Join(wantDatas, "|") {
				t.Errorf("%s: got %q %q, want %q %q", how, names, datas, wantNames, wantDatas)
			}
		}
	})
}

func TestAnEventOverTheLimitIsRefused(t *testing.T) {
	for name, stream := range map[string]string{
		"one long line":    "data:" + strings.Repeat("x", 5000) + "\n\n",
		"many short lines": strings.Repeat("data:xxxxxxxxx\n", 500) + "\n",
		"no line end":      strings.Repeat("x", 5000),
	} {
		_, err := newEvents(strings.NewReader(stream), 1000).next()
		if final := (*finalError)(nil); !errors.As(err, &final) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
}

func BenchmarkEvents(b *testing.B) {
	one := "event: data\ndata:" + strings.Repeat("x", 1000) + "\n\nevent: control\ndata:{\"streamNextOffset\":\"1\"}\n\n"
	stream := []byte(strings.Repeat(one, 1000))
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	for b.Loop() {
		in := newEvents(bytes.NewReader(stream), 1<<20)
		for {
			if _, err := in.next(); err != nil {
				break
			}
		}
	}
}
