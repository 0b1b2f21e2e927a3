package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
	"github.com/curfew-jit/curfew/internal/posture"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/scan/report"
	"github.com/curfew-jit/curfew/internal/scan/triage"
)

// ScanSource says what is read: a file, or Azure with the caller's own login.
type ScanSource struct {
	File             string
	Config           string // a server's configuration file, for the cloud and the credential
	Subscriptions    []string
	ManagementGroups []string
	Cloud            string
	Endpoint         string
	CA               string
	ViaARM           bool
	Resume           string // file that keeps what was read, so that an interrupted scan goes on; "" keeps nothing
	// Progress is called now and then with how far it is; may be nil.
	Progress func(ScanProgress)
	// Note is called with sentences for people; may be nil.
	Note func(string)
}

// ScanProgress says how far reading is.
type ScanProgress struct {
	Done, Total int           // resources; a total of 0 is not known
	Left        time.Duration // an estimate; 0: none yet
}

// Collected is what was read.
type Collected struct {
	Estate *estate.Estate
	Source scan.Source
	// Names of subscriptions by id, where they are known; AllNames tells that none is missing.
	Names    map[string]string
	AllNames bool
}

// sourceFlags are the options of whatever reads an estate.
type sourceFlags struct {
	ScanSource
	via        string
	standalone bool
}

func (c *cli) sourceFlags(cmd *cobra.Command, server bool) *sourceFlags {
	s := &sourceFlags{}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&s.File, "from-file", "", `judge the resources of this `+"`FILE`"+`, {"resources":[…]}, without any credential; - is standard input`)
	if server {
		f.BoolVar(&s.standalone, "standalone", false, "read with your own Azure login (the default unless a server is named by --server, CURFEW_SERVER or --as)")
	}
	f.StringSliceVar(&s.Subscriptions, "subscription", nil, "only these `SUBSCRIPTIONS`, ids or names (default: all that the login sees)")
	f.StringSliceVar(&s.ManagementGroups, "management-group", nil, "only the subscriptions under these `GROUPS`")
	f.StringVar(&s.via, "via", "graph", "read by graph (Resource Graph) or arm (lists of the resource providers alone)")
	f.StringVar(&s.Config, "config", "", "a server's configuration `FILE`, for cloud and credential (default: az login, AZURE_…)")
	f.StringVar(&s.Cloud, "azure-cloud", "", "public, government or china (default public)")
	f.StringVar(&s.Endpoint, "azure-endpoint", "", "`URL` of another Azure, for example the simulator")
	f.StringVar(&s.CA, "azure-ca", "", "`FILE` of certificates to trust besides the system's")
	f.StringVar(&s.Resume, "resume", "", "keep what was read in this `FILE`, and go on from it after an interruption")
	_ = cmd.RegisterFlagCompletionFunc("azure-cloud", fixed([]string{"public", "government", "china"}))
	_ = cmd.RegisterFlagCompletionFunc("via", fixed([]string{"graph", "arm"}))
	return s
}

// azureFlags are those of sourceFlags that only reading Azure from here needs.
var azureFlags = []string{"management-group", "via", "config", "azure-cloud", "azure-endpoint", "azure-ca", "resume"}

// check refuses options that contradict one another, and tells whether a server is asked.
func (s *sourceFlags) check(c *cli, cmd *cobra.Command) (server bool, err error) {
	switch s.via {
	case "graph":
	case "arm":
		s.ViaARM = true
	default:
		return false, badInput("via", "--via is %q, and is graph or arm", s.via)
	}
	var own string
	for _, name := range azureFlags {
		if cmd.Flags().Changed(name) {
			own = name
		}
	}
	named := c.server != "" || c.as != "" || c.tokenFile != ""
	switch {
	case s.File != "" && own != "":
		return false, badInput(own, "--%s is about reading Azure, and --from-file reads a file", own).WithHint("leave one of the two out")
	case s.File != "" && s.standalone:
		return false, badInput("standalone", "--standalone reads Azure, and --from-file a file").WithHint("leave one of the two out")
	case s.File != "":
		return false, nil
	case s.Endpoint != "" && (s.Cloud != "" || s.Config != "") || s.Config != "" && (s.Cloud != "" || s.CA != ""):
		return false, badInput("azure-endpoint", "--config, --azure-cloud and --azure-endpoint each say which Azure it is").WithHint("give one of them")
	case s.standalone || own != "":
		if c.as != "" || c.tokenFile != "" || cmd.Flags().Changed("server") {
			return false, badInput("server", "--server, --as and --token-file ask a server, and --%s reads Azure from here", max(own, "standalone")).WithHint("leave one of the two out")
		}
		return false, nil
	}
	return named, nil
}

