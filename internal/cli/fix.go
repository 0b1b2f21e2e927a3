package cli

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/posture"
	"github.com/curfew-jit/curfew/internal/scan"
)

// FixSource says which Azure is put right, and where the originals are kept.
type FixSource struct {
	ScanSource
	Judge        scan.Options
	Installation string // in the names of rules that protect; "": the configuration's, else local
	Undo         string // the undo file
	Protect      bool   // just-in-time access may be switched on
}

// Fixer plans and applies. Close gives back what it held. Apply carries out the plan that was made last.
type Fixer interface {
	Plan(ctx context.Context, findings []scan.Finding, o FixOptions) (FixPlan, error)
	Apply(ctx context.Context, progress func(FixStepOutcome)) (FixOutcome, error)
	Undo(ctx context.Context, dryRun bool) (FixUndo, error)
	Close()
}

// FixOptions are a person's choices; package fix says what each means, and what its zero value does.
type FixOptions struct {
	ShutVirtualNetwork bool
	ReplaceRules       []string
	RemoveDefender     []string
	Backend            string
	JITMax             time.Duration
	JITFrom            []netip.Prefix
	JITLimit           time.Duration
	Delay              time.Duration
	LeastDelay         time.Duration
	Upgrade            bool
	Unavailable        int
	Ports              []uint16
}

// FixPlan is everything that would be done, as a person confirms it.
type FixPlan struct {
	At     time.Time `json:"at"`
	Steps  []FixStep `json:"steps"`
	Left   []FixLeft `json:"left,omitempty"`   // what no step puts right
	Passes []string  `json:"passes,omitempty"` // findings that hold no more
	Notes  []string  `json:"notes,omitempty"`
	Digest string    `json:"digest"`
}

// FixStep is what is done to one resource.
type FixStep struct {
	ID       string      `json:"id"`
	Kind     string      `json:"kind"`
	Resource string      `json:"resource"`
	Title    string      `json:"title"`
	Findings []string    `json:"findings"`
	Changes  []FixChange `json:"changes,omitempty"`
	Writes   []string    `json:"writes"`
	Keeps    []string    `json:"keeps,omitempty"`
	Loses    []string    `json:"loses,omitempty"`
	Notes    []string    `json:"notes,omitempty"`
}

// FixChange is what happens to one rule.
type FixChange struct {
	Kind     string `json:"kind"`
	Rule     string `json:"rule"`
	Priority int    `json:"priority"`
	Access   string `json:"access"`
	Summary  string `json:"summary"`
	Why      string `json:"why,omitempty"`
}

// FixLeft is a finding that is not put right, with the reason and the next step.
type FixLeft struct {
	Finding  string      `json:"finding"`
	Rule     scan.RuleID `json:"rule"`
	Resource string      `json:"resource"`
	Name     string      `json:"name"` // what the resource is called, told apart from others
	Why      string      `json:"why"`
	Next     string      `json:"next,omitempty"`
}

// FixStepOutcome is how one step ended: done, nothing (it stood already), partly, failed, skipped, or unknown where it was sent and it is
// not known whether it was written.
type FixStepOutcome struct {
	Step    string      `json:"step"`
	Title   string      `json:"title"`
	State   string      `json:"state"`
	Writes  int         `json:"writes"`           // that Azure took
	Unsure  bool        `json:"unsure,omitempty"` // one more was sent, and it is not known whether Azure took it
	Changes []FixChange `json:"changes,omitempty"`
	Notes   []string    `json:"notes,omitempty"`
	Error   string      `json:"error,omitempty"`
	Hint    string      `json:"hint,omitempty"`
}

// FixOutcome is what became of a plan, as it was read again afterwards.
type FixOutcome struct {
	Steps       []FixStepOutcome `json:"steps"`
	Fixed       []string         `json:"fixed"`          // findings that hold no more
	Open        []FixLeft        `json:"open,omitempty"` // findings that still fail, or cannot be decided
	Judged      bool             `json:"judged"`         // it was read and judged again; where not, Unread says why
	Unread      string           `json:"unread,omitempty"`
	Interrupted bool             `json:"interrupted,omitempty"`
	Writes      int              `json:"writes"`         // that Azure took
	Undo        string           `json:"undo,omitempty"` // the undo file, where something was written or may have been
	Complete    bool             `json:"complete"`       // everything that was asked for holds no more
}

