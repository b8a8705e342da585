package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// nginxConfig is the configuration of nginx. nginx creates the folders for temporary
// files at its start, so they must be where an ordinary user can write.
const nginxConfig = `
worker_processes auto;
worker_rlimit_nofile %[5]d;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
events {
	worker_connections %[5]d;
}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	map $http_upgrade $connection_upgrade {
		default upgrade;
		'' close;
	}
	upstream backends {
		server %[3]s;
	}
	server {
		listen %[2]s;
		location / {
			proxy_pass http://backends;
			proxy_http_version 1.1;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection $connection_upgrade;
			proxy_read_timeout 1h;
			proxy_send_timeout 1h;
		}
		%[4]s
	}
}
`

// nginxTLS enables TLS 1.3, which the other peers use. It is a default of nginx since
// 1.23.4.
const nginxTLS = "ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate %s; ssl_certificate_key %s;"

func nginx(s setup) (*exec.Cmd, error) {
	listen, tls := s.listen+" reuseport backlog=4096", ""
	if s.tls != nil {
		listen += " ssl"
		tls = fmt.Sprintf(nginxTLS, s.tls.cert, s.tls.key)
	}
	limit, err := descriptorLimit()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, "nginx.conf")
	config := fmt.Sprintf(nginxConfig, s.dir, listen, strings.Join(s.backends, "; server "), tls, min(limit, 10_000))
	if err := os.WriteFile(file, []byte(config), 0o666); err != nil {
		return nil, err
	}
	program, err := lookPath("nginx")
	if err != nil {
		return nil, err
	}
	return exec.Command(program, "-e", filepath.Join(s.dir, "error.log"), "-c", file), nil
}