// collect reads the estate.
func (c *cli) collect(ctx context.Context, s *sourceFlags) (Collected, error) {
	if c.Local.Collect == nil {
		return Collected{}, badInput("", "this program cannot read Azure by itself")
	}
	drawn := 0
	wipe := func() {
		if drawn > 0 {
			fmt.Fprintf(c.Stderr, "\r%s\r", strings.Repeat(" ", drawn))
			drawn = 0
		}
	}
	if c.Terminal.Err {
		s.Progress = func(p ScanProgress) {
			line := fmt.Sprintf("read %s resources", thousands(p.Done))
			if p.Total > 0 {
				line = fmt.Sprintf("read %s of %s resources", thousands(p.Done), thousands(max(p.Total, p.Done)))
			}
			if p.Left >= time.Second {
				line += fmt.Sprintf(", about %s left", p.Left.Round(time.Second))
			}
			pad := max(0, drawn-len(line))
			drawn = len(line)
			fmt.Fprintf(c.Stderr, "\r%s%s", line, strings.Repeat(" ", pad))
		}
	}
	s.Note = func(note string) { wipe(); c.say("note: %s", note) }
	got, err := c.Local.Collect(ctx, s.ScanSource)
	wipe()
	if err != nil && ctx.Err() != nil {
		e := access.Errorf(access.CodeUnavailable, "interrupted while reading: nothing was judged")
		if s.Resume != "" {
			return got, e.WithHint("run the same command again: %s keeps what was read, for an hour", s.Resume)
		}
		return got, e.WithHint("run the same command again; with --resume FILE it keeps what was read, and goes on from it")
	}
	return got, err
}

func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// judgeFlags are the options of whatever judges.
type judgeFlags struct {
	ports   []string
	longest string
	delay   string
	single  bool
}

func (c *cli) judgeFlags(cmd *cobra.Command) *judgeFlags {
	j := &judgeFlags{}
	f := cmd.Flags()
	f.StringSliceVar(&j.ports, "ports", nil, "management `PORTS`, TCP (default 22,3389,5985,5986)")
	f.StringVar(&j.longest, "longest-jit", "", "longest `TIME` that a just-in-time policy may allow (default 3h)")
	f.StringVar(&j.delay, "least-delay", "", "least `TIME` between announcing termination and terminating, 5m to 15m (default 5m)")
	f.BoolVar(&j.single, "single-vms", false, "ask machines outside scale sets for announced termination too")
	return j
}

func (j *judgeFlags) options(c *cli) (scan.Options, error) {
	o := scan.Options{Now: c.now(), SingleVMs: j.single}
	for _, p := range j.ports {
		n, err := strconv.ParseUint(strings.TrimSpace(p), 10, 16)
		if err != nil || n == 0 {
			return o, badInput("ports", "%q is no port", p).WithHint("ports are 1 to 65535, separated by commas")
		}
		o.Ports = append(o.Ports, uint16(n))
	}
	for _, d := range []struct {
		flag, text string
		low, high  time.Duration
		into       *time.Duration
	}{{"longest-jit", j.longest, 5 * time.Minute, 24 * time.Hour, &o.LongestJIT}, {"least-delay", j.delay, 5 * time.Minute, 15 * time.Minute, &o.LeastDelay}} {
		if d.text == "" {
			continue
		}
		v, err := access.ParseDuration(d.text)
		if err != nil {
			return o, badInput(d.flag, "--%s: %v", d.flag, err)
		}
		if v < d.low || v > d.high {
			return o, badInput(d.flag, "--%s is %s, and may be %s to %s", d.flag, access.Duration(v), access.Duration(d.low), access.Duration(d.high))
		}
		*d.into = v
	}
	return o, nil
}

// triageFlags are the options that pick, suppress and compare.
type triageFlags struct {
	triage.Options
	suppressions, baseline string
	update                 bool
}

