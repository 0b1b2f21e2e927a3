package slacksim_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/slacksim"
)

// The page shows what Slack would: markup in texts of the type mrkdwn, and in those of the type plain_text none.
func TestThePageReadsMarkupWhereSlackDoes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := slacksim.New(l, clock.System{}.Now)
	defer s.Close()
	body := `{"channel":"` + s.Channel + `","text":"x","blocks":[
		{"type":"section","text":{"type":"mrkdwn","text":"*loud* &lt;one&gt;"}},
		{"type":"section","fields":[{"type":"plain_text","text":"*quiet* &lt;two&gt; <three>"}]},
		{"type":"context","elements":[{"type":"plain_text","text":"*small*"}]}]}`
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/chat.postMessage", strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+s.Token)
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if !strings.Contains(string(answer), `"ok":true`) {
		t.Fatalf("it was not posted: %s", answer)
	}
	req, _ = http.NewRequestWithContext(t.Context(), http.MethodGet, s.Page(), nil)
	if res, err = http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	}
	page, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	for _, want := range []string{"<b>loud</b> &lt;one&gt;", "*quiet* &amp;lt;two&amp;gt; &lt;three&gt;", "<small>*small*</small>"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("%q is not on the page:\n%s", want, page)
		}
	}
}
