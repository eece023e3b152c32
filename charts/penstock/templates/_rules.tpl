{{/*
What the operator may do, by concern: a ClusterRole each, or a Role in each watched namespace. Server-side apply is
`create` for an object that is not there and `patch` for one that is. The operator grants nobody a right, so `escalate`
and `bind` appear nowhere.
*/}}

{{- define "penstock.rules.resources" -}}
# Read what people ask for. patch: the finalizer, which is there only while deletionPolicy is Delete.
- apiGroups: [penstock.dev]
  resources: [apps, ingestionpipelines]
  verbs: [get, list, watch, patch]
# Say what became of it. The specification is never written.
- apiGroups: [penstock.dev]
  resources: [apps/status, ingestionpipelines/status]
  verbs: [patch]
{{- end -}}

{{- define "penstock.rules.workloads" -}}
# What a pipeline is made of. delete: parts that a changed specification no longer has.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts, configmaps]
  verbs: [get, list, watch, create, patch, delete]
{{- end -}}

{{- define "penstock.rules.secrets" -}}
# get: keys and credentials that an App or a pipeline names. list, watch: metadata only, to notice a change or a loss.
# create, patch, delete: generated keys and the consumers' ClickHouse credentials.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
{{- end -}}

{{- define "penstock.rules.pods" -}}
# Touch an annotation of the ingest pods when the list of Apps changes: kubelet then renews the mounted list at once,
# not within a minute.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, patch]
{{- end -}}

{{- define "penstock.rules.events" -}}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- define "penstock.rules.lease" -}}
# create cannot be limited to a name.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [penstock-operator]
  verbs: [get, update]
{{- end -}}
