package report_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/report"
	"github.com/curfew-jit/curfew/internal/testkit"
	"golang.org/x/net/html"
)

// elements and attributes are all that the page is made of. Whatever a name tries, nothing else may come out of it.
var (
	elements   = strings.Fields("html head meta title style body svg symbol path circle rect text use a header span main div h1 h2 h3 p bdi b ul li dl dt dd figure figcaption section form label input select option button details summary code pre table thead tbody tr th td footer time script")
	attributes = strings.Fields("lang charset http-equiv content name class aria-hidden xmlns id viewbox d fill stroke stroke-width stroke-linecap stroke-linejoin stroke-dasharray cx cy r x y width height rx href focusable role aria-label aria-labelledby text-anchor hidden for type placeholder autocomplete data-filter value data-severity data-status data-rule data-subscription title open tabindex scope datetime")
)

// checkPage parses the page and looks at every node: no element or attribute that the template does not write, one script and one
// sheet as they are in the package, no address that leads out.
func checkPage(t testing.TB, r *scan.Report) *html.Node {
	t.Helper()
	got := write(t, report.HTML, r, report.Options{Version: "1.2.3"})
	doc, err := html.Parse(strings.NewReader(got))
	if err != nil {
		t.Fatal(err)
	}
	scripts, findings := 0, 0
	for n := range doc.Descendants() {
		if n.Type == html.CommentNode {
			t.Errorf("a comment: %q", n.Data)
		}
		if n.Type != html.ElementNode {
			continue
		}
		name := strings.ToLower(n.Data)
		if !slices.Contains(elements, name) {
			t.Errorf("<%s> on the page", name)
		}
		if name == "script" || name == "style" {
			scripts++
			file := map[string]string{"script": "page.js", "style": "page.css"}[name]
			want, err := os.ReadFile(file)
			if err != nil || n.FirstChild.Data != string(want) {
				t.Errorf("<%s> is not %s", name, file)
			}
		}
		for _, a := range n.Attr {
			if !slices.Contains(attributes, strings.ToLower(a.Key)) {
				t.Errorf("<%s %s=%.40q>", name, a.Key, a.Val)
			}
			if a.Key == "href" && !strings.HasPrefix(a.Val, "#") {
				t.Errorf("the page leads out: %q", a.Val)
			}
			if a.Key == "class" && strings.HasPrefix(a.Val, "finding") {
				findings++
			}
		}
	}
	if scripts != 2 || findings != len(r.Findings) {
		t.Errorf("%d scripts and sheets, %d of %d findings", scripts, findings, len(r.Findings))
	}
	return doc
}

func text(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return b.String()
}

func TestHTMLIsText(t *testing.T) {
	for name, r := range samples() {
		t.Run(name, func(t *testing.T) {
			all := text(checkPage(t, r))
			for _, f := range r.Findings {
				if strings.ContainsAny(f.Name, "\t\r\n\x00\x1b\u202e\ufffe\ue000\xff") {
					continue // written out as an escape
				}
				if !strings.Contains(all, f.Name) {
					t.Errorf("%.40q is not shown as it is", f.Name)
				}
			}
			if strings.ContainsAny(all, "\u202e\x1b") {
				t.Error("a hidden control is on the page")
			}
		})
	}
}

// What is left out is told, with its number, and the page stays of a size that a browser opens.
func TestHTMLLimit(t *testing.T) {
	got := write(t, report.HTML, many(30), report.Options{Limit: 20})
	if strings.Count(got, `<details class="finding`) != 20 || !strings.Contains(got, "10 more findings are not on this page") || !strings.Contains(got, "20 of 30 findings") {
		t.Error("the limit is not kept or not told")
	}
	began := time.Now()
	got = write(t, report.HTML, many(report.HTMLLimit+1), report.Options{})
	t.Logf("%d bytes in %v", len(got), time.Since(began))
	if strings.Count(got, `<details class="finding`) != report.HTMLLimit || !strings.Contains(got, "1 more finding is not") {
		t.Error("HTMLLimit is not kept or not told")
	}
}

