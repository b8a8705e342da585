// Package middleware_test runs routers and middleware of others around a proxy, with and
// without wsproxy.Front. It is a module of its own, so that none of them is a dependency.
package middleware_test

import (
	"io"
	"log"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	"github.com/gorilla/handlers"
	echo4 "github.com/labstack/echo/v4"
	echo4middleware "github.com/labstack/echo/v4/middleware"
	echo5 "github.com/labstack/echo/v5"
	echo5middleware "github.com/labstack/echo/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// A stack is a handler with middleware, and what that records.
type stack struct {
	http.Handler
	status func() int // -1 if nothing was recorded; called when the handler has returned
}

// stacks have a route /ws for the handler. A tunnel through them is recorded as the status
// without, and with Front as 101. The 101 has the fields.
var stacks = []struct {
	name    string
	build   func(*testing.T, http.Handler) stack
	without int
	fields  []string
}{
	{"chi Logger", chiStack(), 0, nil},
	{"chi Timeout", chiStack(chimiddleware.Timeout(timeout)), http.StatusGatewayTimeout, nil},
	{"chi Compress", chiStack(chimiddleware.Compress(5)), 0, nil},
	{"chi Compress of a Content-Type", chiStack(chimiddleware.Compress(5, "text/html"), chimiddleware.SetHeader("Content-Type", "text/html")), 0, nil},
	{"gin Logger", ginStack, http.StatusOK, nil},
	{"echo v4 RequestLogger", echo4Stack(), http.StatusOK, nil},
	{"echo v4 Gzip", echo4Stack(echo4middleware.Gzip()), http.StatusOK, []string{"Vary: Accept-Encoding"}},
	{"echo v5 RequestLogger", echo5Stack(), http.StatusOK, nil},
	{"echo v5 Gzip", echo5Stack(echo5middleware.Gzip()), http.StatusOK, []string{"Vary: Accept-Encoding"}},
	{"gorilla LoggingHandler", gorillaStack(), http.StatusOK, nil},
	{"gorilla CompressHandler", gorillaStack(handlers.CompressHandler), http.StatusOK, []string{"Vary: Accept-Encoding"}},
	{"otelhttp", otelStack, http.StatusOK, nil},
	{"promhttp", promStack, http.StatusOK, nil},
}

// timeout is that of chi's Timeout: longer than an upgrade takes.
const timeout = time.Second

type wrapFunc = func(http.Handler) http.Handler

func chiStack(more ...wrapFunc) func(*testing.T, http.Handler) stack {
	return func(t *testing.T, ws http.Handler) stack {
		book := new(proxytest.LogBook)
		r := chi.NewRouter()
		r.Use(chimiddleware.RequestLogger(&chimiddleware.DefaultLogFormatter{Logger: log.New(book, "", 0), NoColor: true}))
		r.Use(more...)
		r.Handle("/ws", ws)
		return stack{r, func() int {
			for _, line := range book.Lines() {
				if m := regexp.MustCompile(` - (\d{3}) `).FindStringSubmatch(line); m != nil {
					return atoi(t, m[1])
				}
			}
			return -1
		}}
	}
}

func ginStack(_ *testing.T, ws http.Handler) stack {
	gin.SetMode(gin.ReleaseMode)
	status := -1
	e := gin.New()
	e.Use(gin.LoggerWithConfig(gin.LoggerConfig{Output: io.Discard, Formatter: func(p gin.LogFormatterParams) string {
		status = p.StatusCode
		return ""
	}}))
	e.GET("/ws", gin.WrapH(ws))
	return stack{e, func() int { return status }}
}

func echo4Stack(more ...echo4.MiddlewareFunc) func(*testing.T, http.Handler) stack {
	return func(_ *testing.T, ws http.Handler) stack {
		status := -1
		e := echo4.New()
		e.Use(echo4middleware.RequestLoggerWithConfig(echo4middleware.RequestLoggerConfig{LogStatus: true,
			LogValuesFunc: func(_ echo4.Context, v echo4middleware.RequestLoggerValues) error {
				status = v.Status
				return nil
			}}))
		e.Use(more...)
		e.GET("/ws", echo4.WrapHandler(ws))
		return stack{e, func() int { return status }}
	}
}

func echo5Stack(more ...echo5.MiddlewareFunc) func(*testing.T, http.Handler) stack {
	return func(_ *testing.T, ws http.Handler) stack {
		status := -1
		e := echo5.New()
		e.Use(echo5middleware.RequestLoggerWithConfig(echo5middleware.RequestLoggerConfig{LogStatus: true,
			LogValuesFunc: func(_ *echo5.Context, v echo5middleware.RequestLoggerValues) error {
				status = v.Status
				return nil
			}}))
		e.Use(more...)
		e.GET("/ws", echo5.WrapHandler(ws))
		return stack{e, func() int { return status }}
	}
}

func gorillaStack(more ...wrapFunc) func(*testing.T, http.Handler) stack {
	return func(_ *testing.T, ws http.Handler) stack {
		status := -1
		for _, wrap := range more {
			ws = wrap(ws)
		}
		h := handlers.CustomLoggingHandler(io.Discard, ws, func(_ io.Writer, p handlers.LogFormatterParams) { status = p.StatusCode })
		return stack{h, func() int { return status }}
	}
}

func otelStack(t *testing.T, ws http.Handler) stack {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	t.Cleanup(func() { provider.Shutdown(t.Context()) })
	return stack{otelhttp.NewHandler(ws, "ws", otelhttp.WithTracerProvider(provider)), func() int {
		for _, span := range recorder.Ended() {
			for _, a := range span.Attributes() {
				if a.Key == "http.response.status_code" {
					return int(a.Value.AsInt64())
				}
			}
		}
		return -1
	}}
}

func promStack(t *testing.T, ws http.Handler) stack {
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "requests"}, []string{"code"})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(counter)
	return stack{promhttp.InstrumentHandlerCounter(counter, ws), func() int {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				return atoi(t, m.GetLabel()[0].GetValue())
			}
		}
		return -1
	}}
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
