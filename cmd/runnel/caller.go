package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// headerEventKey names an event, the same for each attempt.
	headerEventKey = "Runnel-Event-Key"
	// headerAttempt counts the attempts, from 1.
	headerAttempt = "Runnel-Attempt"
	// headerFence is the number of the lease under which a change is handed over.
	headerFence = "Runnel-Fence"
	// headerHookSignature is "t=<seconds since 1970>,sha256=<hex>" where the code is over the time, a dot and the body.
	headerHookSignature = "Runnel-Signature"
	// maxHookAnswer is the longest answer that is read, in bytes.
	maxHookAnswer = 64 << 10
)

// caller posts to URLs that the one who runs the server has set. Their time is bounded by the context.
type caller struct {
	client *http.Client
	secret []byte
}

// call posts in and reads the answer into out, unless that is nil. Any status but 2xx is an error.
//
// Errors are shown to others, in logs and with what is parked, so they do not say the query of the URL, which may be
// a secret.
func (c *caller) call(ctx context.Context, target string, in, out any, header ...string) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return err
	}
	shown := url.URL{Scheme: r.URL.Scheme, Host: r.URL.Host, Path: r.URL.Path}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if len(c.secret) > 0 {
		r.Header.Set(headerHookSignature, c.sign(time.Now(), body))
	}
	resp, err := c.client.Do(r)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		failed.URL = shown.String()
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxHookAnswer))
	switch {
	case err != nil:
		return err
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("%s answered %s", shown.String(), resp.Status)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("the answer of %s: %w", shown.String(), err)
	}
	return nil
}

func (c *caller) sign(at time.Time, body []byte) string {
	seconds := strconv.FormatInt(at.Unix(), 10)
	code := hmac.New(sha256.New, c.secret)
	_, _ = code.Write([]byte(seconds + ".")) // never fails
	_, _ = code.Write(body)
	return "t=" + seconds + ",sha256=" + hex.EncodeToString(code.Sum(nil))
}
