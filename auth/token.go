package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/runnelhq/runnel"
)

// Token is what a file of tokens holds of one: a line of
//
//	id  hash  expires  subject  scope …
//
// with spaces between. The hash is SHA-256 of the whole token, in hexadecimal. The token has 256 random
// bits, so nothing slower is needed. Expires is a time of RFC 3339, or never. Empty lines, and those that
// begin with #, are passed over.
type Token struct {
	// ID names the token where the token itself must not be shown. It is part of the token.
	ID      string
	Subject string
	Expires time.Time // zero: never
	Scopes  []Scope

	sum [sha256.Size]byte
}

const (
	tokenPrefix = "rnl_"
	never       = "never"
	// maxSubjectBytes is the longest subject, in bytes.
	maxSubjectBytes = 256
)

// NewToken makes a token. Secret is the token itself, which is kept nowhere. Expires is the zero time for
// never. The error matches runnel.ErrInvalid.
func NewToken(subject string, expires time.Time, scopes ...Scope) (t Token, secret string, err error) {
	t = Token{ID: strings.ToLower(rand.Text()[:10]), Subject: subject, Expires: expires.UTC().Truncate(time.Second), Scopes: scopes}
	if expires.IsZero() {
		t.Expires = time.Time{}
	}
	if rule := t.rule(); rule != "" {
		return t, "", &runnel.InvalidError{What: "token", Rule: rule}
	}
	random := make([]byte, 32)
	_, _ = rand.Read(random) // it never fails
	secret = tokenPrefix + t.ID + "_" + base64.RawURLEncoding.EncodeToString(random)
	t.sum = sha256.Sum256([]byte(secret))
	return t, secret, nil
}

func (t *Token) rule() string {
	switch {
	case t.Subject == "":
		return "needs a subject"
	case len(t.Subject) > maxSubjectBytes:
		return fmt.Sprintf("has a subject of %d bytes, the limit is %d", len(t.Subject), maxSubjectBytes)
	case !utf8.ValidString(t.Subject) || strings.ContainsFunc(t.Subject, unicode.IsControl):
		return "has a subject that is no text"
	case len(t.Scopes) == 0:
		return "needs a scope"
	}
	return ""
}

// String is the line that stands for the token.
func (t Token) String() string {
	var b strings.Builder
	expires := never
	if !t.Expires.IsZero() {
		expires = t.Expires.Format(time.RFC3339)
	}
	fmt.Fprintf(&b, "%s %x %s ", t.ID, t.sum, expires)
	escape(&b, t.Subject)
	for _, s := range t.Scopes {
		b.WriteString(" " + s.String())
	}
	return b.String()
}

// IsToken tells whether a text has the form of a token, which is a secret.
func IsToken(text string) bool { return strings.HasPrefix(text, tokenPrefix) }

// Named tells whether a text is the id of the token, or the token itself.
func (t Token) Named(text string) bool { return text == t.ID || sha256.Sum256([]byte(text)) == t.sum }

// ParseTokens reads the lines of a file of tokens. The error says which line is none.
func ParseTokens(data []byte) ([]Token, error) {
	var tokens []Token
	ids := make(map[string]bool)
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		t, err := parseToken(line)
		if err == nil && ids[t.ID] {
			err = fmt.Errorf("the id %q is there twice", t.ID)
		}
		if err != nil {
			return nil, fmt.Errorf("auth: line %d of the tokens: %w", number, err)
		}
		ids[t.ID] = true
		tokens = append(tokens, t)
	}
	return tokens, nil
}

// RemoveTokens takes out of the lines of a file the tokens that gone says so of, and returns which they are.
func RemoveTokens(data []byte, gone func(Token) bool) (rest []byte, removed []Token, err error) {
	if _, err := ParseTokens(data); err != nil {
		return nil, nil, err
	}
	for line := range strings.Lines(string(data)) {
		if t, err := parseToken(strings.TrimSpace(line)); err == nil && gone(t) {
			removed = append(removed, t)
			continue
		}
		rest = append(rest, line...)
	}
	return rest, removed, nil
}

func parseToken(line string) (t Token, err error) {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return t, errors.New("a line has an id, a hash, a time or never, a subject, and scopes, with spaces between")
	}
	t.ID = fields[0]
	if strings.ContainsFunc(t.ID, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }) {
		return t, fmt.Errorf("the id %.40q has other characters than small letters and digits", t.ID)
	}
	if n, err := hex.Decode(t.sum[:], []byte(fields[1][:min(len(fields[1]), 2*len(t.sum))])); err != nil || n != len(t.sum) || len(fields[1]) != 2*len(t.sum) {
		return t, errors.New("the hash must be 64 hexadecimal digits")
	}
	if fields[2] != never {
		// The zero time stands for never, and a year beyond four digits cannot be written.
		if t.Expires, err = time.Parse(time.RFC3339, fields[2]); err != nil || t.Expires.UTC().Year() < 1970 || t.Expires.UTC().Year() > 9999 {
			return t, fmt.Errorf("%.40q is neither a time such as 2027-01-31T12:00:00Z nor never", fields[2])
		}
		t.Expires = t.Expires.UTC()
	}
	if t.Subject, err = url.PathUnescape(fields[3]); err != nil {
		return t, errors.New("the subject has an escape that is none")
	}
	if t.Scopes, err = ParseScopes(fields[4:]...); err != nil {
		return t, err
	}
	if rule := t.rule(); rule != "" {
		return t, errors.New("the token " + rule)
	}
	return t, nil
}