// FixUndone is one change that was given back, or would be.
type FixUndone struct {
	Resource string `json:"resource"`
	Name     string `json:"name,omitempty"`
	Title    string `json:"title"` // what both are called, told apart from others
	What     string `json:"what"`
}

// FixKept is one change that is left as it is, and why.
type FixKept struct {
	Resource string `json:"resource"`
	Name     string `json:"name,omitempty"`
	Title    string `json:"title"`
	Why      string `json:"why"`
	Next     string `json:"next,omitempty"`
}

// FixUndo is what an undo file gave back.
type FixUndo struct {
	Done   []FixUndone `json:"done"`
	Kept   []FixKept   `json:"kept,omitempty"`
	Failed []FixKept   `json:"failed,omitempty"`
	Writes int         `json:"writes"`
	DryRun bool        `json:"dry_run"`

	Interrupted bool `json:"interrupted,omitempty"`
}

type fixFlags struct {
	*sourceFlags
	*judgeFlags
	*triageFlags
	FixOptions
	installation, undo, undoFrom string
	backend, max, notice         string
	from                         []string
	dryRun                       bool
}

func (c *cli) fixCmd() *cobra.Command {
	if c.Local.Fix == nil {
		return nil
	}
	o := &fixFlags{}
	cmd := &cobra.Command{
		Use:   "fix [FINDING...]",
		Short: "Put right what a scan finds, plan first",
		Long: `Scans with your own Azure login, plans everything that would put the findings right, and shows the plan: what is written where, what
stays reachable, who loses access. It applies what is confirmed, with --yes or on a terminal, reads again, judges again, and says what is
still open. A second run writes nothing.

Without FINDING (f-…, as scan shows them) it is everything that fails; --rule, --group and the like pick. Rules of others are left
alone, except those that --replace-rule names: their originals go into the undo file first, and --undo-from gives back what was
changed, wherever nobody has changed it since.

Management ports are shut to the Internet; Bastion and the virtual network keep their way in unless --shut-virtual-network is given.`,
		Example: `  curfew fix --rule vm-management-port-exposed
  curfew fix f-23kq7h2m3d --undo before.undo
  curfew fix --undo-from before.undo`,
		Args: need(0, -1, "findings"),
	}
	o.sourceFlags = c.sourceFlags(cmd, false)
	_ = cmd.Flags().MarkHidden("from-file")
	o.triageFlags = c.triageFlags(cmd)
	for _, name := range []string{"status", "baseline", "update-baseline"} {
		_ = cmd.Flags().MarkHidden(name)
	}
	o.judgeFlags = c.judgeFlags(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "show the plan, and write nothing")
	f.StringVar(&o.undo, "undo", "", "keep what is changed in this `FILE`, so that it can be given back (default: a file named after the time)")
	f.StringVar(&o.undoFrom, "undo-from", "", "give back what this undo `FILE` tells of, wherever nobody has changed it since")
	f.BoolVar(&o.ShutVirtualNetwork, "shut-virtual-network", false, "shut management ports to the virtual network as well; Bastion keeps its way in")
	f.StringArrayVar(&o.ReplaceRules, "replace-rule", nil, "consent to narrow this rule of somebody else's, `NSG/RULE`, with the resource group before it where that is not clear; may be repeated")
	f.StringArrayVar(&o.RemoveDefender, "remove-defender-rule", nil, "consent to remove this rule of Defender's that is past its end, `NSG/RULE`; may be repeated")
	f.StringVar(&o.backend, "backend", "nsg", "switch just-in-time access on by nsg (Curfew's own rules) or defender (a policy of Defender for Cloud)")
	f.StringVar(&o.max, "max", "", "longest access `TIME` of Defender's policies")
	f.StringSliceVar(&o.from, "from", nil, "sources that Defender's policies let ask, `CIDR`s")
	f.StringVar(&o.notice, "delay", "", "notice of termination, 5m to 15m, a `TIME` (default 5m, or --least-delay)")
	f.BoolVar(&o.Upgrade, "upgrade-instances", false, "bring the instances of scale sets that are upgraded by hand to the new model")
	f.IntVar(&o.Unavailable, "max-unavailable", 0, "with --upgrade-instances: at most so many `PERCENT` of a set at once (default 20)")
	f.StringVar(&o.installation, "installation", "", "`NAME` in the rules that protect (default: the configuration's, else local)")
	_ = cmd.RegisterFlagCompletionFunc("backend", fixed([]string{"nsg", "defender"}))
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return c.runFix(cmd, args, o) }
	return cmd
}

