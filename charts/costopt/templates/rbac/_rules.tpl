{{/* What the operator does to objects of a namespace. The same in a ClusterRole and in a Role. Never secrets. */}}
{{- define "costopt.operatorRules" -}}
- apiGroups: [costopt.dev]
  resources: [costoptjobs]
  verbs: [get, list, watch, delete] # delete: ttlSecondsAfterFinished
- apiGroups: [costopt.dev]
  resources: [costoptjobs/status]
  verbs: [update]
- apiGroups: [costopt.dev]
  resources: [costoptjobs/finalizers]
  verbs: [update] # to be the owner that blocks its children's deletion, where the server checks that
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch, delete] # patch: our finalizer; delete: of a broken gang, and by force
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get] # progress, and the tail of what failed
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, update] # update: settings of a gang that a queue admits again
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, create]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create]
- apiGroups: [scheduling.k8s.io]
  resources: [workloads, podgroups]
  verbs: [get, create] # gangs placed whole, where the server offers that
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* What kind of node a pod ran on decides its price. */}}
{{- define "costopt.nodeRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [get]
{{- end -}}

{{- define "costopt.operatorSubject" -}}
- kind: ServiceAccount
  name: {{ include "costopt.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}
