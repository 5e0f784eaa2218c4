package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// How long requests that are under way may take after SIGTERM.
const drain = 5 * time.Second

// More than any test sends; a longer line of a TCP client is cut there.
const maxTCPLine = 64 << 10

// ports is a flag that may be given several times.
type ports []int

func (p *ports) String() string { return fmt.Sprint(*p) }
func (p *ports) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > 65535 {
		return errors.New("give a port from 0 to 65535")
	}
	*p = append(*p, n)
	return nil
}

func (p ports) has(n int) bool {
	for _, other := range p {
		if other == n {
			return true
		}
	}
	return false
}

type serverOptions struct {
	http, tls, tcp, grpc ports
	crt, key             string
	version, hostname    string
}

func parseServer(args []string, complaints io.Writer) (serverOptions, error) {
	var o serverOptions
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	flags.SetOutput(complaints)
	flags.Var(&o.http, "port", "HTTP/1.1 and HTTP/2 without TLS (8080 if no port is given); may be repeated")
	flags.Var(&o.tls, "tls", "which of the HTTP ports speak TLS")
	flags.Var(&o.tcp, "tcp", "TCP")
	flags.Var(&o.grpc, "grpc", "gRPC")
	flags.StringVar(&o.crt, "crt", "", "certificate chain, PEM")
	flags.StringVar(&o.key, "key", "", "its key, PEM")
	flags.StringVar(&o.version, "version", os.Getenv("SERVICE_VERSION"), "told in every answer")
	if err := flags.Parse(args); err != nil {
		return o, usageError(err.Error())
	}
	if flags.NArg() > 0 {
		return o, usageError("what is " + flags.Arg(0) + "?")
	}
	if len(o.tls) > 0 && (o.crt == "" || o.key == "") {
		return o, usageError("--tls needs --crt and --key")
	}
	if len(o.http)+len(o.tcp)+len(o.grpc) == 0 {
		o.http = ports{8080}
	}
	hostname, err := os.Hostname()
	o.hostname = hostname
	return o, err
}

func runServer(args []string, complaints io.Writer) error {
	options, err := parseServer(args, complaints)
	if err != nil {
		return err
	}
	s, err := startServers(options)
	if err != nil {
		return err
	}
	log.Printf("serving %s", strings.Join(s.addresses, ", "))
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-signals:
		s.stop()
		return nil
	case err := <-s.failed:
		return err
	}
}

// servers is everything that listens.
type servers struct {
	addresses []string
	failed    chan error
	stops     []func(context.Context)
}

func (s *servers) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	for _, stop := range s.stops {
		stop(ctx)
	}
}

func startServers(o serverOptions) (*servers, error) {
	s := &servers{failed: make(chan error, len(o.http)+len(o.tcp)+len(o.grpc))}
	var certificates []tls.Certificate
	if len(o.tls) > 0 {
		pair, err := tls.LoadX509KeyPair(o.crt, o.key)
		if err != nil {
			return nil, err
		}
		certificates = []tls.Certificate{pair}
	}
	open := func(kind string, port int, serve func(net.Listener) error) error {
		listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		s.addresses = append(s.addresses, kind+" "+listener.Addr().String())
		s.stops = append(s.stops, func(context.Context) { _ = listener.Close() })
		go func() {
			if err := serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				s.failed <- fmt.Errorf("%s port %d: %w", kind, port, err)
			}
		}()
		return nil
	}
	for _, port := range o.http {
		server := &http.Server{Handler: httpEcho(o), ReadHeaderTimeout: time.Minute}
		server.Protocols = new(http.Protocols)
		server.Protocols.SetHTTP1(true)
		kind, serve := "http", server.Serve
		if o.tls.has(port) {
			kind, serve = "https", func(l net.Listener) error { return server.ServeTLS(l, "", "") }
			server.TLSConfig = &tls.Config{Certificates: certificates}
			server.Protocols.SetHTTP2(true)
		} else {
			server.Protocols.SetUnencryptedHTTP2(true)
		}
		s.stops = append(s.stops, func(ctx context.Context) { _ = server.Shutdown(ctx) })
		if err := open(kind, port, serve); err != nil {
			return nil, err
		}
	}
	for _, port := range o.grpc {
		server := grpc.NewServer()
		server.RegisterService(&echoServiceDesc, &grpcEcho{options: o, port: strconv.Itoa(port)})
		s.stops = append(s.stops, func(ctx context.Context) {
			context.AfterFunc(ctx, server.Stop)
			server.GracefulStop()
		})
		if err := open("grpc", port, server.Serve); err != nil {
			return nil, err
		}
	}
	for _, port := range o.tcp {
		if err := open("tcp", port, func(l net.Listener) error { return tcpEcho(o, l) }); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// httpEcho answers every request with 200 and what it was.
func httpEcho(o serverOptions) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		a := answer{version: o.version, hostname: o.hostname, statusCode: http.StatusOK}
		a.host, a.url, a.method, a.protocol, a.headers = r.Host, r.RequestURI, r.Method, r.Proto, r.Header
		a.ip, _, _ = net.SplitHostPort(r.RemoteAddr)
		a.port = localPort(r.Context().Value(http.LocalAddrContextKey))
		if r.TLS != nil {
			a.alpn = r.TLS.NegotiatedProtocol
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, a.text())
	})
}

func localPort(address any) string {
	if tcp, ok := address.(*net.TCPAddr); ok {
		return strconv.Itoa(tcp.Port)
	}
	return ""
}

type grpcEcho struct {
	options serverOptions
	port    string
}

func (g *grpcEcho) echo(ctx context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
	a := answer{version: g.options.version, hostname: g.options.hostname, statusCode: http.StatusOK, port: g.port}
	a.protocol, a.url, a.headers = "GRPC", echoMethod, http.Header{}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		for name, values := range md {
			if name == ":authority" {
				a.host = strings.Join(values, ",")
			} else {
				a.headers[http.CanonicalHeaderKey(name)] = values
			}
		}
	}
	if p, ok := peer.FromContext(ctx); ok {
		a.ip, _, _ = net.SplitHostPort(p.Addr.String())
	}
	return wrapperspb.String(a.text() + "Echo=" + in.GetValue() + "\n"), nil
}

// tcpEcho tells who it is, then sends every line back.
func tcpEcho(o serverOptions, l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			lines := bufio.NewScanner(conn)
			lines.Buffer(nil, maxTCPLine)
			ip, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			a := answer{version: o.version, hostname: o.hostname, statusCode: http.StatusOK, protocol: "TCP", ip: ip}
			a.port = localPort(conn.LocalAddr())
			for said := false; lines.Scan(); said = true {
				if !said {
					_, _ = io.WriteString(conn, a.text())
				}
				if _, err := fmt.Fprintf(conn, "Echo=%s\n", lines.Text()); err != nil {
					return
				}
			}
		}()
	}
}