func (o *fixFlags) options(judge scan.Options) (FixOptions, error) {
	f := o.FixOptions
	f.Backend, f.Ports, f.JITLimit, f.LeastDelay = o.backend, judge.Ports, judge.LongestJIT, judge.LeastDelay
	for _, d := range []struct {
		flag, text string
		into       *time.Duration
	}{{"max", o.max, &f.JITMax}, {"delay", o.notice, &f.Delay}} {
		if d.text == "" {
			continue
		}
		v, err := access.ParseDuration(d.text)
		if err != nil {
			return f, badInput(d.flag, "--%s: %v", d.flag, err)
		}
		*d.into = v
	}
	for _, s := range o.from {
		p, err := access.ParseSource(s)
		if err != nil {
			return f, badInput("from", "--from: %v", err)
		}
		f.JITFrom = append(f.JITFrom, p)
	}
	if f.Unavailable < 0 || f.Unavailable > 100 {
		return f, badInput("max-unavailable", "--max-unavailable is %d, and is 1 to 100 percent", f.Unavailable)
	}
	return f, nil
}

func (c *cli) runFix(cmd *cobra.Command, args []string, o *fixFlags) error {
	ctx := cmd.Context()
	switch {
	case o.File != "":
		return badInput("from-file", "an export cannot be put right").WithHint("leave --from-file out: fix reads Azure with your own login")
	case c.as != "" || c.tokenFile != "" || cmd.Flags().Changed("server"):
		return badInput("server", "fix works with your own Azure login, and asks no server").WithHint("leave --server, --as and --token-file out; what a server protects it goes on protecting")
	case cmd.Flags().Changed("baseline"), cmd.Flags().Changed("update-baseline"), cmd.Flags().Changed("status"):
		return badInput("baseline", "fix puts right what fails, known or not").WithHint("pick with findings, --rule, --group, --resource, or leave some out with --suppressions")
	case o.undoFrom != "" && (len(args) > 0 || o.undo != ""):
		return badInput("undo-from", "--undo-from gives back, and puts nothing right").WithHint("leave findings and --undo out")
	}
	if _, err := o.check(c, cmd); err != nil {
		return err
	}
	for _, a := range args {
		if !strings.HasPrefix(a, "f-") {
			return badInput("", "%q is no finding", a).WithHint("findings are named f-…: curfew scan --json shows them; pick machines with --resource NAME")
		}
	}
	judge, err := o.judgeFlags.options(c)
	if err != nil {
		return err
	}
	opt, err := o.options(judge)
	if err != nil {
		return err
	}
	src := FixSource{ScanSource: o.ScanSource, Judge: judge, Installation: o.installation, Undo: o.undo, Protect: opt.Backend != "defender"}
	if o.undoFrom != "" {
		return c.undo(ctx, src, o)
	}
	if src.Undo == "" {
		src.Undo = "curfew-fix-" + c.now().UTC().Format("20060102T150405Z") + ".undo"
	}
	suppressions, _, err := o.load(c)
	if err != nil {
		return err
	}
	got, err := c.collect(ctx, o.sourceFlags)
	if err != nil {
		return err
	}
	out, err := posture.Judge(got.Estate, got.Source, posture.Options{Judge: judge, Filter: o.triageFlags.Options, Suppressions: suppressions,
		Names: got.Names, AllNames: got.AllNames})
	if err != nil {
		return badInput("", "%v", err)
	}
	for _, n := range out.Notes {
		c.say("note: %s", n)
	}
	if !out.Report.Summary.Complete {
		c.say("note: the scan is not complete: %s", gapWords(out.Report))
	}
	findings, err := pick(out.Report.Findings, args)
	if err != nil {
		return err
	}
	f, err := c.Local.Fix(ctx, src)
	if err != nil {
		return err
	}
	defer f.Close()
	plan, err := f.Plan(ctx, findings, opt)
	if err != nil {
		if ctx.Err() != nil {
			return access.Errorf(access.CodeUnavailable, "interrupted: nothing was written").WithHint("run the same command again")
		}
		return err
	}
	if o.dryRun {
		return c.show(plan, func() string { return fixPlanText(plan) })
	}
	c.say("%s", strings.TrimRight(fixPlanText(plan), "\n"))
	if len(plan.Steps) == 0 {
		done := FixOutcome{Steps: []FixStepOutcome{}, Fixed: plan.Passes, Open: plan.Left, Judged: true, Complete: len(plan.Left) == 0}
		if err := c.show(done, func() string { return "" }); err != nil {
			return err
		}
		return openError(done)
	}
	if err := c.confirm(fmt.Sprintf("write this, %s, with what it changes kept in %s?", several(len(plan.Steps), "step"), src.Undo)); err != nil {
		return err
	}
	done, err := f.Apply(ctx, func(s FixStepOutcome) { c.say("%s: %s", s.Title, stepWords(s)) })
	if err != nil {
		return err
	}
	if err := c.show(done, func() string { return fixedText(done, findings) }); err != nil {
		return err
	}
	return openError(done)
}

