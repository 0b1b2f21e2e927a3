package policy

import (
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/curfew-jit/curfew/internal/access"
)

// group is a compiled Group.
type group struct {
	name     string
	open     bool  // somebody's token may put them into it, so that who is in it is not known beforehand
	belongs  []int // this group and all that include it, directly or not
	includes []int
	direct   []string // members as written, those of included groups not among them
}

// compileGroups resolves the groups; cycles, unknown names and names that differ in case alone are faults.
func (s *Set) compileGroups(d Document) (faults Faults) {
	s.groupByName, s.byPerson, s.byClaim = map[string]int{}, map[string][]int{}, map[string][]int{}
	names := slices.Sorted(maps.Keys(d.Groups))
	for _, name := range names {
		g := d.Groups[name]
		at := func(format string, args ...any) {
			faults = append(faults, g.marks.fault("", "", "group "+clip(name)+": "+format, args...))
		}
		switch {
		case strings.TrimSpace(name) == "" || strings.TrimSpace(name) != name || len(name) > 100 || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
			at("its name must be up to 100 printable bytes without blanks around it")
		case len(name) >= len(access.GroupPrefix) && strings.EqualFold(name[:len(access.GroupPrefix)], access.GroupPrefix):
			at("the name is written without %s here", access.GroupPrefix)
		}
		if i, ok := s.groupByName[fold(name)]; ok {
			at("it is another spelling of group %s: names are compared without case", s.groups[i].name)
			continue
		}
		s.groupByName[fold(name)] = len(s.groups)
		s.groups = append(s.groups, group{name: name, direct: g.Members})
	}
	for _, name := range names {
		g := d.Groups[name]
		i := s.groupByName[fold(name)]
		s.groups[i].open = len(g.Claims) > 0
		for _, m := range g.Members {
			switch {
			case fold(m) == "":
				faults = append(faults, g.marks.fault("members", "", "group %s: members holds an empty entry, which would be nobody", name))
			case isGroup(m):
				faults = append(faults, g.marks.fault("members", "", "group %s: members are people; name %s under includes, without %s", name, clip(m), access.GroupPrefix))
			default:
				s.byPerson[fold(m)] = append(s.byPerson[fold(m)], i)
			}
		}
		for _, c := range g.Claims {
			if fold(c) == "" {
				faults = append(faults, g.marks.fault("claims", "", "group %s: claims holds an empty entry", name))
				continue
			}
			s.byClaim[fold(c)] = append(s.byClaim[fold(c)], i)
		}
		for _, o := range g.Includes {
			bare := o
			if isGroup(o) {
				bare = o[len(access.GroupPrefix):]
			}
			j, ok := s.groupByName[fold(bare)]
			if !ok {
				faults = append(faults, g.marks.fault("includes", "", "group %s includes %s, and there is no such group%s", name, clip(o), near(bare, names)))
				continue
			}
			s.groups[i].includes = append(s.groups[i].includes, j)
		}
	}
	faults = append(faults, s.cycles(d)...)
	if len(faults) > 0 {
		return faults
	}
	for i := range s.groups { // who is in i is in every group that reaches i by includes
		for j := range s.groups {
			if i == j || s.reaches(j, i, make([]bool, len(s.groups))) {
				s.groups[i].belongs = append(s.groups[i].belongs, j)
				s.groups[j].open = s.groups[j].open || s.groups[i].open
			}
		}
	}
	return nil
}

func (s *Set) reaches(from, to int, seen []bool) bool {
	for _, i := range s.groups[from].includes {
		if i == to {
			return true
		}
		if !seen[i] {
			seen[i] = true
			if s.reaches(i, to, seen) {
				return true
			}
		}
	}
	return false
}

// cycles reports each ring of includes once.
func (s *Set) cycles(d Document) (faults Faults) {
	state := make([]int, len(s.groups)) // 1: on the way, 2: done
	var way []int
	var visit func(i int)
	visit = func(i int) {
		if len(way) > 1000 {
			return
		}
		state[i] = 1
		way = append(way, i)
		for _, j := range s.groups[i].includes {
			switch state[j] {
			case 0:
				visit(j)
			case 1:
				var ring []string
				for _, k := range way[slices.Index(way, j):] {
					ring = append(ring, s.groups[k].name)
				}
				ring = append(ring, s.groups[j].name)
				g := d.Groups[s.groups[i].name]
				faults = append(faults, g.marks.fault("includes", "", "groups include one another in a ring: %s", strings.Join(ring, " includes ")))
			}
		}
		way = way[:len(way)-1]
		state[i] = 2
	}
	for i := range s.groups {
		if state[i] == 0 {
			visit(i)
		}
	}
	return faults
}

func isGroup(s string) bool {
	return len(s) > len(access.GroupPrefix) && strings.EqualFold(s[:len(access.GroupPrefix)], access.GroupPrefix)
}

// near names the known name that is nearest to one that is not.
func near(name string, names []string) string {
	known := map[string]int{}
	for _, n := range names {
		known[fold(n)] = 0
	}
	return meant(name, known)
}

// members returns in which groups somebody is: those that are named, those whose members they are among, and what includes these.
func (s *Set) members(who string, named []string) []bool {
	if len(s.groups) == 0 {
		return nil
	}
	out := make([]bool, len(s.groups))
	s.join(out, s.byPerson[who])
	for _, n := range named {
		if i, ok := s.groupByName[fold(n)]; ok {
			s.join(out, []int{i})
		}
	}
	return out
}

func (s *Set) join(out []bool, groups []int) {
	for _, i := range groups {
		for _, j := range s.groups[i].belongs {
			out[j] = true
		}
	}
}

// GroupsOf returns the names of the policy's groups that the caller is in, sorted: by their name, or by what the issuer of their token
// says of them.
func (s *Set) GroupsOf(c access.Caller) []string {
	in := s.members(fold(c.Name), nil)
	for _, claim := range c.Groups {
		s.join(in, s.byClaim[fold(claim)])
	}
	var out []string
	for i, ok := range in {
		if ok {
			out = append(out, s.groups[i].name)
		}
	}
	return out
}

// people is a compiled list of people and groups. The zero value lists nobody.
type people struct {
	names  []string // folded
	many   map[string]struct{}
	groups []int
}

func (p *people) lists(who string, member []bool) bool {
	for _, g := range p.groups {
		if member[g] {
			return true
		}
	}
	if p.many != nil {
		_, ok := p.many[who]
		return ok
	}
	for _, n := range p.names {
		if n == who {
			return true
		}
	}
	return false
}

// compilePeople reads a list of people. An empty entry and a group that there is not are faults.
func (s *Set) compilePeople(list []string, bad func(format string, args ...any)) people {
	var p people
	for _, n := range list {
		switch {
		case fold(n) == "" || fold(n) == access.GroupPrefix:
			bad("holds an empty entry, which would match nothing")
		case isGroup(n):
			i, ok := s.groupByName[fold(n[len(access.GroupPrefix):])]
			if !ok {
				var names []string
				for _, g := range s.groups {
					names = append(names, g.name)
				}
				bad("names %s, and there is no such group under groups%s", clip(n), near(n[len(access.GroupPrefix):], names))
				continue
			}
			p.groups = append(p.groups, i)
		default:
			p.names = append(p.names, fold(n))
		}
	}
	if len(p.names) > 8 {
		p.many = make(map[string]struct{}, len(p.names))
		for _, n := range p.names {
			p.many[n] = struct{}{}
		}
	}
	return p
}
