package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// A certificate contains the names of its files.
type certificate struct {
	cert, key string
	both      string // certificate and key in one file, for HAProxy
}

// flags returns the flags for the programs of this module. It returns none if c is
// nil.
func (c *certificate) flags() []string {
	if c == nil {
		return nil
	}
	return []string{"-tls-cert", c.cert, "-tls-key", c.key}
}

// newCertificate creates a certificate for 127.0.0.1 that is valid for a day. It uses
// ECDSA with P-256, as most sites do.
func newCertificate(dir string) (*certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	c := &certificate{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "both.pem")}
	return c, errors.Join(
		os.WriteFile(c.cert, certPEM, 0o600),
		os.WriteFile(c.key, keyPEM, 0o600),
		os.WriteFile(c.both, slices.Concat(certPEM, keyPEM), 0o600))
}