// pick returns the findings that fail and do not stand suppressed, or of those the named.
func pick(all []scan.Finding, named []string) ([]scan.Finding, error) {
	var out []scan.Finding
	for _, f := range all {
		if f.Status == scan.Fail && (len(named) == 0 && f.Suppressed == nil || slices.Contains(named, f.ID)) {
			out = append(out, f)
		}
	}
	for _, id := range named {
		if !slices.ContainsFunc(out, func(f scan.Finding) bool { return f.ID == id }) {
			return nil, access.Errorf(access.CodeNotFound, "no finding %s fails", id).WithHint("it may be put right already: curfew scan shows what fails now")
		}
	}
	return out, nil
}

func openError(o FixOutcome) error {
	switch {
	case o.Complete:
		return nil
	case o.Interrupted:
		return access.Errorf(access.CodeUnavailable, "interrupted: %s", stepCounts(o.Steps)).
			WithHint("see what is open now with: curfew scan\nthen run the same command again: it goes on from what stands")
	case !o.Judged:
		return access.Errorf(access.CodeUnavailable, "what became of it could not be judged: %s", o.Unread).WithHint("look with curfew scan, and run fix again: it goes on with what is left")
	}
	findings := map[string]bool{}
	for _, l := range o.Open {
		findings[l.Finding] = true
	}
	return access.Errorf(access.CodeConflict, "still open: %s", several(len(findings), "finding")).WithHint("the reasons stand above, each with the next step")
}

// stepCounts says how steps ended, for a run that was interrupted.
func stepCounts(steps []FixStepOutcome) string {
	n := map[string]int{}
	for _, s := range steps {
		switch s.State {
		case "nothing":
			n["done"]++
		default:
			n[s.State]++
		}
	}
	var out []string
	for _, x := range []struct{ state, one, many string }{{"done", "is done", "are done"}, {"partly", "is partly done", "are partly done"}, {"failed", "failed", "failed"},
		{"unknown", "was sent, and it is not known whether it was written", "were sent, and it is not known whether they were written"}, {"skipped", "was not begun", "were not begun"}} {
		switch k := n[x.state]; k {
		case 0:
		case 1:
			out = append(out, "1 step "+x.one)
		default:
			out = append(out, fmt.Sprintf("%d steps %s", k, x.many))
		}
	}
	return strings.Join(out, "; ")
}

func stepWords(s FixStepOutcome) string {
	words := s.State
	switch s.State {
	case "nothing":
		words = "stands already"
	case "partly":
		words = "partly done"
	case "unknown":
		words = "UNKNOWN"
	case "skipped":
		return "not begun"
	}
	if s.Error != "" {
		words += ": " + s.Error
	}
	if s.Hint != "" {
		words += " (" + s.Hint + ")"
	}
	return words
}

// fixPlanText is the plan as a person confirms it.
func fixPlanText(p FixPlan) string {
	var b strings.Builder
	if len(p.Steps) == 0 && len(p.Left) == 0 {
		b.WriteString("Nothing to put right.\n")
	}
	for i, s := range p.Steps {
		fmt.Fprintf(&b, "%d. %s\n", i+1, safe(s.Title))
		part := func(head string, lines []string) {
			for _, l := range lines {
				fmt.Fprintf(&b, "     %-7s %s\n", head, safe(l))
				head = ""
			}
		}
		part("writes", s.Writes)
		part("keeps", s.Keeps)
		part("loses", s.Loses)
		part("note", s.Notes)
	}
	if len(p.Passes) > 0 {
		fmt.Fprintf(&b, "%s: hold no more.\n", several(len(p.Passes), "finding"))
	}
	leftText(&b, "Left as it is", p.Left)
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", safe(n))
	}
	return b.String()
}

