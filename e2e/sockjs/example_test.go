package sockjs_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy/e2e/internal/e2etest"
)

// The page of examples/sockjs.
func TestExamplePageShowsBoundAndUnboundSessions(t *testing.T) {
	e2etest.Need(t, "node", "chromium")
	program := e2etest.Start(t, e2etest.BuildProgram(t, "github.com/wsproxy/wsproxy/examples/sockjs"), "-listen", "127.0.0.1:0")
	url, _, _ := strings.Cut(strings.TrimPrefix(program.Line(t), "open "), " ")
	browser := e2etest.StartBrowser(t)
	tests := []struct {
		query     string
		transport string // "" if the session cannot work
	}{
		{"?prefix=cookie", "websocket"},
		{"?prefix=cookie&websocket=off", "xhr-streaming"},
		{"?prefix=session&websocket=off&transport=eventsource", "eventsource"},
		{"?prefix=none", "websocket"},
		{"?prefix=none&websocket=off&transport=xhr-polling", ""},
	}
	for _, tt := range tests {
		t.Run(tt.query, func(t *testing.T) {
			page, err := browser.Open(url+tt.query, e2etest.PageOptions{Profile: tt.query})
			if err != nil {
				t.Fatal(err)
			}
			eval := func(expression string) {
				t.Helper()
				if err := page.Eval(nil, expression); err != nil {
					t.Fatal(err)
				}
			}
			waitFor := func(expression string) {
				t.Helper()
				if err := page.WaitFor(expression); err != nil {
					t.Fatal(err)
				}
			}
			const isClosed = `document.querySelector("[role=status]").textContent.startsWith("Closed")`
			eval(`document.querySelector("#connect button").click()`)
			waitFor(isClosed + ` || !document.querySelector("#send button").disabled`)
			for i := range 5 {
				eval(fmt.Sprintf(`document.querySelector("#send input").value = "hello %d"; document.querySelector("#send button").click()`, i))
				waitFor(fmt.Sprintf(`%s || document.querySelectorAll("li").length === %d`, isClosed, i+1))
			}
			wantAnswers(t, page, tt.transport)
		})
	}
}

func wantAnswers(t *testing.T, page *e2etest.Page, transport string) {
	t.Helper()
	var got struct {
		Status  string
		Answers []string
	}
	const shown = `({
		status: document.querySelector("[role=status]").textContent,
		answers: Array.from(document.querySelectorAll("li"), (li) => li.textContent),
	})`
	if err := page.Eval(&got, shown); err != nil {
		t.Fatal(err)
	}
	if transport == "" {
		if !strings.HasPrefix(got.Status, "Closed with code ") {
			t.Errorf("without affinity the page shows %+v; want an error", got)
		}
		return
	}
	if got.Status != "Connected by "+transport+"." || len(got.Answers) != 5 {
		t.Fatalf("the page shows %+v; want 5 answers by %s", got, transport)
	}
	backend, _, _ := strings.Cut(got.Answers[0], ",")
	for i, a := range got.Answers {
		if want := fmt.Sprintf("%s, message %d of the session: hello %d", backend, i+1, i); a != want {
			t.Errorf("answer %q; want %q", a, want)
		}
	}
}
