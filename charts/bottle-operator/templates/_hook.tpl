{{/*
Prints a Job that Helm runs as a hook, with an account and rights of its own, which are hooks
too. The arguments are root, name, hook (when it runs), subcommand, rules (of a ClusterRole)
and local (the rules of a Role in the release's namespace), the latter two as lists.
*/}}
{{- define "bottle-operator.hook" -}}
{{- $root := .root }}
{{- $name := .name }}
{{- $metadata := dict "name" .name "labels" (include "bottle-operator.labels" .root | fromYaml) }}
{{- $local := merge (dict "namespace" .root.Release.Namespace) $metadata }}
{{- $rights := dict "helm.sh/hook" .hook "helm.sh/hook-weight" "-5" "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded" }}
{{- $subjects := list (dict "kind" "ServiceAccount" "name" .name "namespace" .root.Release.Namespace) }}
{{- $rbac := "rbac.authorization.k8s.io" }}
{{- $objects := list (dict "apiVersion" "v1" "kind" "ServiceAccount" "metadata" (merge (dict "annotations" $rights) $local)) }}
{{- range list (dict "prefix" "Cluster" "rules" .rules "metadata" $metadata) (dict "prefix" "" "rules" .local "metadata" $local) }}
{{- if .rules }}
{{- $kind := printf "%sRole" .prefix }}
{{- $meta := merge (dict "annotations" $rights) .metadata }}
{{- $objects = append $objects (dict "apiVersion" (printf "%s/v1" $rbac) "kind" $kind "metadata" $meta "rules" .rules) }}
{{- $objects = append $objects (dict "apiVersion" (printf "%s/v1" $rbac) "kind" (printf "%sBinding" $kind) "metadata" $meta "roleRef" (dict "apiGroup" $rbac "kind" $kind "name" $name) "subjects" $subjects) }}
{{- end }}
{{- end }}
{{- range $objects }}
---
{{ toYaml . }}
{{- end }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "bottle-operator.labels" .root | nindent 4 }}
  annotations:
    helm.sh/hook: {{ .hook }}
    helm.sh/hook-weight: "0"
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
    helm.sh/hook-output-log-policy: hook-failed
spec:
  backoffLimit: 0
  activeDeadlineSeconds: 240
  template:
    metadata:
      labels:
        {{- include "bottle-operator.labels" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .subcommand }}
    spec:
      serviceAccountName: {{ .name }}
      restartPolicy: Never
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        seccompProfile:
          type: RuntimeDefault
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.manager.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.manager.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ .subcommand }}
          image: {{ include "bottle-operator.image" (dict "image" .root.Values.image "tag" .root.Chart.AppVersion) }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: [{{ .subcommand }}]
          terminationMessagePolicy: FallbackToLogsOnError
          resources:
            requests:
              cpu: 10m
              memory: 32Mi
            limits:
              memory: 128Mi
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
{{- end }}