func leftText(b *strings.Builder, head string, left []FixLeft) {
	if len(left) == 0 {
		return
	}
	fmt.Fprintf(b, "%s (%d):\n", head, len(left))
	for _, l := range left {
		fmt.Fprintf(b, "  %s %s: %s\n", l.Rule, safe(l.Name), safe(l.Why))
		if l.Next != "" {
			fmt.Fprintf(b, "      next: %s\n", safe(l.Next))
		}
	}
}

// stepsText names the steps that ended in a state, with the error where it says more.
func stepsText(b *strings.Builder, head, state string, steps []FixStepOutcome) {
	var lines []string
	for _, s := range steps {
		if s.State != state {
			continue
		}
		line := "  " + safe(s.Title)
		if state == "failed" || state == "partly" {
			line += ": " + safe(s.Error)
		}
		lines = append(lines, line)
	}
	if len(lines) > 0 {
		fmt.Fprintf(b, "%s (%d):\n%s\n", head, len(lines), strings.Join(lines, "\n"))
	}
}

func fixedText(o FixOutcome, findings []scan.Finding) string {
	var b strings.Builder
	switch {
	case o.Judged:
		fmt.Fprintf(&b, "%d of %s put right, with %s.\n", len(o.Fixed), several(len(findings), "finding"), several(o.Writes, "write"))
		leftText(&b, "Still open", o.Open)
	case o.Interrupted:
		fmt.Fprintf(&b, "Interrupted after %s; what that put right was not read again.\n", several(o.Writes, "write"))
		for _, x := range []struct{ state, head string }{{"unknown", "It is not known whether this was written"}, {"failed", "Failed"}, {"partly", "Partly done"}, {"skipped", "Not begun"}} {
			stepsText(&b, x.head, x.state, o.Steps)
		}
	default:
		fmt.Fprintf(&b, "%s, and what that put right could not be read again: %s.\n", several(o.Writes, "write"), safe(o.Unread))
		leftText(&b, "Not known to be put right", o.Open)
	}
	if o.Undo != "" {
		fmt.Fprintf(&b, "To give back what was changed: curfew fix --undo-from %s\n", safe(o.Undo))
	}
	return b.String()
}

func several(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// undo gives back what an undo file tells of.
func (c *cli) undo(ctx context.Context, src FixSource, o *fixFlags) error {
	src.Undo = o.undoFrom
	f, err := c.Local.Fix(ctx, src)
	if err != nil {
		return err
	}
	defer f.Close()
	would, err := f.Undo(ctx, true)
	if err != nil {
		return err
	}
	if o.dryRun {
		return c.show(would, func() string { return undoText(would) })
	}
	c.say("%s", strings.TrimRight(undoText(would), "\n"))
	if len(would.Done) == 0 {
		return c.show(would, func() string { return "" })
	}
	if err := c.confirm(fmt.Sprintf("give back %s?", several(len(would.Done), "change"))); err != nil {
		return err
	}
	done, err := f.Undo(ctx, false)
	if err != nil {
		return err
	}
	if err := c.show(done, func() string { return undoText(done) }); err != nil {
		return err
	}
	if done.Interrupted && len(done.Failed) > 0 {
		return access.Errorf(access.CodeUnavailable, "interrupted: given back %s, not %d", several(len(done.Done), "change"), len(done.Failed)).
			WithHint("run the same command again: what was given back is noted in the file")
	}
	if n := len(done.Failed); n > 0 {
		return access.Errorf(access.CodeUnavailable, "not given back: %s", several(n, "change")).WithHint("run the same command again: what was given back is noted in the file")
	}
	return nil
}

func undoText(o FixUndo) string {
	var b strings.Builder
	verb := "given back"
	if o.DryRun {
		verb = "to give back"
	}
	if len(o.Done)+len(o.Kept)+len(o.Failed) == 0 {
		return "Nothing is left to give back.\n"
	}
	for _, d := range o.Done {
		fmt.Fprintf(&b, "%s: %s: %s\n", verb, safe(d.Title), safe(d.What))
	}
	for _, list := range []struct {
		head string
		kept []FixKept
	}{{"left as it is", o.Kept}, {"NOT given back", o.Failed}} {
		for _, k := range list.kept {
			fmt.Fprintf(&b, "%s: %s: %s", list.head, safe(k.Title), safe(k.Why))
			if k.Next != "" {
				fmt.Fprintf(&b, " (%s)", safe(k.Next))
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}
