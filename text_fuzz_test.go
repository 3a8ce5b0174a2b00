package runnel_test

import (
	"errors"
	"mime"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
)

func FuzzStores(f *testing.F) {
	for _, seed := range []string{
		"", "00000000-0000-0000-0000-000000000001", "6BA7B810-9DAD-11D1-80B4-00C04FD430C8", "{6ba7b810-9dad-11d1-80b4-00c04fd430c8}", "urn:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8",
		"6ba7b8109dad11d180b400c04fd430c8", "acme", "\xff", "6ba7b810-9dad-11d1-80b4-00c04fd430cg",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := runnel.ParseStore(text)
		id, perr := uuid.Parse(text)
		if (err == nil) != (perr == nil || text == "") || err != nil && !errors.Is(err, runnel.ErrInvalid) {
			t.Fatalf("ParseStore(%q) = %v, and uuid says %v", text, err, perr)
		}
		if err != nil {
			return
		}
		if text != "" && s != runnel.Store(id) {
			t.Fatalf("ParseStore(%q) = %s", text, s)
		}
		if again, err := runnel.ParseStore(s.String()); err != nil || again != s {
			t.Fatalf("%q is %s, which is read as %s, %v", text, s, again, err)
		}
	})
}

func FuzzMediaTypes(f *testing.F) {
	for _, seed := range []string{"", "application/json", " Application/JSON ; charset=utf-8", ";", "text/plain;x=\";\"", "İ/ı", "\xff/\xff", "application/json\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, contentType string) {
		got := runnel.MediaType(contentType)
		if got != runnel.MediaType(got) && !strings.ContainsAny(contentType, "İ") {
			t.Fatalf("the media type of %q is %q, of which it is %q", contentType, got, runnel.MediaType(got))
		}
		if want, _, err := mime.ParseMediaType(contentType); err == nil && want != got {
			t.Fatalf("the media type of %q is %q, and %q for package mime", contentType, got, want)
		}
		if runnel.IsJSON(contentType) != (got == "application/json") {
			t.Fatalf("IsJSON(%q)", contentType)
		}
	})
}
