package items

import (
	"encoding/json"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/runnelhq/runnel"
)

// FuzzItemBody compares the body of an item with what package json makes of the same.
func FuzzItemBody(f *testing.F) {
	f.Add("plain", int64(0), int64(1), int64(0), uint64(1), 0)
	f.Add("é<&>\u2028\u2029\x7f\x00\"\\", int64(1_700_000_000_000_000_000), int64(-1), int64(1_700_000_000_000_000_001), uint64(1<<63), 3600)
	f.Fuzz(func(t *testing.T, key string, created, updated, expires int64, version uint64, zone int) {
		if !utf8.ValidString(key) {
			t.Skip() // it is no key
		}
		at := func(nanos int64) time.Time { return time.Unix(0, nanos).In(time.FixedZone("", zone%86400)) }
		it := runnel.Item{
			ItemKey: runnel.ItemKey{Key: key}, Value: []byte(`{"a":[1]}`), Version: runnel.Sequence(version), Created: at(created), Updated: at(updated),
		}
		body := struct {
			ID      string          `json:"id"`
			Value   json.RawMessage `json:"value"`
			Version uint64          `json:"version"`
			Created time.Time       `json:"created"`
			Updated time.Time       `json:"updated"`
			Expires *time.Time      `json:"expires,omitempty"`
		}{key, it.Value, version, it.Created.UTC(), it.Updated.UTC(), nil}
		if expires != 0 {
			it.Expires = at(expires)
			body.Expires = new(it.Expires.UTC())
		}
		if got, want := string(append(appendItem(nil, &it), '}')), string(encode(body)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}
