{{/*
Before the deletion, so that nothing is removed if this fails; and after it, for pods that the operator, which was still
running, has started in between. The argument is the weight: what weighs less is created first.
*/}}
{{- define "costopt.uninstallHook" -}}
helm.sh/hook: pre-delete,post-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
