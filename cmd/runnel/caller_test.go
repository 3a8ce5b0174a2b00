package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestErrorsOfCallsDoNotSayTheQueryOfTheURL(t *testing.T) {
	answer := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	c := &caller{client: http.DefaultClient}
	for what, server := range map[string]string{
		"refused": answer(http.StatusForbidden, ""), "not JSON": answer(http.StatusOK, "{"), "not there": gone.URL,
	} {
		var out any
		err := c.call(t.Context(), server+"/hook?key=secret", nil, &out)
		if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), server+"/hook") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
