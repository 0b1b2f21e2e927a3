package scan

// Rule is one rule as data. What decides is in the judge; everything that is told of a rule is here.
type Rule struct {
	ID       RuleID
	Severity Severity
	Title    string // what is wrong when it fails
	Fails    string // when it fails, in one sentence
	Risk     string // why that matters
	// Policies are ids of Azure's built-in policy definitions that ask for the same; compliance controls come from them. FACTS 1.7.
	Policies []string
	// Fixable tells whether curfew fix can put it right.
	Fixable bool
}

// The built-in policy definitions that ask for what rules ask for. FACTS 1.7.
const (
	policyJIT             = "b0f33259-77d7-4c9e-aac6-3aabcfae693c"
	policyManagementPorts = "22730e10-96f6-4aac-ad84-9383d35b5917"
	policyInternetNSG     = "f6de0be7-9a8a-4b8a-b349-43cf02d22f7c"
	policyInternalNSG     = "bb91dfba-c30d-4263-9add-9c2384e659a6"
)

// Rules are all rules, in the order in which they are told.
var Rules = []Rule{
	{VMPortExposed, High, "Management port open to the Internet",
		"a management port of a machine is reachable from more of the public Internet than a /8 of IPv4 or a /16 of IPv6, or from a tag that any tenant can send from",
		"Whoever scans the Internet finds it within minutes, and tries passwords and exploits on it without end.", []string{policyManagementPorts}, true},
	{VMJITMissing, High, "No just-in-time access",
		"a machine has neither a Defender just-in-time policy nor Curfew's protection on a management port in use",
		"The port stands open, or may be opened for good, to everybody whom the rules let in; nobody has to ask, and nothing ends.", []string{policyJIT}, true},
	{VMJITIneffective, High, "Just-in-time access is bypassed",
		"just-in-time access is switched on for a port that is reachable without a request",
		"A rule before the one that should deny lets traffic in: the protection is believed and not there.", []string{policyJIT, policyManagementPorts}, true},
	{VMNoNSG, Medium, "No network security group",
		"neither the network interface nor its subnet has a network security group",
		"Nothing stands between the machine and its network; with a Basic public address, nothing between it and the Internet.", []string{policyInternetNSG, policyInternalNSG}, true},
	{VMSSTerminateOff, Medium, "Termination is not announced",
		"a scale set does not announce the termination of instances (Scheduled Events), announces it outside 5 to 15 minutes, or instances are not on the model that does",
		"Instances vanish without a word to what runs on them: connections break, work is lost.", nil, true},
	{VMSSTerminateShort, Low, "Termination is announced too late",
		"termination is announced later than the configured least time before it happens",
		"What runs on an instance may need longer to finish than it is given.", nil, true},
	{JITPolicyBroad, Medium, "Just-in-time policy is broad",
		"a Defender just-in-time policy lets any source ask, or for longer than the configured limit",
		"A request opens the port to everybody, or for so long that it is hardly just in time.", nil, false},
	{NSGRuleBroad, Low, "Rule lets the Internet at a management port",
		"a network security group by its own rules lets the Internet at a management port, attached to anything or not",
		"It is harmless only as long as nothing with a public path is put behind it.", nil, true},
	{RuleOverdue, Critical, "Temporary rule past its end",
		"an allow rule that Curfew or Defender wrote for a limited time still stands after its end",
		"Access that was approved for a time goes on without anybody's approval.", nil, true},
	{RuleOrphaned, Medium, "Rule without an owner",
		"a rule that Curfew wrote names a machine, an address or a grant that is gone",
		"If its address is given to another machine, the rule holds for that one.", nil, true},
}

// RuleOf returns the rule of an id, false when there is none.
func RuleOf(id RuleID) (Rule, bool) {
	for _, r := range Rules {
		if r.ID == id {
			return r, true
		}
	}
	return Rule{}, false
}
