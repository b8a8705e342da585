package wsproxyadmin

import (
	"bytes"
	"embed"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"time"
)

//go:embed page
var pageFS embed.FS

// pageFiles are the files of the page by their names. They are few and small.
var pageFiles = readPage()

// A pageFile is one of them.
type pageFile struct {
	contentType string
	content     []byte
}

// contentTypes are those of files that browsers must not guess. The system's own table differs
// between hosts.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
	".png":  "image/png",
	".ico":  "image/x-icon",
}

func readPage() map[string]*pageFile {
	dir, err := fs.Sub(pageFS, "page")
	if err != nil {
		panic("BUG: " + err.Error())
	}
	files := make(map[string]*pageFile)
	err = fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(dir, name)
		contentType, ok := contentTypes[path.Ext(name)]
		if !ok {
			contentType = mime.TypeByExtension(path.Ext(name))
		}
		files[name] = &pageFile{contentType, content}
		return err
	})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return files
}

func (f *pageFile) serve(w http.ResponseWriter, r *http.Request, _ string) {
	w.Header().Set("Content-Type", f.contentType)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
}
