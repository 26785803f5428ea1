{{- define "llmops.fullname" -}}
{{- if contains "llmops" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-llmops" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "llmops.labels" -}}
{{ include "llmops.selector" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "llmops.selector" -}}
app.kubernetes.io/name: llmops
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* An image by digest, else by tag, else by the chart's version; under the global registry if it names none. */ -}}
{{- define "llmops.image" -}}
{{- $registry := .root.Values.global.imageRegistry -}}
{{- $name := .image.repository -}}
{{- if $registry }}{{ $name = printf "%s/%s" (trimSuffix "/" $registry) $name }}{{ end -}}
{{- if .image.digest }}{{ printf "%s@%s" $name .image.digest }}{{ else }}{{ printf "%s:%s" $name (.image.tag | default .root.Chart.AppVersion) }}{{ end -}}
{{- end }}

{{- /* A profile's image: a plain string, under the global registry if it names none. */ -}}
{{- define "llmops.profileImage" -}}
{{- $registry := .root.Values.global.imageRegistry -}}
{{- $name := .image -}}
{{- $first := first (splitList "/" $name) -}}
{{- $hosted := and (contains "/" $name) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) -}}
{{- if and $registry (not $hosted) }}{{ printf "%s/%s" (trimSuffix "/" $registry) $name }}{{ else }}{{ $name }}{{ end -}}
{{- end }}

{{- define "llmops.serviceMonitors" -}}
{{- $wish := .Values.metrics.serviceMonitor.enabled -}}
{{- if or (eq $wish "Always") (and (eq $wish "Auto") (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/ServiceMonitor")) }}true{{ end -}}
{{- end }}

{{- /* For a Prometheus that finds pods by annotations; with ServiceMonitors it would count everything twice. */ -}}
{{- define "llmops.scrape" -}}
{{- if not (include "llmops.serviceMonitors" .root) }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | quote }}
prometheus.io/path: /metrics
{{- end }}
{{- end }}

{{- define "llmops.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "llmops.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "llmops.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "llmops.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The operator's configuration file. */ -}}
{{- define "llmops.config" -}}
{{- $root := . -}}
{{- $profiles := dict -}}
{{- range $name, $profile := .Values.profiles -}}
{{- if $profile -}}
{{- $image := include "llmops.profileImage" (dict "root" $root "image" $profile.image) -}}
{{- $_ := set $profiles $name (merge (dict "image" $image) $profile) -}}
{{- end -}}
{{- end -}}
{{- $sources := dict "allowPrivateNetworks" .Values.sources.allowPrivateNetworks -}}
{{- with .Values.sources.huggingFaceEndpoint }}{{ $_ := set $sources "huggingFaceEndpoint" . }}{{ end -}}
{{- with .Values.sources.s3Endpoint }}{{ $_ := set $sources "s3Endpoint" . }}{{ end -}}
{{- $images := dict "jobs" (include "llmops.image" (dict "root" . "image" .Values.serving.image)) "trainer" (include "llmops.image" (dict "root" . "image" .Values.trainer.image)) "pullPolicy" .Values.imagePullPolicy "pullSecrets" .Values.global.imagePullSecrets -}}
{{- $prometheus := dict -}}
{{- with .Values.metrics.prometheus.url }}{{ $_ := set $prometheus "url" . }}{{ end -}}
{{- with .Values.metrics.prometheus.secretName }}{{ $_ := set $prometheus "credentials" "/etc/llmops-prometheus" }}{{ end -}}
{{- $tracing := dict -}}
{{- with .Values.tracing.endpoint }}{{ $_ := set $tracing "endpoint" . }}{{ end -}}
{{- with .Values.tracing.namespace }}{{ $_ := set $tracing "namespace" . }}{{ end -}}
{{- $labels := include "llmops.selector" (dict "root" . "component" "gateway") | fromYaml -}}
{{- $gateway := dict "namespace" .Release.Namespace "service" (printf "%s-gateway" (include "llmops.fullname" .)) "labels" $labels -}}
{{- dict "images" $images "gateway" $gateway "profiles" $profiles "sources" $sources "namespaces" .Values.namespaces "metricsNamespaces" .Values.metrics.namespaces "logLevel" .Values.operator.logLevel "runbooks" .Values.metrics.rules.runbooks "prometheus" $prometheus "tracing" $tracing | toYaml -}}
{{- end }}
