package runnel_test

import (
	"cmp"
	"errors"
	"strings"
	"testing"

	"github.com/runnelhq/runnel"
)

func TestAnOffsetIsATokenOfFixedWidth(t *testing.T) {
	for seq, want := range map[runnel.Sequence]string{
		0:                      "0000000000000000_0000000000000000",
		1:                      "0000000000000001_0000000000000000",
		42:                     "0000000000000042_0000000000000000",
		runnel.MaxSequence - 1: "9999999999999998_0000000000000000",
		runnel.MaxSequence:     "9999999999999999_0000000000000000",
	} {
		if got := seq.Offset(); got != want {
			t.Errorf("%d is %q, want %q", seq, got, want)
		}
		if got, err := runnel.ParseOffset(want); err != nil || got != seq {
			t.Errorf("%q is %d, %v", want, got, err)
		}
		if got := string(seq.AppendOffset([]byte("x="))); got != "x="+want {
			t.Errorf("appended: %q", got)
		}
	}
}

func TestTheLargestTokenIsBeyondEveryTail(t *testing.T) {
	const token = "9999999999999999_9999999999999999"
	if got, err := runnel.ParseOffset(token); err != nil || got != runnel.MaxSequence {
		t.Fatalf("%d, %v", got, err)
	}
}

func TestWhatNoServerHandsOutIsNoOffset(t *testing.T) {
	ok := runnel.Sequence(1).Offset()
	for _, token := range []string{
		"", "-1", "now", "1", ok[:len(ok)-1], ok + "0", " " + ok[1:], "+" + ok[1:], "-" + ok[1:],
		strings.Replace(ok, "_", "-", 1), strings.Replace(ok, "_", "0", 1),
		"0000000000000001_0000000000000001", "000000000000000a_0000000000000000",
		"0000000000000001_000000000000000\x00", "９" + ok[3:],
	} {
		_, err := runnel.ParseOffset(token)
		var malformed *runnel.OffsetError
		if !errors.Is(err, runnel.ErrInvalid) || !errors.As(err, &malformed) || malformed.Token != token {
			t.Errorf("%q: %v", token, err)
		}
	}
}

func TestAppendOffsetDoesNotAllocate(t *testing.T) {
	b := make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() { b = runnel.Sequence(123456).AppendOffset(b[:0]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzOffsetsSortAsTheirPlaces(f *testing.F) {
	f.Add(uint64(0), uint64(1))
	f.Add(uint64(9), uint64(10))
	f.Add(uint64(runnel.MaxSequence), uint64(99))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		x := runnel.Sequence(a % uint64(runnel.MaxSequence+1))
		y := runnel.Sequence(b % uint64(runnel.MaxSequence+1))
		if strings.Compare(x.Offset(), y.Offset()) != cmp.Compare(x, y) {
			t.Fatalf("%d and %d sort as %q and %q", x, y, x.Offset(), y.Offset())
		}
		if got, err := runnel.ParseOffset(x.Offset()); err != nil || got != x {
			t.Fatalf("%d comes back as %d, %v", x, got, err)
		}
		if strings.ContainsAny(x.Offset(), ",&=?/") {
			t.Fatalf("%q cannot stand in a query", x.Offset())
		}
	})
}

func FuzzParseOffset(f *testing.F) {
	f.Add(runnel.Sequence(42).Offset())
	f.Add("9999999999999999_9999999999999999")
	f.Add("-1")
	f.Fuzz(func(t *testing.T, token string) {
		seq, err := runnel.ParseOffset(token)
		if err != nil {
			if !errors.Is(err, runnel.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if seq.Offset() != token && token != "9999999999999999_9999999999999999" {
			t.Fatalf("%q is %d, which is %q", token, seq, seq.Offset())
		}
	})
}
