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
# What a pipeline is made of. Watched, so that what someone changes comes back; read before the first write, so that an
# object of someone else is not taken over. Kubernetes itself deletes the parts of a pipeline that is gone.
- apiGroups: [""]
  resources: [services, serviceaccounts, configmaps]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
# delete: with deletionPolicy Delete the consumers go before their topic does; and ingest is a StatefulSet with a spool
# and a Deployment without one, of which the one that is not needed any more goes.
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# Claims of spools are made by their StatefulSet. delete: one that no pod has any more, once its events are in Kafka, and
# with deletionPolicy Delete all of them. list, watch: to notice those.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, watch, delete]
# The Jobs that bring events of such claims to Kafka. They are never changed, so there is no patch.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch, create, delete]
{{- end -}}

{{- define "penstock.rules.secrets" -}}
# get: keys that an App names. list, watch: metadata only, to notice a change or a loss. create: generated keys.
# patch: what pods log in with. delete: a generated key, or what pods logged in with, that is no longer needed.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
{{- end -}}

{{- define "penstock.rules.pods" -}}
# patch: touch an annotation of the ingest pods when the list of Apps changes, for kubelet then renews the mounted list
# at once, not within a minute. list: which pods those are, where they say what their spools hold, which claims they
# have, and whether consumers are gone before their topic is deleted.
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