// The page in a browser, from a file, under its own policy: filters, copying, what the browser complains of, and that it is quick with
// as many findings as it may hold.
func TestHTMLInABrowser(t *testing.T) {
	const chromium = "/usr/bin/chromium"
	_, err := os.Stat(chromium)
	testkit.Require(t, "chromium", err == nil)
	dir := t.TempDir()
	open := func(name string, r *scan.Report) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(write(t, report.HTML, r, report.Options{})), 0o644); err != nil {
			t.Fatal(err)
		}
		return "file://" + path
	}
	actx, stop := chromedp.NewExecAllocator(t.Context(), chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.Headless,
		chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-background-networking", true))
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(actx)
	t.Cleanup(cancel)
	eval := func(js string) string {
		t.Helper()
		v, err := chromedp.Run(ctx, chromedp.Evaluate[string]("String("+js+")"))
		if err != nil {
			t.Fatalf("%s: %v", js, err)
		}
		return v
	}
	visible := `[...document.querySelectorAll("#list > .finding:not([hidden])")].length`
	set := func(id, value string) string {
		t.Helper()
		eval(fmt.Sprintf(`(()=>{let e=document.getElementById(%q);e.value=%q;e.dispatchEvent(new Event("input",{bubbles:true}))})()`, id, value))
		for range 100 { // the page waits a moment for more typing
			if eval(`document.getElementById("count").textContent.includes("match")`) == "true" || value == "" {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
		return eval(visible)
	}
	if err := chromedp.Do(ctx, chromedp.Navigate(open("fixture.html", fixture()))); err != nil {
		t.Fatal(err)
	}
	if got := eval(`getComputedStyle(document.querySelector(".sprite")).display + document.querySelector("form.filters").hidden`); got != "nonefalse" {
		t.Errorf("the sheet or the script is not let in by the page's own policy: %s", got)
	}
	for _, c := range []struct{ id, value, want string }{{"q", "nsg-legacy", "0"}, {"q", "WEB-01 203.0.113", "1"}, {"q", "", "10"}, {"f-severity", "high", "4"}, {"f-status", "unknown", "1"},
		{"f-severity", "", "1"}, {"f-status", "fail", "5"}, {"f-rule", "rule-overdue", "1"}, {"f-subscription", shop, "0"}} {
		if got := set(c.id, c.value); got != c.want {
			t.Errorf("%s = %q: %s findings, want %s", c.id, c.value, got, c.want)
		}
	}
	if got := eval(`document.getElementById("none").hidden`); got != "false" {
		t.Error("the page does not say that nothing matches")
	}
	eval(`document.querySelector("form.filters").reset()`)
	time.Sleep(100 * time.Millisecond)
	if got := eval(visible); got != "10" {
		t.Errorf("after Clear: %s of 10", got)
	}
	for _, width := range []int64{1280, 390, 320} {
		if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, 800)); err != nil {
			t.Fatal(err)
		}
		eval(`document.querySelectorAll("details").forEach(d=>d.open=true)`)
		if got := eval(`document.documentElement.scrollWidth <= innerWidth`); got != "true" {
			t.Errorf("at %d px the page scrolls sideways", width)
		}
	}
	eval(`document.querySelector(".copy").click()`)
	time.Sleep(200 * time.Millisecond)
	if got := eval(`document.querySelector(".copy").textContent`); got != "Copied" && got != "Selected" {
		t.Errorf("after Copy the button says %q", got)
	}

	if err := chromedp.Do(ctx, chromedp.Navigate(open("hostile.html", poisoned(`"><script>document.title="owned"</script><img src=x onerror="document.title='owned'">`)))); err != nil {
		t.Fatal(err)
	}
	if got := eval(`document.title + document.querySelectorAll("img").length`); strings.Contains(got, "owned") || !strings.HasSuffix(got, "0") {
		t.Errorf("a name did something: %q", got)
	}

	if err := chromedp.Do(ctx, chromedp.Navigate(open("many.html", many(report.HTMLLimit)))); err != nil {
		t.Fatal(err)
	}
	t.Log("load:", eval(`Math.round(performance.getEntriesByType("navigation")[0].loadEventEnd)`), "ms")
	began := time.Now()
	if got := set("q", "web-01999"); got != "1" {
		t.Errorf("%s of %d match", got, report.HTMLLimit)
	}
	t.Logf("filter: %v", time.Since(began))
}
