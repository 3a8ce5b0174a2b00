package webhook

import (
	"crypto/ed25519"
	"encoding/base64"
	"strconv"
	"strings"
	"time"
)

// HeaderSignature carries the signature of a request: "t=<seconds>,kid=<key>,ed25519=<base64url>", over
// the seconds in decimal, a dot, and the bytes of the body. Source: PROTOCOL.md, section 7.1.
const HeaderSignature = "Webhook-Signature"

// maxSignatureBytes bounds what is looked at of a header from outside.
const maxSignatureBytes = 1024

func signed(seconds string, body []byte) []byte {
	text := make([]byte, 0, len(seconds)+1+len(body))
	text = append(text, seconds...)
	text = append(text, '.')
	return append(text, body...)
}

func (k *key) sign(body []byte, at time.Time) string {
	seconds := strconv.FormatInt(at.Unix(), 10)
	sum := ed25519.Sign(k.private, signed(seconds, body))
	return "t=" + seconds + ",kid=" + k.ID + ",ed25519=" + base64.RawURLEncoding.EncodeToString(sum)
}

// signature is a header that has been read.
type signature struct {
	seconds string
	at      time.Time
	kid     string
	sum     []byte
}

// parseSignature reads the header. Parameters may come in any order, and unknown ones are skipped, so that
// later versions of the protocol may add some; none may come twice.
func parseSignature(header string) (signature, error) {
	var s signature
	bad := func(rule string) (signature, error) {
		return signature{}, &SignatureError{Reason: "the header " + HeaderSignature + " " + rule, malformed: true}
	}
	if header == "" {
		return bad("is missing")
	}
	if len(header) > maxSignatureBytes {
		return bad("is longer than " + strconv.Itoa(maxSignatureBytes) + " bytes")
	}
	seen := make(map[string]bool, 3)
	for part := range strings.SplitSeq(header, ",") {
		name, value, ok := strings.Cut(strings.Trim(part, " \t"), "=")
		if !ok || name == "" || value == "" {
			return bad("is no list of names and values")
		}
		if seen[name] {
			return bad("holds " + quote(name) + " twice")
		}
		seen[name] = true
		switch name {
		case "t":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 0 || strconv.FormatInt(n, 10) != value {
				return bad("has no decimal time in t")
			}
			s.seconds, s.at = value, time.Unix(n, 0)
		case "kid":
			s.kid = value
		case Algorithm:
			sum, err := base64.RawURLEncoding.Strict().DecodeString(value)
			if err != nil || len(sum) != ed25519.SignatureSize {
				return bad("has no signature of 64 bytes in unpadded base64url")
			}
			s.sum = sum
		}
	}
	switch {
	case s.seconds == "":
		return bad("has no t")
	case s.kid == "":
		return bad("has no kid")
	case s.sum == nil:
		return bad("has no " + Algorithm)
	}
	return s, nil
}
