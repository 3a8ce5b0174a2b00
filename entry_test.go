package runnel_test

import (
	"testing"

	"github.com/runnelhq/runnel"
)

func TestContentTypesAreComparedWithoutCaseAndParameters(t *testing.T) {
	for contentType, want := range map[string]string{
		"":                                "",
		"text/plain":                      "text/plain",
		"Text/Plain; charset=UTF-8":       "text/plain",
		"  application/JSON  ":            "application/json",
		"application/json;charset":        "application/json",
		"application/json; charset=\"utf": "application/json",
		"not a type; x=y":                 "not a type",
		";":                               "",
	} {
		if got := runnel.MediaType(contentType); got != want {
			t.Errorf("%q is %q, want %q", contentType, got, want)
		}
	}
}

func TestOnlyApplicationJSONHoldsMessages(t *testing.T) {
	for contentType, want := range map[string]bool{
		"application/json":                true,
		"APPLICATION/JSON; charset=utf-8": true,
		"application/json;broken":         true,
		"application/ndjson":              false,
		"application/problem+json":        false,
		"text/json":                       false,
		"":                                false,
	} {
		if got := runnel.IsJSON(contentType); got != want {
			t.Errorf("%q: %v", contentType, got)
		}
	}
}
