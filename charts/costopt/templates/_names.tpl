{{/* Beginning of all names: the release's, with the chart's in it. */}}
{{- define "costopt.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "costopt.operatorName" -}}
{{ include "costopt.fullname" . }}-operator
{{- end -}}

{{- define "costopt.releaseFinalizersName" -}}
{{ include "costopt.fullname" . }}-release-finalizers
{{- end -}}

{{- define "costopt.priceBooksName" -}}
{{ include "costopt.fullname" . }}-price-books
{{- end -}}

{{/* A name for a cluster-scoped object that two namespaced releases of one name must not share. */}}
{{- define "costopt.clusterWideName" -}}
{{- if eq .Values.rbac.scope "Cluster" -}}
{{ include "costopt.operatorName" . }}
{{- else -}}
{{ printf "%s-%s" .Release.Namespace (include "costopt.operatorName" .) }}
{{- end -}}
{{- end -}}

{{- define "costopt.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "costopt.operatorName" .) -}}
{{- end -}}

{{- define "costopt.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* What finds the operator's pods; a Deployment's selector can never change. */}}
{{- define "costopt.operatorSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}
