package label

import "testing"

func TestWordIsSnakeCase(t *testing.T) {
	for text, want := range map[string]string{
		"queue full": "queue_full", "up": "up", "event loop": "event_loop", "check failed": "check_failed",
		"Balancer.Pick": "balancer_pick", "WithRewrite": "rewrite", "HealthCheck.Probe": "health_check_probe", "Trace.Closed": "trace_closed",
	} {
		if got := Word(text); got != want {
			t.Errorf("Word(%q) = %q; want %q", text, got, want)
		}
	}
}

func TestTextKeepsStringsApart(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "a": "a", "é\n": "é\n", `a"b`: `a"b`, "\xff": `"\xff"`, `"\xff"`: `"\"\\xff\""`,
	} {
		if got := Text(text); got != want {
			t.Errorf("Text(%q) = %q; want %q", text, got, want)
		}
	}
}
