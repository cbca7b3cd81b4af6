// crdcheck answers, with the API server's own code, whether our CRDs are valid and what it would say to a document.
//
// Standard input: {"crds": [...], "documents": [...], "changes": [{"before": ..., "after": ...}...],
// "yaml": [text...]}. Standard output: {"crds": [[message...]...], "documents": [[message...]...],
// "changes": [[message...]...], "yaml": [text...]}. A message is "field: sentence", or just a sentence where the server
// names no field apart. Of YAML the answer is the JSON that kubectl makes of it, or "error: ...".
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	servervalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

type question struct {
	CRDs      []v1.CustomResourceDefinition `json:"crds"`
	Documents []json.RawMessage             `json:"documents"`
	Changes   []struct {
		Before json.RawMessage `json:"before"`
		After  json.RawMessage `json:"after"`
	} `json:"changes"`
	YAML []string `json:"yaml"`
}

type answer struct {
	CRDs      [][]string `json:"crds"`
	Documents [][]string `json:"documents"`
	Changes   [][]string `json:"changes"`
	YAML      []string   `json:"yaml"`
}

type kind struct {
	structural *structuralschema.Structural
	schema     servervalidation.SchemaValidator
	rules      *cel.Validator
}

func main() {
	var asked question
	decoder := json.NewDecoder(os.Stdin)
	if err := decoder.Decode(&asked); err != nil {
		fatal(err)
	}
	result := answer{CRDs: [][]string{}, Documents: [][]string{}, Changes: [][]string{}, YAML: []string{}}
	kinds := map[string]kind{}
	for i := range asked.CRDs {
		crd := &asked.CRDs[i]
		v1.SetDefaults_CustomResourceDefinition(crd)
		v1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
		internal := &apiextensions.CustomResourceDefinition{}
		if err := v1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(crd, internal, nil); err != nil {
			fatal(err)
		}
		// The API server fills this in before it validates.
		internal.Status.StoredVersions = []string{crd.Spec.Versions[0].Name}
		result.CRDs = append(result.CRDs, messages(validation.ValidateCustomResourceDefinition(context.Background(), internal)))
		known, err := newKind(crd)
		if err != nil {
			fatal(err)
		}
		kinds[crd.Spec.Names.Kind] = known
	}
	for _, raw := range asked.Documents {
		result.Documents = append(result.Documents, judge(kinds, raw, nil))
	}
	for _, text := range asked.YAML {
		made, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			made = []byte("error: " + err.Error())
		}
		result.YAML = append(result.YAML, string(made))
	}
	for _, change := range asked.Changes {
		result.Changes = append(result.Changes, judge(kinds, change.After, change.Before))
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		fatal(err)
	}
}

func newKind(crd *v1.CustomResourceDefinition) (kind, error) {
	internal := &apiextensions.JSONSchemaProps{}
	if err := v1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(
		crd.Spec.Versions[0].Schema.OpenAPIV3Schema, internal, nil); err != nil {
		return kind{}, err
	}
	structural, err := structuralschema.NewStructural(internal)
	if err != nil {
		return kind{}, err
	}
	validator, _, err := servervalidation.NewSchemaValidator(internal)
	if err != nil {
		return kind{}, err
	}
	return kind{structural, validator, cel.NewValidator(structural, true, celconfig.PerCallLimit)}, nil
}

// judge says what the server would to a document, or, where before is not nil, to a change of one that is stored.
func judge(kinds map[string]kind, raw, before json.RawMessage) []string {
	document := decode(raw)
	name, _ := document["kind"].(string)
	known, ok := kinds[name]
	if !ok {
		return []string{"kind: no CRD of this kind"}
	}
	var stored map[string]any
	if before != nil {
		stored = decode(before)
		defaulting.Default(stored, known.structural)
	}
	return known.judge(document, stored)
}

// decode is the API server's own decoder: whole numbers become int64, not float64.
func decode(raw json.RawMessage) map[string]any {
	document := map[string]any{}
	if err := utiljson.Unmarshal(raw, &document); err != nil {
		fatal(err)
	}
	return document
}

// judge follows the server's order with strict field validation: unknown fields, then defaults and schema, then rules;
// rules only where the schema's mistakes let them be read (hasBlockingErr in its customresource strategy).
func (k kind) judge(document, stored map[string]any) []string {
	found := []string{}
	unknown := pruning.PruneWithOptions(document, k.structural, true, structuralschema.UnknownFieldPathOptions{
		TrackUnknownFieldPaths: true,
	})
	for _, path := range unknown {
		found = append(found, fmt.Sprintf("unknown field %q", path))
	}
	if len(found) > 0 {
		return found
	}
	defaulting.Default(document, k.structural)
	errors := servervalidation.ValidateCustomResource(nil, document, k.schema)
	errors = append(errors, listtype.ValidateListSetsAndMaps(nil, k.structural, document)...)
	if !blocking(errors) {
		var old any
		if stored != nil {
			old = stored
		}
		broken, _ := k.rules.Validate(context.Background(), nil, k.structural, document, old, celconfig.RuntimeCELCostBudget)
		errors = append(errors, broken...)
	}
	return append(found, messages(errors)...)
}

func blocking(errors field.ErrorList) bool {
	for _, err := range errors {
		switch err.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany,
			field.ErrorTypeTypeInvalid:
			return true
		}
	}
	return false
}

func messages(errors field.ErrorList) []string {
	texts := []string{}
	for _, err := range errors {
		texts = append(texts, fmt.Sprintf("%s: %s", err.Field, strings.TrimSpace(err.ErrorBody())))
	}
	return texts
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "crdcheck:", err)
	os.Exit(1)
}
