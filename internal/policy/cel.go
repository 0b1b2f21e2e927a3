package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/ext"

	"github.com/curfew-jit/curfew/internal/access"
)

// What a condition may be and may cost. A unit of cost is about one step of the evaluation, some tens of nanoseconds.
const (
	maxCondition = 2000 // bytes
	maxNodes     = 1000
	maxCost      = 10_000 // as estimated when it is loaded, and as counted while it runs
)

// Variable is a name that conditions may use.
type Variable struct {
	Name string
	Type *cel.Type
	Doc  string
}

// Variables lists the names that conditions may use, in the order of the documentation.
func Variables() []Variable { return slices.Clone(variables) }

var variables = []Variable{
	{"request.ports", cel.ListType(cel.IntType), "the ports of the target, one by one"},
	{"request.protocol", cel.StringType, "tcp or udp"},
	{"request.source", ext.CIDRType, "the network that may connect: cidr('10.0.0.0/8').containsCIDR(request.source)"},
	{"request.duration", cel.DurationType, "how long"},
	{"request.start", cel.TimestampType, "when it starts; now, where no start is asked for"},
	{"request.reason", cel.StringType, "the justification"},
	{"request.ticket", cel.StringType, "the ticket"},
	{"request.extension", cel.BoolType, "true where a live grant is to be extended"},
	{"request.break_glass", cel.BoolType, "true in an emergency"},
	{"requester.name", cel.StringType, "who asks, in lower case"},
	{"requester.groups", cel.ListType(cel.StringType), "their groups of this policy; 'dba' in requester.groups does not mind the case"},
	{"requester.roles", cel.ListType(cel.StringType), "their roles"},
	{"target.name", cel.StringType, "name of the VM, in lower case"},
	{"target.group", cel.StringType, "its resource group, in lower case"},
	{"target.subscription", cel.StringType, "id of its subscription, in lower case"},
	{"target.tags", cel.MapType(cel.StringType, cel.StringType), "its tags; target.tags['Env'] does not mind the case of the name"},
	{"target.os", cel.StringType, "linux or windows"},
	{"target.location", cel.StringType, "its region, in lower case"},
	{"now", cel.TimestampType, "the instant of the decision"},
}

// environment is made once; it is never changed after.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	opts := []cel.EnvOption{
		ext.Strings(ext.StringsVersion(4)), ext.Network(), cel.DefaultUTCTimeZone(true), cel.EagerlyValidateDeclarations(true),
		cel.ParserExpressionSizeLimit(maxCondition), cel.ExpressionNodeLimit(maxNodes), cel.ExpressionNestingDepthLimit(50), cel.ParserRecursionLimit(50),
		cel.RegexProgramSizeLimit(1000), cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals()),
	}
	for _, v := range variables {
		opts = append(opts, cel.Variable(v.Name, v.Type))
	}
	return cel.NewEnv(opts...)
})

// condition is a compiled CEL expression. It may be evaluated by many at once.
type condition struct {
	text string
	prog cel.Program
}

// compile reads a condition. Its error says what, with line and column within the condition.
func compile(text string) (*condition, error) {
	env, err := environment()
	if err != nil {
		return nil, err
	}
	if len(text) > maxCondition {
		return nil, fmt.Errorf("the condition is longer than %d bytes", maxCondition)
	}
	checked, iss := env.Compile(text)
	if iss != nil && iss.Err() != nil {
		return nil, issues(iss)
	}
	if checked.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("the condition is of type %s, and must be true or false", checked.OutputType())
	}
	est, err := env.EstimateCost(checked, sizes{})
	if err != nil {
		return nil, fmt.Errorf("its cost cannot be estimated: %w", err)
	}
	if est.Max > maxCost {
		return nil, fmt.Errorf("the condition may cost %s steps, and %d are allowed; say it with fewer nested loops", steps(est.Max), maxCost)
	}
	prog, err := env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	if err != nil {
		return nil, err
	}
	return &condition{text: text, prog: prog}, nil
}

