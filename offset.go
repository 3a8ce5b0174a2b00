package runnel

import "fmt"

// Sequence numbers the entries of a segment: the first is 1, and there are no gaps. As a place to read
// from it means "after this entry", so 0 is the beginning.
type Sequence uint64

// Position numbers the entries of a space in commit order. It is strictly increasing over all segments
// of the space; 0 is before the first entry.
type Position uint64

// MaxSequence is the largest sequence that fits an offset token.
const MaxSequence Sequence = 9999999999999999

// offsetDigits is the width of each half of a token: enough for MaxSequence, and fixed so that tokens
// sort as text in the order of the places they name.
const offsetDigits = 16

const offsetLen = 2*offsetDigits + 1

// Offset returns the token of the place after entry s, as Durable Streams calls it (PROTOCOL.md,
// section 8): "0000000000000042_0000000000000000". The first half is the sequence. The second half is
// zero; it is kept for places inside an entry. Tokens of one segment sort as text.
func (s Sequence) Offset() string {
	return string(s.AppendOffset(make([]byte, 0, offsetLen)))
}

// AppendOffset appends the token of s to b, without allocating when b has room.
func (s Sequence) AppendOffset(b []byte) []byte {
	start := len(b)
	b = append(b, "0000000000000000_0000000000000000"...)
	for i := start + offsetDigits - 1; i >= start && s > 0; i-- {
		b[i] = byte('0' + s%10)
		s /= 10
	}
	return b
}

// ParseOffset reads a token that [Sequence.Offset] wrote. It does not know the sentinels "-1" and
// "now"; those belong to a request, not to a place. The error is an [*OffsetError].
func ParseOffset(token string) (Sequence, error) {
	if len(token) != offsetLen || token[offsetDigits] != '_' {
		return 0, &OffsetError{Token: token}
	}
	var halves [2]Sequence
	for h := range halves {
		start := h * (offsetDigits + 1)
		for _, c := range []byte(token[start : start+offsetDigits]) {
			if c < '0' || c > '9' {
				return 0, &OffsetError{Token: token}
			}
			halves[h] = halves[h]*10 + Sequence(c-'0')
		}
	}
	// The second half of a token that was handed out is always zero. The largest token of all is let
	// through as "beyond every tail", which is what a client that writes it means.
	if halves[1] != 0 && halves != [2]Sequence{MaxSequence, MaxSequence} {
		return 0, &OffsetError{Token: token}
	}
	return halves[0], nil
}

// OffsetError reports a token that no server of this kind hands out.
type OffsetError struct{ Token string }

func (e *OffsetError) Error() string {
	return fmt.Sprintf("runnel: malformed offset %s: want %d digits, an underscore and %d digits", quote(e.Token), offsetDigits, offsetDigits)
}
