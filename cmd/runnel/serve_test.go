package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAServerSaysThatItIsAliveAndReady(t *testing.T) {
	s := inMemory(t)
	if code, body := get(t, s.url+"/healthz"); code != 200 || body != `{"status":"ok"}`+"\n" {
		t.Errorf("healthz: %d %s", code, body)
	}
	if code, body := get(t, s.url+"/readyz"); code != 200 || body != `{"status":"ready"}`+"\n" {
		t.Errorf("readyz: %d %s", code, body)
	}
	if s.line != "runnel listening on "+s.url+"/v1/stream (in memory)\n" {
		t.Errorf("it printed %q", s.line)
	}
}

func TestWithoutSpaceToKeepFreeAServerServesReadsAndSaysSo(t *testing.T) {
	data := t.TempDir()
	s := serve(t, nil, "--addr", "127.0.0.1:0", "--data", data, "--keep-free", "0")
	s.must("kept", "append", "a")
	s.stop()
	s = serve(t, nil, "--addr", "127.0.0.1:0", "--data", data, "--keep-free", "1000000GiB")
	if got := s.must("", "read", "a"); got != "kept" {
		t.Errorf("got %q", got)
	}
	if code, body := get(t, s.url+"/readyz"); code != 200 || !strings.Contains(body, `"status":"full"`) || !strings.Contains(body, "must stay free") {
		t.Errorf("readyz: %d %s", code, body)
	}
	resp, err := http.Post(s.streams()+"/a", "application/octet-stream", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 507 || !strings.Contains(string(body), `"code":"storage_full"`) {
		t.Errorf("append: %d %s, %v", resp.StatusCode, body, err)
	}
	if n := strings.Count(s.stderr.String(), "nearly full; writes are refused"); n != 1 {
		t.Errorf("it was said %d times\n%s", n, s.stderr)
	}
}

func TestWhatWasAppendedIsThereAfterARestart(t *testing.T) {
	data := filepath.Join(t.TempDir(), "new", "data")
	s := serve(t, nil, "--addr", "127.0.0.1:0", "--data", data)
	s.must("kept", "append", "a/b")
	s.stop()
	s = serve(t, nil, "--addr", "127.0.0.1:0", "--data", data)
	if got := s.must("", "read", "a/b"); got != "kept" {
		t.Errorf("got %q", got)
	}
	s.kill()
	s = serve(t, nil, "--addr", "127.0.0.1:0", "--data", data)
	if got := s.must("", "read", "a/b"); got != "kept" {
		t.Errorf("after a kill: got %q", got)
	}
}

func TestTwoServersDoNotShareADataDirectory(t *testing.T) {
	data := t.TempDir()
	serve(t, nil, "--addr", "127.0.0.1:0", "--data", data)
	o := runnelIn(t, nil, nil, "serve", "--addr", "127.0.0.1:0", "--data", data)
	if o.code != 1 || !strings.Contains(o.stderr, "the directory "+data+" is in use by another process") {
		t.Errorf("ended with %d: %s", o.code, o.stderr)
	}
}

func TestDataMustBeADirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{file, filepath.Join(file, "below")} {
		o := runnelIn(t, nil, nil, "serve", "--addr", "127.0.0.1:0", "--data", data)
		if o.code != 1 || !strings.Contains(o.stderr, "data: ") || !strings.Contains(o.stderr, "not a directory") {
			t.Errorf("%s: ended with %d: %s", data, o.code, o.stderr)
		}
	}
}

func TestAnAddressInUseIsNamed(t *testing.T) {
	s := inMemory(t)
	addr := strings.TrimPrefix(s.url, "http://")
	o := runnelIn(t, nil, nil, "serve", "--addr", addr, "--driver", "memory")
	if o.code != 1 || !strings.Contains(o.stderr, "addr: listen tcp "+addr) {
		t.Errorf("ended with %d: %s", o.code, o.stderr)
	}
}

