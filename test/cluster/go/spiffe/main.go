// Asks a SPIFFE Workload API as an application would, with SPIFFE's own library, and prints what it got as JSON, one line for each answer.
// spiffe-probe SOCKET [--audience NAME] [--updates N]: N X.509 contexts, as they come; then JWTs, if an audience is named.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/status"
)

func say(fields map[string]any) {
	text, _ := json.Marshal(fields)
	fmt.Println(string(text))
}

func fail(what string, err error) {
	say(map[string]any{"failed": what, "code": status.Code(err).String(), "error": err.Error()})
	os.Exit(1)
}

// watcher verifies each SVID against the bundle that came with it and passes its facts on.
type watcher struct{ updates chan map[string]any }

func (w *watcher) OnX509ContextUpdate(c *workloadapi.X509Context) {
	svid := c.DefaultSVID()
	bundle, err := c.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
	if err == nil {
		_, _, err = x509svid.Verify(svid.Certificates, bundle)
	}
	fields := map[string]any{"id": svid.ID.String(), "serial": svid.Certificates[0].SerialNumber.Text(16), "svids": len(c.SVIDs)}
	if err != nil {
		fields["error"] = err.Error()
	}
	w.updates <- fields
}

func (w *watcher) OnX509ContextWatchError(err error) {
	w.updates <- map[string]any{"failed": "watch", "code": status.Code(err).String(), "error": err.Error()}
}

func main() {
	flags := flag.NewFlagSet("spiffe-probe", flag.ExitOnError)
	audience := flags.String("audience", "", "also fetch and validate a JWT for it")
	updates := flags.Int("updates", 1, "X.509 contexts to wait for")
	_ = flags.Parse(os.Args[2:])
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr("unix://"+os.Args[1]))
	if err != nil {
		fail("connect", err)
	}
	defer client.Close()
	w := &watcher{updates: make(chan map[string]any, 16)}
	go func() { _ = client.WatchX509Context(ctx, w) }()
	for i := 0; i < *updates; i++ {
		select {
		case fields := <-w.updates:
			say(fields)
			if fields["error"] != nil {
				os.Exit(1)
			}
		case <-ctx.Done():
			fail("watch", ctx.Err())
		}
	}
	if *audience == "" {
		return
	}
	svid, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: *audience})
	if err != nil {
		fail("jwt", err)
	}
	// By ourselves, with the keys that the API gives, and by the API.
	bundles, err := client.FetchJWTBundles(ctx)
	if err != nil {
		fail("jwt bundles", err)
	}
	parsed, err := jwtsvid.ParseAndValidate(svid.Marshal(), bundles, []string{*audience})
	if err != nil {
		fail("validate", err)
	}
	validated, err := client.ValidateJWTSVID(ctx, svid.Marshal(), *audience)
	if err != nil {
		fail("validate by the API", err)
	}
	_, refused := client.ValidateJWTSVID(ctx, svid.Marshal(), *audience+"-other")
	say(map[string]any{"jwt": parsed.ID.String(), "validated": validated.ID.String(), "audience": parsed.Audience, "otherRefused": refused != nil})
}
