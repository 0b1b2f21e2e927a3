package azure_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/sim"
)

// P1 on real sockets: when a connection takes so long that the grant is over once it stands, no complete request leaves, over
// HTTP/1 as over HTTP/2.
func TestGuardOnRealConnections(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		s := newSim(t, sim.Config{})
		var complete atomic.Int32
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				if _, err := io.ReadAll(r.Body); err == nil {
					complete.Add(1)
				}
				return
			}
			s.Handler().ServeHTTP(w, r)
		}))
		srv.EnableHTTP2 = http2
		srv.StartTLS()
		tr := srv.Client().Transport.(*http.Transport).Clone()
		tr.DisableKeepAlives = true // each request dials
		var slow atomic.Bool
		var d net.Dialer
		tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if slow.Load() {
				time.Sleep(300 * time.Millisecond)
			}
			return d.DialContext(ctx, network, addr)
		}
		cloud, err := azure.CustomCloud(srv.URL, "https://management.azure.com/", srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, s.Token(), tr, func(o *azure.Options) { o.Cloud = cloud })
		n := readNSG(t, c)
		slow.Store(true)
		over, end := errors.New("the grant is over"), time.Now().Add(100*time.Millisecond)
		_, err = c.PutNSG(t.Context(), plus(n, "late", 200), func() error {
			if time.Now().Before(end) {
				return nil
			}
			return over
		})
		if !errors.Is(err, over) || azure.Classify(err) != azure.Aborted {
			t.Errorf("HTTP/2 %v: got %v", http2, err)
		}
		srv.Close()
		if got := complete.Load(); got != 0 {
			t.Errorf("HTTP/2 %v: %d complete requests arrived", http2, got)
		}
	}
}

// Nothing is known to be done when no connection came about: the next run need not look.
func TestNoConnectionIsNoUnknownOutcome(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	cloud, err := azure.CustomCloud("http://"+addr, "", "http://"+addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := azure.New(azure.Options{Cloud: cloud, Credential: azure.StaticToken("t"), Backoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	n := azure.NSG{}
	if err := n.UnmarshalJSON([]byte(`{"id":"` + nsgID + `","etag":"W/\"1\"","properties":{}}`)); err != nil {
		t.Fatal(err)
	}
	_, err = c.PutNSG(t.Context(), n, nil)
	wantClass(t, err, azure.Transient)
}