func TestLiveReadersEndCleanlyWhenTheServerStops(t *testing.T) {
	s := inMemory(t)
	s.must("x", "append", "a")
	client := &http.Client{Timeout: within}
	resp, err := client.Get(s.streams() + "/a?offset=-1&live=sse")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	if line, err := r.ReadString('\n'); err != nil || line != "event: data\n" {
		t.Fatalf("got %q %v", line, err)
	}
	s.stop()
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Errorf("the reader was cut off: %v", err)
	}
}

// held opens a request whose body does not come to its end.
func (s *server) held() (end func()) {
	s.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, "POST /v1/stream/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"); err != nil {
		s.t.Fatal(err)
	}
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		s.t.Fatalf("got %q %v", line, err)
	}
	return func() {
		s.t.Helper()
		if _, err := r.ReadString('\n'); err != nil {
			s.t.Fatal(err)
		}
		if _, err := io.WriteString(c, "held"); err != nil {
			s.t.Fatal(err)
		}
		if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 204") {
			s.t.Errorf("the request under way got %q %v", line, err)
		}
	}
}

func TestRequestsUnderWayFinishWhenTheServerStops(t *testing.T) {
	s := inMemory(t)
	s.must("", "create", "a")
	end := s.held()
	s.signal(syscall.SIGTERM)
	eventually(t, "the server says that it drains", func() bool { return strings.Contains(s.stderr.String(), "draining") })
	end()
	if code := s.wait(); code != 0 {
		t.Errorf("ended with %d\n%s", code, s.stderr)
	}
}

func TestRequestsThatDoNotFinishAreCutOff(t *testing.T) {
	s := inMemory(t, "--drain-timeout", "100ms")
	s.must("", "create", "a")
	s.held()
	s.signal(syscall.SIGTERM)
	if code := s.wait(); code != 1 || !strings.Contains(s.stderr.String(), "drain-timeout of 100ms") {
		t.Errorf("ended with %d\n%s", code, s.stderr)
	}
}

func TestASecondSignalEndsTheServerAtOnce(t *testing.T) {
	s := inMemory(t, "--drain-timeout", "1h")
	s.must("", "create", "a")
	s.held()
	s.signal(syscall.SIGTERM)
	eventually(t, "the server says that it drains", func() bool { return strings.Contains(s.stderr.String(), "draining") })
	s.signal(os.Interrupt)
	if code := s.wait(); code != 1 || !strings.Contains(s.stderr.String(), "second signal") {
		t.Errorf("ended with %d\n%s", code, s.stderr)
	}
}

func TestHTTP2IsSpokenWithoutTLS(t *testing.T) {
	s := inMemory(t)
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: p}}
	resp, err := client.Get(s.url + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != 200 {
		t.Errorf("got %s %s", resp.Proto, resp.Status)
	}
}

// certificate writes a self-signed certificate for 127.0.0.1 and returns its files and a pool that trusts it.
func certificate(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, content := range map[string][]byte{cert: certPEM, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return cert, key, pool
}

func TestTLSIsServedWithHTTP2(t *testing.T) {
	cert, key, pool := certificate(t)
	s := inMemory(t, "--tls-cert", cert, "--tls-key", key)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	resp, err := client.Get(s.url + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != 200 || !strings.HasPrefix(s.url, "https://") {
		t.Errorf("got %s %s from %s", resp.Proto, resp.Status, s.url)
	}
}

func TestOneProcessorIsMadeTwo(t *testing.T) {
	const raised = "GOMAXPROCS is raised from 1 to 2"
	s := serve(t, []string{"GOMAXPROCS=1"}, "--addr", "127.0.0.1:0", "--data", t.TempDir())
	eventually(t, "the log says "+raised, func() bool { return strings.Contains(s.stderr.String(), raised) })
	s = serve(t, []string{"GOMAXPROCS=2"}, "--addr", "127.0.0.1:0", "--data", t.TempDir())
	s.stop()
	if strings.Contains(s.stderr.String(), raised) {
		t.Errorf("logged %q", s.stderr)
	}
}
