package runnel_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/runnelhq/runnel"
)

var tenant = runnel.Store{15: 1}

func TestAPathNamesASpaceAndASegment(t *testing.T) {
	for path, want := range map[string]runnel.Segment{
		"c":              {Name: "c"},
		"a/b/c":          {Space: "a/b", Name: "c"},
		"a b/ü":          {Space: "a b", Name: "ü"},
		"a/__ds":         {Space: "a", Name: "__ds"},
		"a/__ds/b":       {Space: "a/__ds", Name: "b"},
		"__dsx/b":        {Space: "__dsx", Name: "b"},
		"...":            {Name: "..."},
		"a/ ":            {Space: "a", Name: " "},
		"%2F":            {Name: "%2F"},
		"a\\b":           {Name: "a\\b"},
		"\u202e\ufeffok": {Name: "\u202e\ufeffok"},
	} {
		want.Store = tenant
		got, err := runnel.ParsePath(tenant, path)
		if err != nil || got != want {
			t.Errorf("%q is %+v, %v; want %+v", path, got, err, want)
		}
		if got.Path() != path {
			t.Errorf("%q comes back as %q", path, got.Path())
		}
		if got.In().Segment(got.Name) != got {
			t.Errorf("%q is not the segment of its space", path)
		}
	}
}

func TestANameThatBreaksARuleIsRefused(t *testing.T) {
	long := strings.Repeat("x", runnel.MaxSegmentBytes)
	space := strings.Repeat("x", runnel.MaxSpaceBytes)
	for _, tc := range []struct{ name, path string }{
		{"nothing", ""},
		{"a slash first", "/a"},
		{"two slashes", "a//b"},
		{"two slashes first", "//b"},
		{"a slash last", "a/"},
		{"only a slash", "/"},
		{"a dot", "."},
		{"two dots", ".."},
		{"a dot in the space", "a/./b"},
		{"two dots first", "../b"},
		{"two dots last", "a/.."},
		{"the reserved element", "__ds"},
		{"the reserved element first", "__ds/a"},
		{"the reserved element before others", "__ds/a/b"},
		{"a line feed", "a\nb"},
		{"a zero", "a\x00"},
		{"a control character of Latin-1", "a\u0085"},
		{"a control character in the space", "a\x7f/b"},
		{"no UTF-8", "a\xff"},
		{"no UTF-8 in the space", "\xc0\x80/b"},
		{"a long segment", long + "x"},
		{"a long segment by bytes and not by letters", strings.Repeat("ü", runnel.MaxSegmentBytes/2) + "x"},
		{"a long space", space + "x/a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := runnel.ParsePath(tenant, tc.path)
			var broken *runnel.NameError
			if !errors.Is(err, runnel.ErrInvalid) || !errors.As(err, &broken) || broken.Rule == "" {
				t.Fatalf("%q: %v", tc.path, err)
			}
			if len(err.Error()) > 250 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
		})
	}
	for _, path := range []string{long, space + "/" + long} {
		if _, err := runnel.ParsePath(tenant, path); err != nil {
			t.Errorf("the longest name is refused: %v", err)
		}
	}
}

func TestASegmentNameHasNoSlash(t *testing.T) {
	seg := runnel.Segment{Space: "a", Name: "b/c"}
	if err := seg.Validate(); !errors.Is(err, runnel.ErrInvalid) {
		t.Fatal(err)
	}
	if err := (runnel.Space{Name: "a/"}).Validate(); !errors.Is(err, runnel.ErrInvalid) {
		t.Fatal(err)
	}
	if err := (runnel.Space{}).Validate(); err != nil {
		t.Fatalf("the root space: %v", err)
	}
}

func TestAStoreIsAUUID(t *testing.T) {
	if s, err := runnel.ParseStore(""); err != nil || s != (runnel.Store{}) {
		t.Fatalf("%v, %v", s, err)
	}
	const text = "00000000-0000-0000-0000-000000000001"
	s, err := runnel.ParseStore(text)
	if err != nil || s != tenant || s.String() != text {
		t.Fatalf("%v, %v", s, err)
	}
	if _, err := runnel.ParseStore("acme"); !errors.Is(err, runnel.ErrInvalid) {
		t.Fatal(err)
	}
}

func TestASegmentShowsItsStoreOnlyWhenItIsNotTheDefault(t *testing.T) {
	seg := runnel.Segment{Space: "a", Name: "b"}
	if got := seg.String(); got != "a/b" {
		t.Error(got)
	}
	seg.Store = tenant
	if got := seg.String(); got != "00000000-0000-0000-0000-000000000001:a/b" {
		t.Error(got)
	}
}

func FuzzPathsAndSegmentsAreOneToOne(f *testing.F) {
	for _, path := range []string{"a", "a/b", "a/b/c", "", "/", "a//b", "__ds", "..", "a/\xff", "ü/ö"} {
		f.Add(path, path, path)
	}
	f.Fuzz(func(t *testing.T, path, space, name string) {
		if seg, err := runnel.ParsePath(tenant, path); err == nil {
			if err := seg.Validate(); err != nil {
				t.Fatalf("%q is read as %+v, which is not valid: %v", path, seg, err)
			}
			if seg.Path() != path {
				t.Fatalf("%q comes back as %q", path, seg.Path())
			}
		} else if !errors.Is(err, runnel.ErrInvalid) {
			t.Fatal(err)
		}
		seg := runnel.Segment{Store: tenant, Space: space, Name: name}
		if seg.Validate() == nil {
			if got, err := runnel.ParsePath(tenant, seg.Path()); err != nil || got != seg {
				t.Fatalf("%+v has the path %q, which is read as %+v, %v", seg, seg.Path(), got, err)
			}
		}
	})
}
