package wire_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// FuzzBodies gives a client the bodies of refusals. What it understands it can pass on unchanged, and a code
// that it does not know matches nothing.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		`{"error":{"code":"closed","message":"m","next_offset":"1","closed":true}}`, `{"error":{"code":"producer_gap","expected_seq":0,"received_seq":18446744073709551615}}`,
		`{"error":{"code":"from the future"}}`, `{}`, `null`, `{"error":null,"earliest_offset":"3"}`, `{"error":{"epoch":-1}}`, `{"error":{"code":7}}`, "{\"error\":{\"message\":\"\xff\"}}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		var body wire.Body
		if json.Unmarshal(sent, &body) != nil {
			return
		}
		written, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		var again wire.Body
		if err := json.Unmarshal(written, &again); err != nil || !reflect.DeepEqual(again, body) {
			t.Fatalf("%s is %+v, and comes back as %+v, %v", sent, body, again, err)
		}
		got := body.Err(http.StatusTeapot)
		matches := 0
		for _, target := range []error{
			runnel.ErrInvalid, runnel.ErrNotFound, runnel.ErrSoftDeleted, runnel.ErrExists, runnel.ErrClosed, runnel.ErrContentType, runnel.ErrStreamSeq, runnel.ErrProducerFenced,
			runnel.ErrProducerGap, runnel.ErrTailMoved, runnel.ErrTrimmed, runnel.ErrBeyondTail, runnel.ErrUnknown, runnel.ErrUnavailable, runnel.ErrFailed, runnel.ErrTooLarge,
		} {
			if errors.Is(got, target) {
				matches++
			}
		}
		if matches > 1 || got.Error() != body.Error.Message {
			t.Fatalf("%s is %v, and matches %d errors", sent, got, matches)
		}
		if known := wire.ErrorOf(got); known.Status != http.StatusTeapot || known.Detail.Code != body.Error.Code {
			t.Fatalf("%s is passed on as %+v", sent, known)
		}
	})
}
