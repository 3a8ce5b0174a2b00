package durablestreams

import (
	"fmt"
	"mime"
	"strings"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// checkContentType refuses what is no media type. The common forms are seen without parsing.
func checkContentType(s string) error {
	if len(s) > DefaultMaxContentType {
		return wire.Invalid(wire.CodeInvalidRequest, fmt.Sprintf("Content-Type has %d bytes, the limit is %d", len(s), DefaultMaxContentType))
	}
	if s == "application/json" {
		return nil
	}
	if strings.IndexByte(s, ';') >= 0 {
		t, _, err := mime.ParseMediaType(s)
		if err != nil || !isType(t) || strings.ContainsFunc(s, unsendable) {
			return wire.Invalid(wire.CodeInvalidRequest, "Content-Type must be a media type, not "+shown(s))
		}
		return nil
	}
	if !isType(s) {
		return wire.Invalid(wire.CodeInvalidRequest, "Content-Type must be a media type, not "+shown(s))
	}
	return nil
}

// unsendable tells whether a character is one that no header can have. Source: RFC 9110, section 5.5.
func unsendable(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// isType tells whether s is a type and a subtype, both tokens of RFC 9110, section 5.6.2.
func isType(s string) bool {
	main, sub, ok := strings.Cut(s, "/")
	return ok && isToken(main) && isToken(sub)
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

func isJSON(contentType string) bool {
	return contentType == "application/json" || runnel.IsJSON(contentType)
}

// active are the types that a browser would run with the rights of the server's origin if somebody
// followed a link to the stream; they are offered for download instead.
func active(contentType string) bool {
	switch runnel.MediaType(contentType) {
	case "application/octet-stream", "text/html", "application/xhtml+xml", "image/svg+xml", "application/xml", "text/xml":
		return true
	}
	return false
}
