// Client of the plan (clients/plan.ts) with net/http: `client http1|http2 BASE PLAN`.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

func visit(client *http.Client, base string, parts []string) (string, error) {
	size, err := strconv.Atoi(strings.TrimPrefix(parts[3], "c"))
	if err != nil {
		return "", err
	}
	var body io.Reader
	if strings.HasPrefix(parts[3], "c") {
		body = io.NopCloser(bytes.NewReader(pattern(size)))
	} else if size > 0 {
		body = bytes.NewReader(pattern(size))
	}
	request, err := http.NewRequest(parts[1], base+parts[2], body)
	if err != nil {
		return "", err
	}
	if parts[4] != "" {
		name, value, _ := strings.Cut(parts[4], ":")
		request.Header.Set(name, value)
	}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(got)
	return fmt.Sprintf("%d\t%d\t%s\t%s", answer.StatusCode, len(got), hex.EncodeToString(sum[:])[:16], answer.Header.Get("x-back")), nil
}

func main() {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(os.Args[1] == "http1")
	protocols.SetUnencryptedHTTP2(os.Args[1] == "http2")
	client := &http.Client{
		Timeout:       60 * time.Second,
		Transport:     &http.Transport{Protocols: protocols, DisableCompression: true, ExpectContinueTimeout: 30 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for _, line := range strings.Split(strings.TrimRight(os.Args[3], "\n"), "\n") {
		parts := strings.Split(line, "\t")
		seen, err := visit(client, os.Args[2], parts)
		if err != nil {
			seen = "error\t" + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Printf("%s\t%s\n", parts[0], seen)
	}
}
