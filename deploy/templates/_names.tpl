{{/* Names and labels. */}}

{{- define "zp.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Room is left for the longest ending, of names that may have 63 characters. */}}
{{- define "zp.fullname" -}}
{{- $name := include "zp.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Where the service answers, without a path. */}}
{{- define "zp.url" -}}
http://{{ include "zp.fullname" . }}.{{ .Release.Namespace }}.svc:8080
{{- end }}

{{/* By which a component's Pods are found: (list . "lookup"). They never change. */}}
{{- define "zp.selector" -}}
{{- $top := first . -}}
app.kubernetes.io/name: {{ include "zp.name" $top }}
app.kubernetes.io/instance: {{ $top.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{/* The labels of a component's objects: (list . "lookup"). */}}
{{- define "zp.labels" -}}
{{- $top := first . -}}
{{ include "zp.selector" . }}
app.kubernetes.io/part-of: {{ $top.Chart.Name }}
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $top.Release.Service }}
helm.sh/chart: {{ $top.Chart.Name }}-{{ $top.Chart.Version | replace "+" "_" }}
{{- with $top.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Where `helm test` creates its Pod by dry run: in kube-system, Pods are left alone. */}}
{{- define "zp.test.namespace" -}}
{{ ternary "default" .Release.Namespace (eq .Release.Namespace "kube-system") }}
{{- end }}
