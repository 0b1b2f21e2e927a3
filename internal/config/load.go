package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/curfew-jit/curfew/internal/access"
)

// maxFile bounds a configuration file; one of a thousand people is a fifth of it.
const maxFile = 1 << 20

// Sources are where a configuration comes from, besides the defaults.
type Sources struct {
	File   string                            // path; "" for none
	Getenv func(string) string               // nil: no environment
	Flags  map[string]string                 // by key, for example "listen": only those that were given
	Read   func(path string) ([]byte, error) // nil: from disk
}

// Load reads and checks a configuration. Its error names every fault, one a line, with the line of the file where there is one.
func Load(s Sources) (Config, error) {
	c := Default()
	c.sources = map[string]string{}
	var faults []fault
	var lines lineIndex
	whole := true // what was read can be judged
	if s.File != "" {
		read := s.Read
		if read == nil {
			read = readFile
		}
		b, err := read(s.File)
		if err != nil {
			return Config{}, access.Errorf(access.CodeInvalid, "the configuration %s cannot be read", s.File).
				WithHint("name the file with --config; docs/configuration.md holds one to begin with").Wrap(err)
		}
		faults, lines, whole = parse(b, &c)
	}
	for _, f := range settings {
		if s.Getenv != nil {
			if v := s.Getenv(f.env); v != "" {
				*f.at(&c), c.sources[f.key] = v, f.env
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.Flags)) {
		i := slices.IndexFunc(settings, func(f setting) bool { return f.key == key })
		if i < 0 {
			faults = append(faults, fault{text: key + " cannot be set by a flag"})
			continue
		}
		*settings[i].at(&c), c.sources[key] = s.Flags[key], "--"+strings.NewReplacer("_", "-", ".", "-").Replace(key)
	}
	if whole {
		faults = append(faults, check(&c, lines)...)
	}
	if len(faults) > 0 {
		return Config{}, report(s.File, faults)
	}
	return c, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("it is larger than %d bytes", maxFile)
	}
	return b, err
}

// fault is one thing that is wrong. Line 0 is unknown.
type fault struct {
	line int
	text string
}

func report(file string, faults []fault) error {
	slices.SortStableFunc(faults, func(a, b fault) int { return a.line - b.line })
	if file == "" {
		file = "configuration"
	}
	var out []string
	for _, f := range faults {
		at := file
		if f.line > 0 {
			at += ":" + strconv.Itoa(f.line)
		}
		if text := at + ": " + f.text; !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return access.Errorf(access.CodeInvalid, "the configuration is wrong:\n%s", strings.Join(out, "\n")).
		WithHint("every key is described in docs/configuration.md")
}

// parse reads one YAML document into c. It tells what is wrong with it, where each key stands, and whether so much was understood
// that the values can be judged.
func parse(b []byte, c *Config) (faults []fault, lines lineIndex, whole bool) {
	var doc yaml.Node
	l, err := yaml.NewLoader(bytes.NewReader(b), yaml.WithKnownFields(), yaml.WithUniqueKeys())
	if err != nil {
		return []fault{{text: plain(err)}}, nil, false
	}
	switch err := l.Load(&doc); {
	case errors.Is(err, io.EOF):
		return []fault{{text: "the file is empty"}}, nil, false
	case err != nil:
		return syntaxFaults(err), nil, false
	}
	var second yaml.Node
	if err := l.Load(&second); err == nil {
		return []fault{{line: second.Line, text: "a second document begins here, and it would not be read"}}, nil, false
	} else if !errors.Is(err, io.EOF) {
		return syntaxFaults(err), nil, false
	}
	lines = lineIndex{}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return []fault{{line: 1, text: "the file is not a mapping of keys to values"}}, nil, false
	}
	lines.add("", doc.Content[0])
	// Strictness belongs to the loader, so that the values are read from the bytes again.
	if err := yaml.Load(b, c, yaml.WithKnownFields(), yaml.WithUniqueKeys()); err != nil {
		faults = syntaxFaults(err)
	}
	return faults, lines, true
}

func syntaxFaults(err error) []fault {
	var many *yaml.LoadErrors
	if errors.As(err, &many) {
		var out []fault
		for _, e := range many.Errors {
			out = append(out, fault{line: e.Mark.Line, text: plainText(e.Message)})
		}
		return out
	}
	var one *yaml.LoadError
	if errors.As(err, &one) {
		return []fault{{line: one.Mark.Line, text: plainText(one.Message)}}
	}
	return []fault{{text: plain(err)}}
}

func plain(err error) string { return plainText(err.Error()) }

// plainText takes the words of the parser out of its messages.
func plainText(s string) string {
	if rest, ok := strings.CutPrefix(s, "field "); ok {
		if name, _, ok := strings.Cut(rest, " not found in type "); ok {
			return "there is no key " + name
		}
	}
	if rest, ok := strings.CutPrefix(s, "mapping key "); ok {
		return "the key " + rest
	}
	if rest, ok := strings.CutPrefix(s, "cannot construct "); ok {
		if what, into, ok := strings.Cut(rest, " into "); ok {
			return strings.TrimLeft(what, "!") + " cannot stand here: " + goKind(into)
		}
	}
	return s
}

func goKind(t string) string {
	switch {
	case strings.HasPrefix(t, "int"):
		return "a number is needed"
	case t == "bool":
		return "true or false is needed"
	case strings.HasPrefix(t, "[]"):
		return "a list is needed"
	case t == "string", t == "netip.Prefix", t == "access.Duration", t == "access.Ports", t == "access.Role":
		return "a text is needed"
	}
	return "a mapping is needed"
}

// lineIndex tells the line of each key, by its path: "people[1].roles[0]".
type lineIndex map[string]int

func (l lineIndex) add(path string, n *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			at := n.Content[i].Value
			if path != "" {
				at = path + "." + at
			}
			l[at] = n.Content[i].Line
			l.add(at, n.Content[i+1])
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			l[at] = item.Line
			l.add(at, item)
		}
	}
}

// of returns the line of a key or of the nearest thing around it that stands in the file.
func (l lineIndex) of(path string) int {
	for path != "" {
		if n, ok := l[path]; ok {
			return n
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 0
}