func (c *cli) triageFlags(cmd *cobra.Command) *triageFlags {
	t := &triageFlags{}
	f := cmd.Flags()
	f.StringSliceVar(&t.Rules, "rule", nil, "only these `RULES`")
	f.StringSliceVar(&t.Severities, "severity", nil, "only these `SEVERITIES`: high is exactly that, high+ that or worse")
	f.StringSliceVar(&t.Statuses, "status", nil, "only these `STATUSES`: fail, unknown; with --all pass and not_applicable too")
	f.StringSliceVar(&t.Groups, "group", nil, "only these resource `GROUPS`")
	f.StringSliceVar(&t.Tags, "tag", nil, "only what has these `TAGS`, KEY or KEY=VALUE")
	f.StringSliceVar(&t.Resources, "resource", nil, "only `RESOURCES` like these: names or ids, * for anything")
	f.StringVar(&t.suppressions, "suppressions", "", "`FILE` of findings to live with, each with owner, reason and end date")
	f.StringVar(&t.baseline, "baseline", "", "`FILE` of findings that are known: they are listed and do not count")
	f.BoolVar(&t.update, "update-baseline", false, "write what fails now into the baseline")
	var rules []string
	for _, r := range scan.Rules {
		rules = append(rules, string(r.ID))
	}
	_ = cmd.RegisterFlagCompletionFunc("rule", fixed(rules))
	_ = cmd.RegisterFlagCompletionFunc("severity", fixed([]string{"critical", "high", "high+", "medium", "medium+", "low"}))
	_ = cmd.RegisterFlagCompletionFunc("status", fixed([]string{"fail", "unknown", "pass", "not_applicable"}))
	return t
}

// load reads the files that are named. The baseline is nil where none is compared with.
func (t *triageFlags) load(c *cli) (s triage.Suppressions, b *triage.Baseline, err error) {
	read := c.ReadFile
	if read == nil {
		read = os.ReadFile
	}
	if t.update && t.baseline == "" {
		return nil, nil, badInput("update-baseline", "--update-baseline needs the file to write").WithHint("name it with --baseline FILE")
	}
	if t.suppressions != "" {
		data, err := read(t.suppressions)
		if err != nil {
			return nil, nil, badInput("suppressions", "the suppressions file cannot be read: %v", err)
		}
		if s, err = triage.ParseSuppressions(t.suppressions, data); err != nil {
			return nil, nil, fileError("suppressions", err)
		}
	}
	if t.baseline != "" {
		data, err := read(t.baseline)
		if errors.Is(err, fs.ErrNotExist) && t.update {
			return s, &triage.Baseline{}, nil
		}
		if err != nil {
			return nil, nil, badInput("baseline", "the baseline cannot be read: %v", err).WithHint("make one with --update-baseline")
		}
		v, err := triage.ParseBaseline(t.baseline, data)
		if err != nil {
			return nil, nil, fileError("baseline", err)
		}
		b = &v
	}
	return s, b, nil
}

func fileError(field string, err error) error {
	var fe *triage.FileError
	if errors.As(err, &fe) {
		return badInput(field, "%s", fe.Error()).WithHint("%s", fe.Hint)
	}
	return badInput(field, "%v", err)
}

type scanFlags struct {
	*sourceFlags
	*judgeFlags
	*triageFlags
	all, partial bool
	failOn       string
	reports      []string
	groupBy      string
}

func (c *cli) scanCmd() *cobra.Command {
	var names []string
	for _, f := range report.Formats {
		names = append(names, string(f))
	}
	o := &scanFlags{}
	cmd := &cobra.Command{
		Use:   "scan",
		Short: "Find what is not protected, and what can really be reached",
		Long: `Reads machines, networks and policies, computes who reaches which management port, and lists what is not as it should be,
worst first. Nothing is changed.

It reads with your own Azure login; of a server that is named (--server, CURFEW_SERVER, --as) it takes a scan made there; with
--from-file it judges an export, without any credential.

--output also takes csv, sarif, ocsf, junit, html and markdown; --report writes one more of them to a file. The exit code is 3 with a
finding at or above --fail-on, and 1 where something could not be read, unless --allow-partial.`,
		Args: need(0, 0, "no arguments"),
	}
	o.sourceFlags = c.sourceFlags(cmd, true)
	o.triageFlags = c.triageFlags(cmd)
	o.judgeFlags = c.judgeFlags(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.all, "all", false, "list also what passes and what a rule does not apply to")
	f.StringVar(&o.failOn, "fail-on", "none", "exit with 3 when something at or above this `SEVERITY` is found: critical, high, medium, low or none")
	f.BoolVar(&o.partial, "allow-partial", false, "do not fail because something could not be read")
	f.StringArrayVar(&o.reports, "report", nil, "write a report as well: `FORMAT=FILE`, for example html=scan.html; may be repeated")
	f.StringVar(&o.groupBy, "group-by", "rule", "group the table by rule, resource or subscription")
	_ = cmd.RegisterFlagCompletionFunc("fail-on", fixed([]string{"critical", "high", "medium", "low", "none"}))
	_ = cmd.RegisterFlagCompletionFunc("group-by", fixed([]string{"rule", "resource", "subscription"}))
	cmd.Annotations = map[string]string{outputs: strings.Join(names, " ")}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return c.runScan(cmd, o) }
	cmd.AddCommand(c.explainCmd(), c.scanListCmd(), c.scanShowCmd(), c.scanDiffCmd())
	return cmd
}

