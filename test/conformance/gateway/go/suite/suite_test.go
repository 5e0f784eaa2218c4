// Package suite holds nothing but the entry to the Gateway API's conformance suite, which is run as it is published: what it is to do is
// said by its own flags.
package suite

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}
