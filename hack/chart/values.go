// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value is one value of the chart, or a group of them.
type value struct {
	path, comment string
	node          *yaml.Node
	children      []*value
}

// constraints say what the type of a default does not. A path that has any is a value,
// never a group.
var constraints = map[string]map[string]any{
	"image.repository":             reference,
	"image.tag":                    tag,
	"image.digest":                 digest,
	"image.pullPolicy":             pullPolicy,
	"imagePullSecrets":             list(map[string]any{"type": "object", "required": []string{"name"}, "additionalProperties": false, "properties": map[string]any{"name": text}}),
	"smolvm.image.repository":      reference,
	"smolvm.image.tag":             {"type": "string", "pattern": tag["pattern"], "minLength": 1},
	"smolvm.image.digest":          digest,
	"smolvm.image.pullPolicy":      pullPolicy,
	"bundle.allowedImages":         list(map[string]any{"type": "string", "pattern": "^[^\\s,{}]+$"}),
	"manager.replicas":             {"type": "integer", "minimum": 1},
	"manager.args":                 flags,
	"manager.podLabels":            stringMap,
	"manager.podAnnotations":       stringMap,
	"manager.nodeSelector":         stringMap,
	"manager.tolerations":          tolerations,
	"manager.affinity":             affinity,
	"manager.resources":            resources,
	"agent.egressClosed":           list(map[string]any{"type": "string", "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$"}),
	"agent.args":                   flags,
	"agent.podLabels":              stringMap,
	"agent.podAnnotations":         stringMap,
	"agent.nodeSelector":           stringMap,
	"agent.tolerations":            tolerations,
	"agent.affinity":               affinity,
	"agent.maxUnavailable":         {"oneOf": []any{map[string]any{"type": "integer", "minimum": 1}, map[string]any{"type": "string", "pattern": "^[1-9][0-9]?%$|^100%$"}}},
	"agent.resources":              resources,
	"networkPolicy.apiServerPorts": {"type": "array", "minItems": 1, "items": map[string]any{"type": "integer", "minimum": 1, "maximum": 65535}},
	"serviceMonitor.labels":        stringMap,
	"serviceMonitor.interval":      duration,
	"podMonitor.labels":            stringMap,
	"podMonitor.interval":          duration,
}

var (
	text        = map[string]any{"type": "string", "minLength": 1}
	reference   = map[string]any{"type": "string", "pattern": "^[^\\s@]+$"}
	tag         = map[string]any{"type": "string", "pattern": "^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$"}
	digest      = map[string]any{"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
	pullPolicy  = map[string]any{"type": "string", "enum": []string{"Always", "IfNotPresent", "Never"}}
	flags       = list(map[string]any{"type": "string", "pattern": "^--?[a-z]"})
	stringMap   = map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "string"}}
	duration    = map[string]any{"type": "string", "pattern": "^([0-9]+(ms|s|m|h))*$"}
	affinity    = object("nodeAffinity", map[string]any{"type": "object"}, "podAffinity", map[string]any{"type": "object"}, "podAntiAffinity", map[string]any{"type": "object"})
	tolerations = list(object(
		"key", map[string]any{"type": "string"},
		"operator", map[string]any{"type": "string", "enum": []string{"Exists", "Equal", "Lt", "Gt"}},
		"value", map[string]any{"type": "string"},
		"effect", map[string]any{"type": "string", "enum": []string{"", "NoSchedule", "PreferNoSchedule", "NoExecute"}},
		"tolerationSeconds", map[string]any{"type": "integer"}))
	quantities = map[string]any{"type": "object", "additionalProperties": map[string]any{"type": []string{"string", "number"}}}
	resources  = object("requests", quantities, "limits", quantities)
)

// list returns the schema of a list.
func list(items map[string]any) map[string]any {
	return map[string]any{"type": "array", "items": items}
}

// object returns the schema of an object that has these fields, given as names and
// schemas, and no others.
func object(fields ...any) map[string]any {
	properties := map[string]any{}
	for i := 0; i+1 < len(fields); i += 2 {
		name, _ := fields[i].(string)
		properties[name] = fields[i+1]
	}
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
}