func steps(n uint64) string {
	if n > 1<<40 {
		return "any number of"
	}
	return fmt.Sprint(n)
}

// issues puts the compiler's findings into one line each.
func issues(iss *cel.Issues) error {
	var out []string
	for _, e := range iss.Errors() {
		msg := e.Message
		if name, ok := strings.CutPrefix(msg, "undeclared reference to '"); ok {
			name, _, _ = strings.Cut(name, "'")
			msg = fmt.Sprintf("there is no %s; known are %s", name, known(name))
		}
		msg, _, _ = strings.Cut(msg, "\n")
		at := fmt.Sprintf("%d:%d", e.Location.Line(), e.Location.Column()+1)
		if e.Location.Line() < 1 {
			at = "1:1"
		}
		if s := at + ": " + msg; !slices.Contains(out, s) && len(out) < 5 {
			out = append(out, s)
		}
	}
	return errors.New("the condition is not understood, at " + strings.Join(out, "; at "))
}

// known lists the names under the same word as one that is not known, or all.
func known(name string) string {
	word, _, _ := strings.Cut(name, ".")
	var same, all []string
	for _, v := range variables {
		all = append(all, v.Name)
		if strings.HasPrefix(v.Name, word+".") {
			same = append(same, v.Name)
		}
	}
	if len(same) > 0 {
		return strings.Join(same, ", ")
	}
	return strings.Join(all, ", ")
}

// sizes tells the estimator how large inputs commonly are. What is larger is bounded while the condition runs.
type sizes struct{}

func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	limit := uint64(0)
	path := n.Path()
	if len(path) == 0 {
		return nil
	}
	switch strings.Join(path, ".") {
	case "request.ports":
		limit = 64
	case "requester.groups", "requester.roles":
		limit = 64
	case "target.tags":
		limit = 50
	case "request.reason":
		limit = 500
	case "request.ticket":
		limit = 100
	default:
		if n.Type().Kind() != types.StringKind {
			return nil
		}
		limit = 256
	}
	return &cost.SizeEstimate{Min: 0, Max: limit}
}

// holds evaluates the condition. An error says why it could not be judged.
func (c *condition) holds(in *input) (bool, error) {
	v, _, err := c.prog.Eval(in)
	if err != nil {
		msg := err.Error()
		if strings.Contains(msg, "cost") && strings.Contains(msg, "limit") {
			msg = fmt.Sprintf("it takes more than %d steps", maxCost)
		}
		return false, errors.New(msg)
	}
	b, ok := v.(types.Bool)
	if !ok {
		return false, fmt.Errorf("it is %v, neither true nor false", v.Type())
	}
	return bool(b), nil
}

// input holds the values of the names for one target. It belongs to one decision.
type input struct {
	q      *query
	ports  ref.Val
	groups ref.Val
	roles  ref.Val
	tags   ref.Val
}

// Parent implements cel.Activation.
func (*input) Parent() cel.Activation { return nil }

