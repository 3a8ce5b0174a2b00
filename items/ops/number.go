package ops

import (
	"bytes"
	"math/big"
	"strconv"
)

// isInteger tells whether a JSON value is a number without a fraction or an exponent.
func isInteger(raw []byte) bool {
	digits := bytes.TrimPrefix(raw, []byte("-"))
	if len(digits) == 0 || len(digits) > MaxDigits {
		return false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// add returns the exact sum of two JSON numbers, the second one taken from the first if subtract is set. It
// fails when one of them, or the sum, has more than MaxDigits digits, written out.
func add(a, b []byte, subtract bool) ([]byte, bool) {
	if sum, ok := addSmall(a, b, subtract); ok {
		return sum, true
	}
	x, xe, xok := parseNumber(a)
	y, ye, yok := parseNumber(b)
	if !xok || !yok {
		return nil, false
	}
	e := min(xe, ye)
	scale(x, xe-e)
	scale(y, ye-e)
	if subtract {
		x.Sub(x, y)
	} else {
		x.Add(x, y)
	}
	return writeNumber(x, e)
}

// addSmall adds integers that are far from overflowing.
func addSmall(a, b []byte, subtract bool) ([]byte, bool) {
	const digits = 18
	if len(a) > digits || len(b) > digits {
		return nil, false
	}
	x, err := strconv.ParseInt(string(a), 10, 64)
	if err != nil {
		return nil, false
	}
	y, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		return nil, false
	}
	if subtract {
		y = -y
	}
	return strconv.AppendInt(nil, x+y, 10), true
}

// parseNumber returns a JSON number as digits × 10^exponent.
func parseNumber(raw []byte) (digits *big.Int, exponent int, ok bool) {
	if len(raw) > 2*MaxDigits {
		return nil, 0, false
	}
	mantissa, exp := raw, 0
	if at := bytes.IndexAny(raw, "eE"); at >= 0 {
		var err error
		mantissa = raw[:at]
		if exp, err = strconv.Atoi(string(bytes.TrimPrefix(raw[at+1:], []byte("+")))); err != nil {
			exp = 2 * MaxDigits // whatever its sign: a zero is a zero, and nothing else can be written out
		}
	}
	whole, fraction, _ := bytes.Cut(mantissa, []byte("."))
	text := string(whole) + string(fraction)
	digits, ok = new(big.Int).SetString(text, 10)
	if !ok {
		return nil, 0, false
	}
	if digits.Sign() == 0 {
		return digits, 0, true
	}
	exponent = exp - len(fraction)
	return digits, exponent, exponent >= -MaxDigits && exponent <= MaxDigits
}

func scale(x *big.Int, by int) {
	if by > 0 {
		x.Mul(x, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(by)), nil))
	}
}

// writeNumber writes x × 10^e without an exponent and without zeros at the end of a fraction.
func writeNumber(x *big.Int, e int) ([]byte, bool) {
	scale(x, e)
	text := x.Append(nil, 10)
	if e < 0 {
		sign := text[:0:0]
		if text[0] == '-' {
			sign, text = text[:1], text[1:]
		}
		if missing := 1 - e - len(text); missing > 0 {
			text = append(bytes.Repeat([]byte("0"), missing), text...)
		}
		fraction := bytes.TrimRight(text[len(text)+e:], "0")
		whole := text[:len(text)+e]
		text = append(append(bytes.Clone(sign), whole...), '.')
		text = bytes.TrimSuffix(append(text, fraction...), []byte("."))
	}
	return text, len(text) <= MaxDigits
}
