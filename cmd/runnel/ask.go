package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"

	"github.com/runnelhq/runnel/wire"
)

// maxAnswer is more than any answer that is printed, in bytes.
const maxAnswer = 1 << 30

// askServer makes a request whose body, if there is one, is JSON. What the server refuses is its error.
func askServer(ctx context.Context, method, target string, body []byte, headers ...http.Header) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	for _, h := range headers {
		maps.Copy(req.Header, h)
	}
	resp, err := new(http.Client).Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return 0, nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(answer) > maxAnswer {
		return 0, nil, fmt.Errorf("the answer has more than %d bytes; ask for less at once", maxAnswer)
	}
	if resp.StatusCode/100 == 2 {
		return resp.StatusCode, answer, nil
	}
	return 0, nil, refusal(resp, answer)
}

// refusal is what a server says that refuses, in the form of all of its answers or in that of functions.
func refusal(resp *http.Response, answer []byte) error {
	var failure struct {
		wire.Body
		Code    string       `json:"code"`
		Message string       `json:"message"`
		Detail  *wire.Detail `json:"detail"`
	}
	switch err := json.Unmarshal(answer, &failure); {
	case err == nil && failure.Error.Code != "":
		return failure.Err(resp.StatusCode)
	case err == nil && failure.Detail != nil:
		return wire.Body{Error: *failure.Detail}.Err(resp.StatusCode)
	case err == nil && failure.Code != "" && failure.Message != "":
		return fmt.Errorf("%s: %s", failure.Code, failure.Message)
	}
	return fmt.Errorf("the server answered %s: %.500s", resp.Status, answer)
}
