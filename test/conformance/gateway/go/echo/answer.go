package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// answer is what a server tells about a request, one NAME=VALUE per line; the names are those that the suite's parser knows.
type answer struct {
	version, port, hostname string
	statusCode              int
	host, url, method       string
	protocol, alpn, ip      string
	headers                 http.Header
}

func (a answer) text() string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s=%s\n", name, value)
		}
	}
	line("ServiceVersion", a.version)
	line("ServicePort", a.port)
	line("Host", a.host)
	line("URL", a.url)
	line("Method", a.method)
	line("Proto", a.protocol)
	line("Alpn", a.alpn)
	line("IP", a.ip)
	for _, h := range headerLines(a.headers) {
		line("RequestHeader", h)
	}
	line("StatusCode", fmt.Sprint(a.statusCode))
	line("Hostname", a.hostname)
	return b.String()
}

// headerLines gives one Name:value per value, sorted by name, values in their order.
func headerLines(headers http.Header) []string {
	names := make([]string, 0, len(headers))
	for name := range headers {
		names = append(names, name)
	}
	slices.Sort(names)
	var lines []string
	for _, name := range names {
		for _, value := range headers[name] {
			// A line break would be read as another field. net/http refuses them in what it parses; gRPC's binary metadata may hold any byte.
			lines = append(lines, name+":"+strings.NewReplacer("\r", "\\r", "\n", "\\n").Replace(value))
		}
	}
	return lines
}
