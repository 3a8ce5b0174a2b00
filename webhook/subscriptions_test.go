package webhook

import (
	"errors"
	"testing"

	"github.com/runnelhq/runnel"
)

func TestReceiversCallBackWhereTheServerIs(t *testing.T) {
	s := &Subscriptions{cfg: SubscriptionsConfig{BaseURL: "https://streams.example/v1/stream"}}
	if got := s.callback("http://old.example/v1/stream", "a/b"); got != "https://streams.example/v1/stream/__ds/subscriptions/a%2Fb/callback" {
		t.Error(got)
	}
	s = new(Subscriptions)
	if got := s.callback("http://old.example/v1/stream", "a"); got != "http://old.example/v1/stream/__ds/subscriptions/a/callback" {
		t.Error(got)
	}
}

func TestOnlyThisMachineIsBelievedByWhatARequestSays(t *testing.T) {
	for base, want := range map[string]bool{
		"http://localhost:4437/v1/stream": true, "http://LOCALHOST./v1/stream": true, "http://a.localhost/": true,
		"http://127.0.0.1:1/": true, "http://[::1]:1/": true,
		"http://streams.example/v1/stream": false, "http://10.0.0.1/": false, "http://localhost.example/": false, "": false, ":": false,
	} {
		if err := onThisMachine(base); (err == nil) != want || err != nil && !errors.Is(err, runnel.ErrInvalid) {
			t.Errorf("%q: %v", base, err)
		}
	}
}
