// crdcheck answers, with the API server's own code, whether our CRDs are valid and what it would say to a document.
//
// Standard input: {"crds": [...], "documents": [...]}. Standard output: {"crds": [[message...]...],
// "documents": [[message...]...]}. A message is "field: sentence".
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
)

type question struct {
	CRDs      []v1.CustomResourceDefinition `json:"crds"`
	Documents []json.RawMessage             `json:"documents"`
}

type answer struct {
	CRDs      [][]string `json:"crds"`
	Documents [][]string `json:"documents"`
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
	result := answer{CRDs: [][]string{}, Documents: [][]string{}}
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
		document := map[string]any{}
		// The API server's own decoder: whole numbers become int64, not float64.
		if err := utiljson.Unmarshal(raw, &document); err != nil {
			fatal(err)
		}
		name, _ := document["kind"].(string)
		known, ok := kinds[name]
		if !ok {
			result.Documents = append(result.Documents, []string{"kind: no CRD of this kind"})
			continue
		}
		result.Documents = append(result.Documents, known.judge(document))
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

// judge follows the server's order on create with strict field validation: unknown fields, defaults, schema, rules.
func (k kind) judge(document map[string]any) []string {
	found := []string{}
	unknown := pruning.PruneWithOptions(document, k.structural, true, structuralschema.UnknownFieldPathOptions{
		TrackUnknownFieldPaths: true,
	})
	for _, path := range unknown {
		found = append(found, path+": unknown field")
	}
	defaulting.Default(document, k.structural)
	errors := servervalidation.ValidateCustomResource(nil, document, k.schema)
	errors = append(errors, listtype.ValidateListSetsAndMaps(nil, k.structural, document)...)
	broken, _ := k.rules.Validate(context.Background(), nil, k.structural, document, nil, celconfig.RuntimeCELCostBudget)
	return append(found, messages(append(errors, broken...))...)
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
