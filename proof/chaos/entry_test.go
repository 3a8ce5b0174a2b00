package chaos

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// The content types that streams have here.
const (
	text     = "text/plain"
	octets   = "application/octet-stream"
	messages = "application/json"
)

// An entry is what one append brings: a line, or a message of a JSON stream. It has a name, by which the
// ledger knows it, and a padding whose length the name tells.

// padding chooses how long the padding of an entry is: short, and now and then so long that the entry is
// kept in several pieces.
func padding(r *rand.Rand) int {
	switch r.IntN(400) {
	case 0:
		return 150<<10 + r.IntN(200<<10)
	case 1, 2, 3:
		return r.IntN(20 << 10)
	}
	return r.IntN(100)
}

// name makes the name of an entry.
func name(writer string, n, pad int) string { return fmt.Sprintf("%s.%d.%d", writer, n, pad) }

// encode makes the body that appends entries to a stream.
func encode(contentType string, names ...string) string {
	var b strings.Builder
	for i, name := range names {
		pad, err := strconv.Atoi(name[strings.LastIndexByte(name, '.')+1:])
		if err != nil {
			panic(err)
		}
		if contentType != messages {
			b.WriteString(name + "|" + strings.Repeat("x", pad) + "\n")
			continue
		}
		b.WriteString(string("[,"[min(i, 1)]))
		b.WriteString(`"` + name + "|" + strings.Repeat("x", pad) + `"`)
	}
	if contentType == messages && len(names) > 0 {
		b.WriteByte(']')
	}
	return b.String()
}

// decode returns the names of the entries in data, and what is left behind the last whole one. An entry that
// is not as it was written is returned as it is, which nobody has written.
func decode(contentType string, data []byte) (names []string, rest []byte) {
	if contentType == messages {
		for d := json.NewDecoder(bytes.NewReader(data)); ; {
			var batch []string
			if err := d.Decode(&batch); err != nil {
				return names, data[d.InputOffset():]
			}
			for _, m := range batch {
				names = append(names, decodeEntry(m))
			}
		}
	}
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			return names, data
		}
		names = append(names, decodeEntry(string(data[:end])))
		data = data[end+1:]
	}
	return names, nil
}

func decodeEntry(s string) string {
	name, pad, ok := strings.Cut(s, "|")
	n, err := strconv.Atoi(name[strings.LastIndexByte(name, '.')+1:])
	if !ok || err != nil || n != len(pad) || strings.Trim(pad, "x") != "" {
		return "torn: " + s
	}
	return strings.Clone(name)
}
