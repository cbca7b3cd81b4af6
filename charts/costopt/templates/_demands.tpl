{{/* Demands on several settings at once, which values.schema.json cannot put into a sentence. */}}
{{- define "costopt.demands" -}}
{{- if and (eq .Values.rbac.scope "Cluster") .Values.rbac.namespaces -}}
{{- fail "rbac.namespaces needs rbac.scope=Namespaced; with scope Cluster the operator runs the jobs of all namespaces" -}}
{{- end -}}
{{- if and (eq .Values.rbac.scope "Namespaced") (not .Values.rbac.namespaces) -}}
{{- fail "rbac.scope=Namespaced needs rbac.namespaces, whose jobs are run; rather not the operator's own, where a job's pods could use its service account" -}}
{{- end -}}
{{- if and (not .Values.leaderElection.enabled) (gt (int .Values.replicas) 1) -}}
{{- fail "leaderElection.enabled=false needs replicas=1: of several pods only the elected one may act" -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create=false needs serviceAccount.name, the account the operator is to use" -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.enabled) -}}
{{- fail "metrics.serviceMonitor.enabled needs metrics.enabled=true: else there is nothing to read" -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.metricsFrom) -}}
{{- fail "metrics.serviceMonitor.enabled needs networkPolicy.metricsFrom, who may read metrics; empty means nobody" -}}
{{- end -}}
{{- end -}}
