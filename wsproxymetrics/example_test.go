package wsproxymetrics_test

import (
	"bufio"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/wsproxymetrics"
)

// The metrics are served on an address of their own. Here they are read as Prometheus does it.
func ExampleHandler() {
	proxy, err := wsproxy.New(
		wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "chat", URL: "http://127.0.0.1:9001", MaxTunnels: 1000}))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()

	mux := http.NewServeMux()
	mux.Handle("/metrics", wsproxymetrics.Handler(proxy, wsproxymetrics.Options{Name: "chat"}))
	server := httptest.NewServer(mux) // http.ListenAndServe("127.0.0.1:9090", mux), in a program
	defer server.Close()

	resp, err := http.Get(server.URL + "/metrics")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "wsproxy_backend_") {
			fmt.Println(lines.Text())
		}
	}
	// Output:
	// wsproxy_backend_flag{proxy="chat",backend="chat",flag="resting"} 0
	// wsproxy_backend_flag{proxy="chat",backend="chat",flag="full"} 0
	// wsproxy_backend_flag{proxy="chat",backend="chat",flag="ejected"} 0
	// wsproxy_backend_flag{proxy="chat",backend="chat",flag="check_failed"} 0
	// wsproxy_backend_flag{proxy="chat",backend="chat",flag="unreachable"} 0
	// wsproxy_backend_state{proxy="chat",backend="chat",state="up"} 1
	// wsproxy_backend_state{proxy="chat",backend="chat",state="failing"} 0
	// wsproxy_backend_state{proxy="chat",backend="chat",state="draining"} 0
	// wsproxy_backend_state{proxy="chat",backend="chat",state="removed"} 0
	// wsproxy_backend_tunnels_limit{proxy="chat",backend="chat"} 1000
}

// A program with a metrics library of its own writes what that library wants.
func ExampleRead() {
	proxy, err := wsproxy.New(wsproxy.WithBackends("http://127.0.0.1:9001", "http://127.0.0.1:9002"))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()

	for _, s := range wsproxymetrics.Read(proxy) {
		if s.Metric.Name == "wsproxy_tunnels" {
			fmt.Println(s.Metric.Kind, s.Metric.Labels, s.Labels, s.Value)
		}
	}
	// Output:
	// gauge [backend] [http://127.0.0.1:9001] 0
	// gauge [backend] [http://127.0.0.1:9002] 0
}
