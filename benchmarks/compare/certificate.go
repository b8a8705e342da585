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

// A certificate is files.
type certificate struct {
	cert, key string
	both      string // in one file, for HAProxy
}

// flags returns those of the programs that are built; none if c is nil.
func (c *certificate) flags() []string {
	if c == nil {
		return nil
	}
	return []string{"-tls-cert", c.cert, "-tls-key", c.key}
}

// newCertificate makes one for 127.0.0.1, for a day. ECDSA with P-256 is what most
// sites have.
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
