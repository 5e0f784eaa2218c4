// Command echo is the workload of the Gateway API's mesh conformance tests: as `server` it answers over HTTP/1.1, HTTP/2, gRPC, TLS and TCP
// with what it was asked, as `client` it asks such a server and prints what came back in the lines that the suite reads
// (sigs.k8s.io/gateway-api/conformance/utils/echo). Written to that contract; which of the two it is goes by the name it is called by.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	os.Exit(run(filepath.Base(os.Args[0]), os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit code: 2 for wrong use, 1 for what failed.
func run(name string, args []string, out, complaints io.Writer) int {
	var err error
	switch name {
	case "client":
		err = runClient(args, out, complaints)
	case "server":
		err = runServer(args, complaints)
	default:
		err = usageError("call it as server or as client")
	}
	if err == nil {
		return 0
	}
	fmt.Fprintf(complaints, "%s: %v\n", name, err)
	if _, usage := err.(usageError); usage {
		return 2
	}
	return 1
}

// usageError says what is wrong with the command line.
type usageError string

func (e usageError) Error() string { return string(e) }
