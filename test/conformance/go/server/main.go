// Server of the plan (clients/plan.ts) with net/http: HTTP/1.1 on 8080, HTTP/2 without TLS on 8081.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"
)

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

func serve(w http.ResponseWriter, r *http.Request) {
	_, kind, _ := strings.Cut(r.URL.Path, "/")
	kind, value, _ := strings.Cut(kind, "/")
	n, _ := strconv.Atoi(value)
	switch kind {
	case "bytes":
		w.Header().Set("Content-Length", value)
		w.Write(pattern(n))
	case "chunks":
		for range n {
			w.Write(pattern(1000))
			w.(http.Flusher).Flush()
		}
	case "status":
		w.WriteHeader(n)
	case "sum":
		sum := sha256.New()
		size, err := io.Copy(sum, r.Body)
		if err != nil {
			return
		}
		fmt.Fprintf(w, "%s %d %s", r.Method, size, hex.EncodeToString(sum.Sum(nil)))
	case "back":
		back := r.Header.Get("x-there")
		if back == "" {
			back = r.RequestURI
		}
		w.Header().Set("x-back", back)
	case "hints":
		w.Header().Set("Link", "</a>; rel=preload")
		w.WriteHeader(103)
		w.Write([]byte("hinted"))
	case "early":
		w.WriteHeader(413)
		w.Write([]byte("too much"))
	case "cut":
		w.Header().Set("Content-Length", "100000")
		w.Write(pattern(1000))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	default:
		w.WriteHeader(404)
	}
}

func main() {
	listen := func(address string, http2 bool) {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(!http2)
		protocols.SetUnencryptedHTTP2(http2)
		server := &http.Server{Addr: address, Handler: http.HandlerFunc(serve), Protocols: protocols, ErrorLog: log.New(io.Discard, "", 0)}
		log.Fatal(server.ListenAndServe())
	}
	go listen(":8081", true)
	listen(":8080", false)
}