// ResolveName implements cel.Activation.
func (in *input) ResolveName(name string) (any, bool) {
	q := in.q
	switch name {
	case "request.ports":
		if in.ports == nil {
			in.ports = portList(q.target.Ports)
		}
		return in.ports, true
	case "request.protocol":
		return types.String(q.target.Protocol), true
	case "request.source":
		return ext.CIDR{Prefix: q.ask.Terms.Source}, true
	case "request.duration":
		return types.Duration{Duration: q.ask.Terms.Duration}, true
	case "request.start":
		return types.Timestamp{Time: q.start}, true
	case "request.reason":
		return types.String(q.ask.Reason), true
	case "request.ticket":
		return types.String(q.ask.Ticket), true
	case "request.extension":
		return types.Bool(q.ask.Extension), true
	case "request.break_glass":
		return types.Bool(q.ask.BreakGlass), true
	case "requester.name":
		return types.String(q.who), true
	case "requester.groups":
		if in.groups == nil {
			var names []string
			for i, g := range q.set.groups {
				if q.member[i] {
					names = append(names, fold(g.name))
				}
			}
			in.groups = folded{types.NewStringList(types.DefaultTypeAdapter, names)}
		}
		return in.groups, true
	case "requester.roles":
		if in.roles == nil {
			var names []string
			for _, r := range q.ask.Roles {
				names = append(names, strings.ToLower(string(r)))
			}
			in.roles = folded{types.NewStringList(types.DefaultTypeAdapter, names)}
		}
		return in.roles, true
	case "target.name":
		return types.String(q.vm), true
	case "target.group":
		return types.String(q.group), true
	case "target.subscription":
		return types.String(q.sub), true
	case "target.tags":
		if q.ask.Tags == nil {
			return nil, false // not known: what depends on them cannot be judged
		}
		if in.tags == nil {
			in.tags = foldedMap{types.NewStringStringMap(types.DefaultTypeAdapter, q.tagMap()).(traits.Mapper)}
		}
		return in.tags, true
	case "target.os":
		return types.String(strings.ToLower(q.ask.OS)), true
	case "target.location":
		return types.String(strings.ToLower(q.ask.Location)), true
	case "now":
		return types.Timestamp{Time: q.now}, true
	}
	return nil, false
}

func portList(p access.Ports) ref.Val {
	out := make([]int64, 0, p.Count())
	for i := 0; i < p.Count(); i++ {
		out = append(out, int64(p.First)+int64(i))
	}
	return types.NewDynamicList(types.DefaultTypeAdapter, out)
}

// folded is a list of texts in lower case, in which a text is found in whatever case it is written.
type folded struct{ traits.Lister }

// Contains implements traits.Container.
func (l folded) Contains(v ref.Val) ref.Val {
	if s, ok := v.(types.String); ok {
		v = types.String(fold(string(s)))
	}
	return l.Lister.Contains(v)
}

// foldedMap is a map whose keys are in lower case, and are found in whatever case they are written.
type foldedMap struct{ traits.Mapper }

func foldKey(v ref.Val) ref.Val {
	if s, ok := v.(types.String); ok {
		return types.String(fold(string(s)))
	}
	return v
}

// Contains implements traits.Container.
func (m foldedMap) Contains(v ref.Val) ref.Val { return m.Mapper.Contains(foldKey(v)) }

// Find implements traits.Mapper.
func (m foldedMap) Find(v ref.Val) (ref.Val, bool) { return m.Mapper.Find(foldKey(v)) }

// Get implements traits.Indexer.
func (m foldedMap) Get(v ref.Val) ref.Val { return m.Mapper.Get(foldKey(v)) }

// ConvertToNative implements ref.Val.
func (m foldedMap) ConvertToNative(t reflect.Type) (any, error) { return m.Mapper.ConvertToNative(t) }

// tagMap returns the tags with their names in lower case.
func (q *query) tagMap() map[string]string {
	if q.tags == nil {
		q.tags = make(map[string]string, len(q.ask.Tags))
		for _, k := range slices.Sorted(maps.Keys(q.ask.Tags)) {
			q.tags[fold(k)] = q.ask.Tags[k]
		}
	}
	return q.tags
}

// query is what is asked about one target.
type query struct {
	set    *Set
	ask    *access.Ask
	now    time.Time
	target access.Target
	source netip.Prefix
	who    string // folded
	vm     string // folded; "" is not known
	group  string
	sub    string
	tags   map[string]string
	member []bool // of the set's groups
	start  time.Time
	end    time.Time
	in     input
	judged map[*rule]error // conditions that could not be judged
	unsure map[*rule]bool  // rules that are about a part of the target, or of which that is not known
	assume bool            // conditions of rules that permit hold, and of those that deny do not: for what is compared in general
}
