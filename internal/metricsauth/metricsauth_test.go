// SPDX-License-Identifier: Apache-2.0

package metricsauth

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/rest"
)

// apiServer answers reviews: the token is the user's name, and "reader" may get
// /metrics.
type apiServer struct {
	reviews int
	down    bool
	revoked string
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.reviews++
	if s.down {
		http.Error(w, "down", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if strings.HasSuffix(r.URL.Path, "/tokenreviews") {
		var review authenticationv1.TokenReview
		_ = json.NewDecoder(r.Body).Decode(&review)
		review.Status.Authenticated = !strings.HasPrefix(review.Spec.Token, "bad") && review.Spec.Token != s.revoked
		review.Status.User = authenticationv1.UserInfo{Username: review.Spec.Token, Groups: []string{"g"}, Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}}}
		_ = json.NewEncoder(w).Encode(review)
		return
	}
	var review authorizationv1.SubjectAccessReview
	_ = json.NewDecoder(r.Body).Decode(&review)
	a := review.Spec.NonResourceAttributes
	review.Status.Allowed = review.Spec.User == "reader" && a.Path == "/metrics" && a.Verb == "get" && review.Spec.Groups[0] == "g" && review.Spec.Extra["k"][0] == "v"
	_ = json.NewEncoder(w).Encode(review)
}

func newGuard(t *testing.T) (*apiServer, *Guard, func(method, path, authorization string) int) {
	t.Helper()
	s := &apiServer{}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	g, err := New(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, server.Client())
	if err != nil {
		t.Fatal(err)
	}
	h := g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	return s, g, func(method, path, authorization string) int {
		r := httptest.NewRequest(method, path, nil)
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
}

func TestWrap(t *testing.T) {
	s, _, request := newGuard(t)
	for _, tt := range []struct {
		method, path, authorization string
		want                        int
	}{
		{"GET", "/metrics", "", 401},
		{"GET", "/metrics", "Basic cmVhZGVyOng=", 401},
		{"GET", "/metrics", "Bearer ", 401},
		{"GET", "/metrics", "Bearer bad", 401},
		{"GET", "/metrics", "Bearer " + strings.Repeat("x", maxToken+1), 401},
		{"GET", "/metrics", "Bearer stranger", 403},
		{"POST", "/metrics", "Bearer reader", 403},
		{"GET", "/debug", "Bearer reader", 403},
		{"GET", "/metrics", "bearer reader", 200},
		{"GET", "/metrics", "Bearer reader", 200},
		{"POST", "/metrics", "Bearer reader", 403}, // an allowed request allows no other
	} {
		if got := request(tt.method, tt.path, tt.authorization); got != tt.want {
			t.Errorf("%s %s with %.20q: got %d, want %d", tt.method, tt.path, tt.authorization, got, tt.want)
		}
	}
	s.down = true
	if got := request("GET", "/metrics", "Bearer stranger"); got != 503 {
		t.Errorf("without an API server: got %d, want 503", got)
	}
}

// TestReviewsAreBounded checks that strangers cannot make the API server work for
// them, and that they do not lock out a reader.
func TestReviewsAreBounded(t *testing.T) {
	s, g, request := newGuard(t)
	now := time.Now()
	g.now = func() time.Time { return now }
	if got := request("GET", "/metrics", "Bearer reader"); got != 200 {
		t.Fatalf("got %d, want 200", got)
	}
	for range 300 {
		request("GET", "/metrics", "Bearer bad")
	}
	if s.reviews > 2*reviewBurst {
		t.Errorf("the API server got %d reviews, want at most %d", s.reviews, 2*reviewBurst)
	}
	if got := request("GET", "/metrics", "Bearer bad"); got != 429 {
		t.Errorf("a stranger: got %d, want 429", got)
	}
	if got := request("GET", "/metrics", "Bearer reader"); got != 200 {
		t.Errorf("the reader: got %d, want 200", got)
	}
	// The reader's token is reviewed again, although strangers have used up the limit.
	now = now.Add(2 * allowFor)
	before := s.reviews
	if got := request("GET", "/metrics", "Bearer reader"); got != 200 || s.reviews == before {
		t.Errorf("the reader later: got %d and %d reviews, want 200 and a review", got, s.reviews-before)
	}
	// Once its token is revoked, it is a stranger.
	now = now.Add(2 * allowFor)
	s.revoked = "reader"
	if got := request("GET", "/metrics", "Bearer reader"); got != 401 {
		t.Errorf("a revoked token: got %d, want 401", got)
	}
	if got := request("GET", "/metrics", "Bearer reader"); got != 429 {
		t.Errorf("a revoked token again: got %d, want 429", got)
	}
}
