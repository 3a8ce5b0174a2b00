package items

import (
	_ "embed"
	"net/http"
)

// openAPI describes every function and resource.
//
//go:embed openapi.json
var openAPI []byte

func serveOpenAPI(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return notAllowed(w, "GET, HEAD")
	}
	answer(w, r, http.StatusOK, openAPI)
	return nil
}
