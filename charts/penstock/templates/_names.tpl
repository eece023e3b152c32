{{/* Names and labels that every object shares. */}}

{{- define "penstock.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "penstock.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "penstock.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Roles of the whole cluster carry the namespace too: two releases of one name must not share them. */}}
{{- define "penstock.clustername" -}}
{{- if eq .Release.Namespace (include "penstock.fullname" .) -}}
{{- include "penstock.fullname" . -}}
{{- else -}}
{{- printf "%s-%s" .Release.Namespace (include "penstock.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "penstock.serviceaccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "penstock.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is required where serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "penstock.selector" -}}
app.kubernetes.io/name: {{ include "penstock.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "penstock.labels" -}}
{{ include "penstock.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: penstock
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "penstock.image" -}}
{{- $repository := required "image.repository is required: the repository to which you pushed the image that `make images` builds" .Values.image.repository -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{- define "penstock.dataplaneImage" -}}
{{- $repository := default .Values.image.repository .Values.dataplane.image.repository -}}
{{- $tag := default (default .Chart.AppVersion .Values.image.tag) .Values.dataplane.image.tag -}}
{{- printf "%s:%s" $repository $tag -}}
{{- end -}}

{{/* The Secrets that the operator is given, by the volume that each is mounted as. Values that are kept from an earlier
     chart lack some of them. */}}
{{- define "penstock.secrets" -}}
{{- $all := dict
  "clickhouse-admin" .Values.clickhouse.adminSecret
  "clickhouse-ca" .Values.clickhouse.caSecret
  "clickhouse-consumer" .Values.clickhouse.consumerSecret
  "kafka-admin" (.Values.kafka.sasl).adminSecret
  "kafka-admin-cert" (.Values.kafka.tls).adminCertSecret
  "kafka-ca" (.Values.kafka.tls).caSecret
  "kafka-pod" (.Values.kafka.sasl).podSecret
  "kafka-pod-cert" (.Values.kafka.tls).podCertSecret
  "redis" .Values.redis.secret
  "redis-ca" (.Values.redis.tls).caSecret
-}}
{{- range $name, $secret := $all }}
{{- if $secret }}
{{ $name }}: {{ $secret | quote }}
{{- end }}
{{- end }}
{{- end }}