// readValues reads a file of values and checks that each has a comment.
func readValues(name string) (*value, error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	document := &yaml.Node{}
	if err := yaml.Unmarshal(content, document); err != nil {
		return nil, err
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s: want one map", name)
	}
	root := &value{node: document.Content[0]}
	if err := root.addChildren(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	known := map[string]bool{}
	for _, v := range root.leaves() {
		known[v.path] = true
	}
	for _, path := range slices.Sorted(maps.Keys(constraints)) {
		if !known[path] {
			return nil, fmt.Errorf("%s: want the value %s, which has constraints", name, path)
		}
	}
	return root, nil
}

// addChildren reads the values of a group.
func (v *value) addChildren() error {
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		key, node := v.node.Content[i], v.node.Content[i+1]
		child := &value{path: strings.TrimPrefix(v.path+"."+key.Value, "."), node: node, comment: plain(key.HeadComment)}
		v.children = append(v.children, child)
		if _, constrained := constraints[child.path]; node.Kind == yaml.MappingNode && !constrained {
			if err := child.addChildren(); err != nil {
				return err
			}
			continue
		}
		if child.comment == "" {
			return fmt.Errorf("%s has no comment", child.path)
		}
	}
	if len(v.children) == 0 {
		return fmt.Errorf("%s is empty: say in hack/chart what it may hold", v.path)
	}
	return nil
}

// plain returns a comment as one line, without what belongs to an earlier paragraph.
func plain(comment string) string {
	if i := strings.LastIndex(comment, "\n\n"); i >= 0 {
		comment = comment[i+2:]
	}
	var words []string
	for line := range strings.Lines(comment) {
		words = append(words, strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "#"))...)
	}
	return strings.Join(words, " ")
}

// leaves returns all values of a group and of the groups in it.
func (v *value) leaves() []*value {
	if len(v.children) == 0 {
		return []*value{v}
	}
	var out []*value
	for _, child := range v.children {
		out = append(out, child.leaves()...)
	}
	return out
}

// schema returns the JSON Schema of all values.
func (v *value) schema() ([]byte, error) {
	root, err := v.property()
	if err != nil {
		return nil, err
	}
	root["$schema"] = "https://json-schema.org/draft-07/schema#"
	properties, _ := root["properties"].(map[string]any)
	// Helm adds it to the values of a chart that another chart depends on.
	properties["global"] = map[string]any{"type": "object"}
	out, err := json.MarshalIndent(root, "", "  ")
	return append(out, '\n'), err
}

// property returns the schema of one value or group.
func (v *value) property() (map[string]any, error) {
	if len(v.children) > 0 {
		properties := map[string]any{}
		for _, child := range v.children {
			property, err := child.property()
			if err != nil {
				return nil, err
			}
			properties[child.path[strings.LastIndex(child.path, ".")+1:]] = property
		}
		return map[string]any{"type": "object", "additionalProperties": false, "properties": properties}, nil
	}
	out := map[string]any{"description": v.comment}
	if c, constrained := constraints[v.path]; constrained {
		maps.Copy(out, c)
		return out, nil
	}
	types := map[string]string{"!!bool": "boolean", "!!str": "string"}
	if types[v.node.Tag] == "" {
		return nil, fmt.Errorf("%s: say in hack/chart what it may hold", v.path)
	}
	out["type"] = types[v.node.Tag]
	return out, nil
}

// table returns the values as the rows of a Markdown table.
func (v *value) table() string {
	out := "| value | default | meaning |\n|---|---|---|\n"
	for _, leaf := range v.leaves() {
		var standard any
		text := ""
		if err := leaf.node.Decode(&standard); err == nil {
			if encoded, err := json.Marshal(standard); err == nil {
				text = string(encoded)
			}
		}
		out += fmt.Sprintf("| `%s` | `%s` | %s |\n", leaf.path, text, strings.ReplaceAll(leaf.comment, "|", "\\|"))
	}
	return out
}
