package seats_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/runnelhq/runnel/seats"
	"github.com/runnelhq/runnel/wire"
)

func take(t *testing.T, s *seats.Seats, caller string) func() {
	t.Helper()
	giveBack, err := s.Take(caller)
	if err != nil {
		t.Fatalf("%s: %v", caller, err)
	}
	return giveBack
}

func refused(t *testing.T, s *seats.Seats, caller string, status int, limit int64, message string) {
	t.Helper()
	_, err := s.Take(caller)
	f, ok := errors.AsType[*wire.Error](err)
	if !ok || f.Status != status || f.Detail.Limit != limit || f.Detail.Message != message || f.Detail.RetryAfter != 5 {
		t.Errorf("%s: %+v", caller, err)
	}
}

func TestSeatsAreBoundedInAllAndByCaller(t *testing.T) {
	s := seats.New(seats.Config{What: "live connections", Max: 3, MaxEach: 2})
	one := take(t, s, "ann")
	take(t, s, "ann")
	refused(t, s, "ann", http.StatusTooManyRequests, 2, `"ann" has 2 live connections, which is the limit for one caller`)
	take(t, s, "bob")
	refused(t, s, "cho", http.StatusServiceUnavailable, 3, "the server has 3 live connections, which is its limit")
	one()
	take(t, s, "ann")
	refused(t, s, "ann", http.StatusServiceUnavailable, 3, "the server has 3 live connections, which is its limit")
}

func TestCallersWhoAreNotKnownShareOnlyTheWhole(t *testing.T) {
	s := seats.New(seats.Config{Max: 2, MaxEach: 1})
	take(t, s, "")
	take(t, s, "")
	refused(t, s, "", http.StatusServiceUnavailable, 2, "the server has 2 connections, which is its limit")
}

func TestWithoutBoundsEverybodyHasASeat(t *testing.T) {
	for _, s := range []*seats.Seats{nil, seats.New(seats.Config{})} {
		for range 1000 {
			take(t, s, "ann")
		}
	}
}

func ExampleSeats_Take() {
	s := seats.New(seats.Config{What: "subscribers", MaxEach: 1})
	giveBack, _ := s.Take("ann")
	_, err := s.Take("ann")
	fmt.Println(err)
	giveBack()
	_, err = s.Take("ann")
	fmt.Println(err)
	// Output:
	// "ann" has 1 subscribers, which is the limit for one caller
	// <nil>
}
