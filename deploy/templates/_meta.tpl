{{/* The metadata of a component's object: (list . "relocation" "-relocation"), the last its name's ending. */}}
{{- define "zp.metadata" -}}
{{- $top := index . 0 -}}
name: {{ include "zp.fullname" $top }}{{ index . 2 }}
namespace: {{ $top.Release.Namespace }}
labels:
  {{- include "zp.labels" (list $top (index . 1)) | nindent 2 }}
{{- end }}

{{/* The same of an object without a namespace. */}}
{{- define "zp.clusterMetadata" -}}
{{- $top := index . 0 -}}
name: {{ include "zp.fullname" $top }}{{ index . 2 }}
labels:
  {{- include "zp.labels" (list $top (index . 1)) | nindent 2 }}
{{- end }}
