{{/* What every pod of the chart has in common: the "restricted" Pod Security Standard, and where it may run. */}}
{{- define "costopt.podSettings" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "costopt.containerSettings" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
image: {{ if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ $tag }}{{ end }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* The scope as arguments of costopt-operator. */}}
{{- define "costopt.scopeArguments" -}}
{{- if eq .Values.rbac.scope "Namespaced" }}
{{- range .Values.rbac.namespaces }}
- --namespace={{ . }}
{{- end }}
{{- end }}
{{- end -}}
