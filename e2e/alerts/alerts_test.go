// What Prometheus' own engine makes of a script of its test language, which comes on the standard input:
// https://github.com/prometheus/prometheus/blob/main/promql/promqltest/README.md
//
// A test, because that engine's test storage asks for one; `fetch` compiles it.
package alerts

import (
	"io"
	"os"
	"testing"

	"github.com/prometheus/prometheus/promql/promqltest"
)

func TestScript(t *testing.T) {
	script, err := io.ReadAll(os.Stdin)
	if err != nil {
		t.Fatal(err)
	}
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	promqltest.RunTest(t, string(script), engine)
}
