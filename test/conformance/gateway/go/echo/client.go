package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A body longer than any answer of a server of ours.
const maxBody = 1 << 20

type headerFlag http.Header

func (h headerFlag) String() string { return "" }
func (h headerFlag) Set(text string) error {
	name, value, ok := strings.Cut(text, ":")
	if !ok || name == "" {
		return errors.New("give a header as Name:value")
	}
	http.Header(h).Add(strings.TrimSpace(name), strings.TrimSpace(value))
	return nil
}

type clientOptions struct {
	url             *url.URL
	method, message string
	headers         http.Header
	count           int
	http2, follow   bool
	connections     bool
	timeout         time.Duration
}

// parseClient takes flags before and after the URL: the suite gives them after it.
func parseClient(args []string, complaints io.Writer) (clientOptions, error) {
	o := clientOptions{headers: http.Header{}}
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	flags.SetOutput(complaints)
	flags.StringVar(&o.method, "method", "GET", "HTTP method")
	flags.StringVar(&o.message, "msg", "hello", "message of a gRPC call")
	flags.Var(headerFlag(o.headers), "H", "header or metadata, Name:value; may be repeated")
	flags.IntVar(&o.count, "count", 1, "how many requests, one after the other")
	flags.BoolVar(&o.http2, "http2", false, "HTTP/2, without TLS by prior knowledge")
	flags.BoolVar(&o.follow, "follow-redirects", false, "ask anew where a redirect leads")
	flags.BoolVar(&o.connections, "new-connection-per-request", false, "keep no connection")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Second, "of one request")
	var words []string
	for rest := args; len(rest) > 0; {
		if err := flags.Parse(rest); err != nil {
			return o, usageError(err.Error())
		}
		rest = flags.Args()
		if len(rest) > 0 {
			words = append(words, rest[0])
			rest = rest[1:]
		}
	}
	if len(words) != 1 {
		return o, usageError("give one URL: http://, https:// or grpc://")
	}
	target, err := url.Parse(words[0])
	if err != nil {
		return o, usageError(err.Error())
	}
	if target.Host == "" || !strings.Contains(" http https grpc grpcs ", " "+target.Scheme+" ") {
		return o, usageError(words[0] + ": give http://, https:// or grpc:// with a host")
	}
	if o.count < 1 {
		return o, usageError("--count: at least 1")
	}
	o.url = target
	return o, nil
}

// runClient prints the answers, each ended by an empty line. One that cannot be had ends it.
func runClient(args []string, out, complaints io.Writer) error {
	o, err := parseClient(args, complaints)
	if err != nil {
		return err
	}
	ask, done, err := asker(o)
	if err != nil {
		return err
	}
	defer done()
	for n := range o.count {
		ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
		lines, err := ask(ctx)
		cancel()
		if err != nil {
			return fmt.Errorf("request %d: %w", n, err)
		}
		for _, line := range lines {
			fmt.Fprintf(out, "[%d%s\n", n, line)
		}
		fmt.Fprintln(out)
	}
	return nil
}

// asker returns what makes one request and gives the lines about its answer, each without its "[number", and what closes it.
func asker(o clientOptions) (func(context.Context) ([]string, error), func(), error) {
	if strings.HasPrefix(o.url.Scheme, "grpc") {
		return grpcAsker(o)
	}
	ask, done := httpAsker(o)
	return ask, done, nil
}

func httpAsker(o clientOptions) (func(context.Context) ([]string, error), func()) {
	transport := &http.Transport{
		// The server's certificate is its own; who it is is not what is tested.
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives: o.connections,
		Protocols:         new(http.Protocols),
		// The answer is to be seen as it came.
		DisableCompression: true,
	}
	if o.http2 {
		transport.Protocols.SetHTTP2(true)
		transport.Protocols.SetUnencryptedHTTP2(true)
	} else {
		transport.Protocols.SetHTTP1(true)
	}
	client := &http.Client{Transport: transport}
	if !o.follow {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	ask := func(ctx context.Context) ([]string, error) {
		request, err := http.NewRequestWithContext(ctx, o.method, o.url.String(), nil)
		if err != nil {
			return nil, err
		}
		request.Header = o.headers.Clone()
		if host := request.Header.Get("Host"); host != "" {
			request.Host = host
			request.Header.Del("Host")
		}
		began := time.Now()
		response, err := client.Do(request)
		if err != nil {
			return nil, err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
		if err != nil {
			return nil, err
		}
		lines := asked(o, o.headers)
		lines = append(lines, fmt.Sprintf("] StatusCode=%d", response.StatusCode), "] Latency="+time.Since(began).String())
		lines = append(lines, prefixed("] ResponseHeader=", headerLines(response.Header))...)
		return append(lines, bodyLines(string(body))...), nil
	}
	return ask, transport.CloseIdleConnections
}

func grpcAsker(o clientOptions) (func(context.Context) ([]string, error), func(), error) {
	security := insecure.NewCredentials()
	if o.url.Scheme == "grpcs" {
		security = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	}
	// passthrough: the system resolves the name when it connects, as for HTTP.
	conn, err := grpc.NewClient("passthrough:///"+o.url.Host, grpc.WithTransportCredentials(security))
	if err != nil {
		return nil, nil, err
	}
	ask := func(ctx context.Context) ([]string, error) {
		md := metadata.MD{}
		for name, values := range o.headers {
			md.Append(name, values...)
		}
		var header, trailer metadata.MD
		began := time.Now()
		response := new(wrapperspb.StringValue)
		err := conn.Invoke(metadata.NewOutgoingContext(ctx, md), echoMethod, wrapperspb.String(o.message), response,
			grpc.Header(&header), grpc.Trailer(&trailer), grpc.WaitForReady(false))
		if err != nil {
			return nil, err
		}
		lines := append(asked(o, o.headers), "] Latency="+time.Since(began).String())
		for _, md := range []metadata.MD{header, trailer} {
			canonical := http.Header{}
			for name, values := range md {
				canonical[http.CanonicalHeaderKey(name)] = values
			}
			lines = append(lines, prefixed("] ResponseHeader=", headerLines(canonical))...)
		}
		return append(lines, bodyLines(response.GetValue())...), nil
	}
	return ask, func() { _ = conn.Close() }, nil
}

// asked tells where the request went and what the client itself put into it.
func asked(o clientOptions, headers http.Header) []string {
	return append([]string{"] Url=" + o.url.String()}, prefixed("] Header=", headerLines(headers))...)
}

func prefixed(prefix string, lines []string) []string {
	out := make([]string, len(lines))
	for i, line := range lines {
		out[i] = prefix + line
	}
	return out
}

func bodyLines(body string) []string {
	var lines []string
	for line := range strings.SplitSeq(strings.TrimRight(body, "\n"), "\n") {
		// An empty line would be taken for the end of the answer.
		if line = strings.TrimRight(line, "\r"); line != "" {
			lines = append(lines, " body] "+line)
		}
	}
	return lines
}
