package wsprometheus_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

const dashboardFile = "../grafana/wsproxy.json"

// A dashboard has the parts of a dashboard of Grafana that the tests look at.
type dashboard struct {
	Title         string
	UID           string
	SchemaVersion int
	ID            *int
	Templating    struct {
		List []struct {
			Name, Type, Definition string
			AllValue               string
			Datasource             datasource
		}
	}
	Panels []panel
}

type panel struct {
	ID          int
	Type, Title string
	Description string
	GridPos     struct{ X, Y, W, H int }
	Datasource  datasource
	Targets     []struct {
		RefID      string
		Datasource datasource
		Expr       string
	}
	Panels []panel
}

type datasource struct{ Type, UID string }

func readDashboard(t testing.TB) *dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal([]byte(readFile(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	return &d
}

// processMetrics are those of the collectors that the default registry has.
func processMetrics(t testing.TB) map[string]bool {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, f := range families {
		names[f.GetName()] = true
	}
	return names
}

func TestDashboardNamesMetricsAndVariablesThatExist(t *testing.T) {
	d := readDashboard(t)
	variables := []string{"__rate_interval"}
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
	}
	process := processMetrics(t)
	variable := regexp.MustCompile(`\$\{?(\w+)`)
	checkExpr := func(where, expr string) {
		t.Helper()
		for _, name := range unknownMetrics(expr, process) {
			t.Errorf("%s names %s, which does not exist: %s", where, name, expr)
		}
		for _, m := range variable.FindAllStringSubmatch(expr, -1) {
			if !slices.Contains(variables, m[1]) {
				t.Errorf("%s names the variable %s, which does not exist: %s", where, m[0], expr)
			}
		}
	}
	for _, v := range d.Templating.List {
		checkExpr("the variable "+v.Name, v.Definition)
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			checkExpr("the panel "+p.Title, target.Expr)
			for _, m := range regexp.MustCompile(`wsproxy_\w+(\{[^}]*\})?`).FindAllString(target.Expr, -1) {
				if !strings.Contains(m, `{proxy=~"$proxy",instance=~"$instance"`) {
					t.Errorf("the panel %s shows all proxies: %s", p.Title, m)
				}
			}
		}
	}
}

// Grafana imports other dashboards too, and repairs or hides what it does not understand.
func TestDashboardCanBeImported(t *testing.T) {
	d := readDashboard(t)
	if d.Title != "wsproxy" || d.UID == "" || d.ID != nil || d.SchemaVersion < 39 {
		t.Errorf("title %q, uid %q, id %v, schema %d; want no id, and a schema of Grafana 11 or newer", d.Title, d.UID, d.ID, d.SchemaVersion)
	}
	var names []string
	for _, v := range d.Templating.List {
		names = append(names, v.Name)
		if v.Type == "query" && (v.AllValue != ".*" || v.Datasource.UID != "${datasource}") {
			t.Errorf("the variable %s: all is %q, of %q; want .*, so that a proxy without a name is shown", v.Name, v.AllValue, v.Datasource.UID)
		}
	}
	for _, want := range []string{"datasource", "proxy", "instance"} {
		if !slices.Contains(names, want) {
			t.Errorf("there is no variable %s", want)
		}
	}
	ids := make(map[int]bool)
	taken := make(map[string]string) // titles by cell of the grid
	var rows []string
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("the panel %s has the id %d, which another one has", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			rows = append(rows, p.Title)
			if len(p.Panels) > 0 {
				t.Errorf("the row %s is collapsed", p.Title)
			}
		} else if p.Description == "" || len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
			t.Errorf("the panel %s has no description, no query or a data source of its own", p.Title)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				cell := fmt.Sprint(x, " ", y)
				if taken[cell] != "" || x >= 24 {
					t.Errorf("the panels %s and %s overlap, or are too wide", p.Title, taken[cell])
				}
				taken[cell] = p.Title
			}
		}
		refs := make(map[string]bool)
		for _, target := range p.Targets {
			if refs[target.RefID] || target.Datasource.UID != "${datasource}" {
				t.Errorf("the panel %s has the query %q twice, or of another data source", p.Title, target.RefID)
			}
			refs[target.RefID] = true
		}
	}
	for _, want := range []string{"Tunnels", "Ends by cause", "Refusals by reason", "Time of an upgrade", "Backends"} {
		if !slices.Contains(rows, want) {
			t.Errorf("there is no row %q in %q", want, rows)
		}
	}
}

// TestDashboardHasDataAfterTraffic asks a Prometheus what each panel asks.
func TestDashboardHasDataAfterTraffic(t *testing.T) {
	prom := startPrometheus(t)
	traffic := startTraffic(t, prom)
	queries := make(map[string]string) // titles and refs by query
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "15s", "$proxy", ".*", "$instance", ".*").Replace(target.Expr)
			queries[expr] = p.Title + " " + target.RefID
		}
	}
	for range 60 {
		traffic.round(t)
		for expr := range queries {
			if prom.hasData(t, expr) {
				delete(queries, expr)
			}
		}
		if len(queries) == 0 {
			return
		}
	}
	for _, expr := range slices.Sorted(maps.Keys(queries)) {
		t.Errorf("the panel %s has no data: %s", queries[expr], expr)
	}
}
