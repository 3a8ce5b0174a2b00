package dsclient

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func split(r io.Reader) (messages []string, err error) {
	s := newSplitter(r)
	for {
		m, err := s.next()
		if errors.Is(err, io.EOF) {
			return messages, nil
		}
		if err != nil {
			return messages, err
		}
		messages = append(messages, string(m))
	}
}

func FuzzMessagesAreTheElementsOfTheArrays(f *testing.F) {
	for _, seed := range []string{
		`[]`, `[1,2]`, `[{"a":"]"},"\"\\",[[]],{}]`, "[ 1 ,\n2 ] [3]", `[][][4]`, `["é\u005d"]`,
		`[1`, `[1,]`, `[,]`, `1`, `[}]`, `["\\"]`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := split(bytes.NewReader(data))
		slow, slowErr := split(iotest.OneByteReader(bytes.NewReader(data)))
		if strings.Join(got, "|") != strings.Join(slow, "|") || (err == nil) != (slowErr == nil) {
			t.Fatalf("at once %q %v, byte by byte %q %v", got, err, slow, slowErr)
		}
		// What is not JSON may be taken apart in any way, as long as that ends.
		var want []string
		d := json.NewDecoder(bytes.NewReader(data))
		for {
			var array []json.RawMessage
			if derr := d.Decode(&array); errors.Is(derr, io.EOF) {
				break
			} else if derr != nil || array == nil {
				return
			}
			for _, m := range array {
				want = append(want, string(m))
			}
		}
		if err != nil || strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("got %q %v, want %q", got, err, want)
		}
	})
}

func TestAnArrayThatIsCutShortIsNoEnd(t *testing.T) {
	for _, data := range []string{`[`, `[1`, `[1,`, `["`, `[{"a":1}`} {
		if got, err := split(strings.NewReader(data)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: got %q %v", data, got, err)
		}
	}
}

func BenchmarkMessages(b *testing.B) {
	message := `{"id":12345,"text":"` + strings.Repeat("lorem ipsum ", 80) + `","list":[1,2,3]}`
	data := []byte("[" + strings.Repeat(message+",", 999) + message + "]")
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		s := newSplitter(bytes.NewReader(data))
		for {
			if _, err := s.next(); err != nil {
				break
			}
		}
	}
}
