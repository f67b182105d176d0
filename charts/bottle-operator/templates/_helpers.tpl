{{/*
The objects come from files/, which "make generate" copies from config/. These templates
only put the release's namespace, Helm's labels and the values into them.
*/}}

{{- define "bottle-operator.labels" -}}
app.kubernetes.io/name: bottle-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{- end }}

{{/* Prints an object, in the release's namespace and with Helm's labels. */}}
{{- define "bottle-operator.object" -}}
{{- $object := .object }}
{{- $namespace := .root.Release.Namespace }}
{{- $labels := include "bottle-operator.labels" .root | fromYaml }}
{{- $_ := set $object.metadata "labels" (merge (dict) ($object.metadata.labels | default dict) $labels) }}
{{- if $object.metadata.namespace }}
{{- $_ := set $object.metadata "namespace" $namespace }}
{{- end }}
{{- range $object.subjects }}
{{- if .namespace }}
{{- $_ := set . "namespace" $namespace }}
{{- end }}
{{- end }}
{{- if eq $object.kind "APIService" }}
{{- $_ := set $object.spec.service "namespace" $namespace }}
{{- end }}
---
{{ toYaml $object }}
{{ end }}

{{/* Prints all objects of a file. */}}
{{- define "bottle-operator.file" -}}
{{- $root := .root }}
{{- range splitList "\n---\n" (.root.Files.Get .file) }}
{{- include "bottle-operator.object" (dict "root" $root "object" (fromYaml .)) }}
{{- end }}
{{- end }}

{{/* Prints the reference of an image. */}}
{{- define "bottle-operator.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .tag }}
{{- end }}
{{- end }}

{{/* Puts what both workloads have in common into a Pod template: images, labels, places. */}}
{{- define "bottle-operator.pod" -}}
{{- $root := .root }}
{{- $values := .values }}
{{- $spec := .template.spec }}
{{- $_ := set .template.metadata "labels" (merge (dict) .template.metadata.labels $values.podLabels) }}
{{- $_ := set .template.metadata "annotations" (merge (dict) $values.podAnnotations .template.metadata.annotations) }}
{{- range concat ($spec.initContainers | default list) $spec.containers }}
{{- $image := $root.Values.image }}
{{- if eq .name "smolvm" }}
{{- $image = $root.Values.smolvm.image }}
{{- end }}
{{- $_ := set . "image" (include "bottle-operator.image" (dict "image" $image "tag" $root.Chart.AppVersion)) }}
{{- $_ := set . "imagePullPolicy" $image.pullPolicy }}
{{- end }}
{{- $container := first $spec.containers }}
{{- $_ := set $container "resources" $values.resources }}
{{- with $root.Values.imagePullSecrets }}
{{- $_ := set $spec "imagePullSecrets" . }}
{{- end }}
{{- with $values.nodeSelector }}
{{- $_ := set $spec "nodeSelector" (merge (dict) . ($spec.nodeSelector | default dict)) }}
{{- end }}
{{- with $values.affinity }}
{{- $_ := set $spec "affinity" . }}
{{- end }}
{{- if $values.tolerations }}
{{- $_ := set $spec "tolerations" $values.tolerations }}
{{- else }}
{{- $_ := unset $spec "tolerations" }}
{{- end }}
{{- if $values.priorityClassName }}
{{- $_ := set $spec "priorityClassName" $values.priorityClassName }}
{{- else }}
{{- $_ := unset $spec "priorityClassName" }}
{{- end }}
{{- end }}

{{/* Returns the flags that the manager and the agents share, as JSON. */}}
{{- define "bottle-operator.bundleFlags" -}}
{{- $flags := list }}
{{- range .Values.bundle.allowedImages }}
{{- $flags = append $flags (printf "--allowed-bundle-images=%s" .) }}
{{- end }}
{{- toJson $flags }}
{{- end }}