// target is where one report goes.
type target struct {
	format report.Format
	file   string
}

func (o *scanFlags) targets() ([]target, error) {
	var out []target
	for _, r := range o.reports {
		format, file, ok := strings.Cut(r, "=")
		if !ok || file == "" || file == "-" || !slices.Contains(report.Formats, report.Format(format)) {
			return nil, badInput("report", "--report is %q, and is FORMAT=FILE", r).WithHint("for example --report html=scan.html; formats: %s", join(report.Formats))
		}
		out = append(out, target{report.Format(format), file})
	}
	return out, nil
}

func (c *cli) runScan(cmd *cobra.Command, o *scanFlags) error {
	ctx := cmd.Context()
	server, err := o.check(c, cmd)
	if err != nil {
		return err
	}
	targets, err := o.targets()
	if err != nil {
		return err
	}
	threshold, err := triage.ParseThreshold(o.failOn)
	if err != nil {
		return badInput("fail-on", "%v", err)
	}
	if !slices.Contains(report.Groups, report.Group(o.groupBy)) {
		return badInput("group-by", "--group-by is %q, and is %s", o.groupBy, join(report.Groups))
	}
	judge, err := o.judgeFlags.options(c)
	if err != nil {
		return err
	}
	for _, s := range o.Statuses {
		if v := scan.Status(s); !o.all && (v == scan.Pass || v == scan.NotApplicable) {
			return badInput("status", "--status %s lists nothing without --all", s).WithHint("add --all, with your own login or a file; a server's report holds what fails and what is unknown")
		}
	}
	judge.All, judge.Lean = o.all, true
	opt := posture.Options{Judge: judge, Filter: o.triageFlags.Options}
	if opt.Suppressions, opt.Baseline, err = o.load(c); err != nil {
		return err
	}
	if _, err := triage.NewFilter(opt.Filter, nil, false); err != nil { // before anything is read
		return badInput("", "%v", err)
	}
	var out posture.Outcome
	var fill func(*scan.Finding) // a server has filled them in
	if server {
		if out, err = c.scanAtServer(cmd, o, opt); err != nil {
			return err
		}
	} else {
		got, err := c.collect(ctx, o.sourceFlags)
		if err != nil {
			return err
		}
		opt.Names, opt.AllNames = got.Names, got.AllNames
		if o.File != "" { // of a file the filter picks; Azure was asked about those subscriptions alone
			opt.Filter.Subscriptions = o.sourceFlags.Subscriptions
		}
		if out, err = posture.Judge(got.Estate, got.Source, opt); err != nil {
			return badInput("", "%v", err)
		}
		fill = posture.Fill(got.Estate, judge)
	}
	for _, n := range out.Notes {
		c.say("note: %s", n)
	}
	w := report.Options{Version: c.Version, GroupBy: report.Group(o.groupBy), Fill: fill}
	for _, t := range targets {
		if err := c.writeReport(t, &out.Report, w); err != nil {
			return err
		}
	}
	if err := c.showReport(&out.Report, w); err != nil {
		return err
	}
	if o.update {
		b, say := out.UpdateBaseline(*opt.Baseline, c.now())
		data, err := b.Marshal()
		if err == nil {
			err = c.writeFile(o.baseline, func(w io.Writer) error { _, err := w.Write(data); return err })
		}
		if err != nil {
			return access.Errorf(access.CodeUnavailable, "the baseline %s could not be written: %v", o.baseline, err)
		}
		c.say("%s: %s", o.baseline, say)
	}
	if !out.Report.Summary.Complete && !o.partial {
		return access.Errorf(access.CodeUnavailable, "the scan is not complete: %s", gapWords(out.Report)).
			WithHint("%s", incompleteHint(o.File != ""))
	}
	if threshold.Fails(out.Report.Findings) {
		c.say("findings at or above %s: see above", o.failOn)
		return exitError{3}
	}
	return nil
}

func incompleteHint(file bool) string {
	if file {
		return "put it into the export, or accept a partial scan with --allow-partial"
	}
	return "give the login the rights to read it, or accept a partial scan with --allow-partial"
}

