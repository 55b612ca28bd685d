{{/* What the Pods of all components have in common. */}}

{{/* (list . "lookup" ANNOTATIONS LABELS): the component's own, the last two as dicts. */}}
{{- define "zp.podMetadata" -}}
{{- $top := index . 0 -}}
labels:
  {{- include "zp.selector" (list $top (index . 1)) | nindent 2 }}
  app.kubernetes.io/part-of: {{ $top.Chart.Name }}
  {{- with merge (dict) (index . 3) $top.Values.podLabels $top.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (index . 2) $top.Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "zp.podSpec" -}}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* OpenShift gives each namespace a range of user ids, and refuses a Pod that names another. */}}
{{- define "zp.podSecurityContext" -}}
{{- $context := .Values.podSecurityContext }}
{{- if eq .Values.platform "openshift" }}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" }}
{{- end }}
{{- toYaml $context }}
{{- end }}

{{- define "zp.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Of a section `image`. */}}
{{- define "zp.image" -}}
{{ .repository }}{{ with .tag }}:{{ . }}{{ end }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}

{{/* The environment that a section `settings` makes: dnsTimeout is DNS_TIMEOUT; a list's parts have
commas between them, but spaces where they may have commas themselves. */}}
{{- define "zp.environment" -}}
{{- range $key, $value := . }}
{{- $name := snakecase $key | upper }}
- name: {{ $name }}
  {{- if kindIs "slice" $value }}
  value: {{ join (ternary " " "," (regexMatch "^(AWS|KEPT)_" $name)) $value | quote }}
  {{- else if and (kindIs "float64" $value) (eq (floor $value) $value) }}
  value: {{ int64 $value | quote }}
  {{- else }}
  value: {{ $value | quote }}
  {{- end }}
{{- end }}
{{- end }}
