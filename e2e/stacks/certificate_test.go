package stacks_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority signs the certificates of the test.
var authority = newAuthority()

type certificateAuthority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pool        *x509.CertPool

	server, client tls.Certificate
}

func newAuthority() *certificateAuthority {
	a := &certificateAuthority{pool: x509.NewCertPool()}
	template := newTemplate("authority")
	template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
	template.BasicConstraintsValid = true
	root := a.sign(template)
	a.certificate, a.key = root.Leaf, root.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.certificate)

	server := newTemplate("server", x509.ExtKeyUsageServerAuth)
	server.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	a.server = a.sign(server)
	a.client = a.sign(newTemplate("proxy", x509.ExtKeyUsageClientAuth))
	return a
}

func newTemplate(name string, usages ...x509.ExtKeyUsage) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		panic(err)
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  usages,
	}
}

// sign returns a certificate with a new key. The first one is the authority's own.
func (a *certificateAuthority) sign(template *x509.Certificate) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	parent, parentKey := a.certificate, a.key
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// write writes the files for programs: ca.pem, server.pem and server.key.
func (a *certificateAuthority) write(t *testing.T, dir string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(a.server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"ca.pem":     {Type: "CERTIFICATE", Bytes: a.certificate.Raw},
		"server.pem": {Type: "CERTIFICATE", Bytes: a.server.Certificate[0]},
		"server.key": {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