func gapWords(r scan.Report) string {
	gaps := r.Gaps
	if len(gaps) == 0 {
		for _, f := range r.Findings {
			if f.Status == scan.Unknown {
				return fmt.Sprintf("a verdict about %s needs what is not there: %s", safe(f.Name), safe(f.Reason))
			}
		}
		return "something that a verdict needs is not there"
	}
	g := gaps[0]
	s := g.Source
	switch {
	case g.Resource != "":
		s += ", " + g.Resource + ","
	case g.Subscription != "":
		s += " of subscription " + g.Subscription
	}
	s += " could not be read (" + g.Reason + ")"
	if n := len(gaps) - 1; n > 0 {
		s += fmt.Sprintf(", and %d more", n)
	}
	return s
}

// showReport writes the report to stdout in the chosen form.
func (c *cli) showReport(r *scan.Report, w report.Options) error {
	format := report.Format(c.output)
	if c.output == "yaml" {
		return report.WriteYAML(c.Stdout, r, w, toYAML)
	}
	if format == report.Table {
		w.Width, w.Color = c.Width, c.Terminal.Out && c.Getenv("NO_COLOR") == ""
	}
	return report.Write(c.Stdout, format, r, w)
}

func (c *cli) writeReport(t target, r *scan.Report, w report.Options) error {
	if err := c.writeFile(t.file, func(to io.Writer) error { return report.Write(to, t.format, r, w) }); err != nil {
		return access.Errorf(access.CodeUnavailable, "the report %s could not be written: %v", t.file, err)
	}
	return nil
}

// writeFile writes a file whole or not at all.
func (c *cli) writeFile(name string, write func(io.Writer) error) error {
	if c.WriteFile != nil {
		return c.WriteFile(name, write)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

func (c *cli) scanAtServer(cmd *cobra.Command, o *scanFlags, opt posture.Options) (posture.Outcome, error) {
	for _, name := range []string{"ports", "longest-jit", "least-delay", "single-vms", "all"} {
		if cmd.Flags().Changed(name) {
			return posture.Outcome{}, badInput(name, "--%s is for a scan from here, and a server judges by its own settings", name).WithHint("add --standalone to scan with your own Azure login")
		}
	}
	cl, err := c.client()
	if err != nil {
		return posture.Outcome{}, err
	}
	if c.Terminal.Err {
		c.say("scanning at %s", c.serverURL())
	}
	h, err := cl.RunScan(cmd.Context())
	if err != nil {
		return posture.Outcome{}, err
	}
	rep, err := cl.Scan(cmd.Context(), h.ID)
	if err != nil {
		return posture.Outcome{}, err
	}
	opt.Filter.Subscriptions = o.sourceFlags.Subscriptions
	return posture.Again(rep, opt)
}

func (c *cli) scanListCmd() *cobra.Command {
	var limit int
	cmd := &cobra.Command{Use: "list", Short: "List the scans that a server keeps", Args: need(0, 0, "no arguments"), RunE: func(cmd *cobra.Command, _ []string) error {
		if limit < 1 {
			return badInput("limit", "--limit is %d, and is at least 1", limit)
		}
		cl, err := c.client()
		if err != nil {
			return err
		}
		hs, err := pages(limit, func(p client.Page) (api.List[scan.Head], error) { return cl.Scans(cmd.Context(), p) })
		if err != nil {
			return err
		}
		return c.show(items(hs), func() string {
			t := newTable("SCAN", "WHEN", "BY", "MACHINES", "OPEN", "FAIL", "UNKNOWN", "COMPLETE")
			for _, h := range hs {
				s := h.Summary
				whole := "yes"
				if !s.Complete {
					whole = "NO"
				}
				t.row(h.ID, c.exact(h.At), h.By, strconv.Itoa(s.VMs), strconv.Itoa(s.Exposed), strconv.Itoa(s.Statuses[scan.Fail]), strconv.Itoa(s.Statuses[scan.Unknown]), whole)
			}
			return t.String()
		})
	}}
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many, the newest")
	return cmd
}

func (c *cli) scanShowCmd() *cobra.Command {
	var names []string
	for _, f := range report.Formats {
		names = append(names, string(f))
	}
	return &cobra.Command{Use: "show [SCAN]", Short: "Show the report of a scan that a server keeps; the newest, if none is named",
		Annotations: map[string]string{outputs: strings.Join(names, " ")},
		Args:        need(0, 1, "a scan's id"), RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			rep, err := cl.Scan(cmd.Context(), append(args, "latest")[0])
			if err != nil {
				return err
			}
			return c.showReport(&rep, report.Options{Version: c.Version})
		}}
}
