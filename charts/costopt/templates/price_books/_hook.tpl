{{/*
A PriceBook cannot be an ordinary object of the release that brings its CustomResourceDefinition: at the first
installation the server does not know the kind yet, and a hook of its own would be deleted and created anew by every
upgrade, under the jobs that it prices. So a Job writes the books, in place, each time. They belong to the cluster
from then on and stay when the release goes, like the jobs whose bills they price. The argument is the weight.
*/}}
{{- define "costopt.priceBooksHook" -}}
helm.sh/hook: post-install,post-upgrade,post-rollback
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{- define "costopt.priceBook" -}}
apiVersion: costopt.dev/v1alpha1
kind: PriceBook
metadata:
  name: {{ .name }}
spec:
  {{- toYaml .spec | nindent 2 }}
{{- end -}}
