{{/* Whether the release has the policy. Each server that the chart is for knows the kind. */}}
{{- define "costopt.hasAdmissionPolicy" -}}
{{- if .Values.admissionPolicy.enabled -}}
true
{{- end -}}
{{- end -}}

{{/* Variables in CEL with the marks of one metadata as a list of texts. Takes a list: their name, and that metadata. */}}
{{- define "costopt.marks" -}}
{{- $name := index . 0 }}
{{- $metadata := index . 1 }}
{{- range list "labels" "annotations" }}
- name: {{ $name }}{{ title . }}
  expression: 'has({{ $metadata }}.{{ . }}) ? {{ $metadata }}.{{ . }} : {}'
{{- end }}
- name: {{ $name }}
  expression: >-
    variables.{{ $name }}Labels.filter(key, key.startsWith('costopt.dev/') ||
    (key == 'app.kubernetes.io/managed-by' && variables.{{ $name }}Labels[key] == 'costopt'))
    .map(key, 'label ' + key + '=' + variables.{{ $name }}Labels[key]) +
    variables.{{ $name }}Annotations.filter(key, key.startsWith('costopt.dev/'))
    .map(key, 'annotation ' + key + '=' + variables.{{ $name }}Annotations[key]) +
    (has({{ $metadata }}.finalizers) ? {{ $metadata }}.finalizers : [])
    .filter(key, key.startsWith('costopt.dev/')).map(key, 'finalizer ' + key)
{{- end -}}
